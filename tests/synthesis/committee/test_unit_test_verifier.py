"""Unit tests as a reviewer: answers that pass, fail, hang, hold no program or fight back, in the real sandbox."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from rich.console import Console
from scripted_run import JitteryEngine, answer_by_content, make, make_recipe, open_ledger, said, write_job
from verified_candidates import committee

from gra.cli.main import main
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError
from gra.core.hashing import canonical_json
from gra.core.types import Abstained, Candidate, Seed, State, Verified
from gra.data.export import read_candidates
from gra.data.seeds.load import load_seeds
from gra.engines.broker import Broker, EnginePool
from gra.engines.types import Call, Completion, Fault, ModelId, Text
from gra.experiment import load_experiment
from gra.runs.explain import explain
from gra.sandbox.job import Limits
from gra.sandbox.permission import FLAG, CodeExecutionRefused, Permission
from gra.synthesis.candidate import CandidateSettings, refine_seed
from gra.synthesis.committee.members import make_members
from gra.synthesis.committee.verifiers import UnitTestVerifier, make_verifiers

fresh = itertools.count()
PERMISSION = Permission("a test")
FILTER = {"kind": "tests", "mode": "filter"}
SCORE = {"kind": "tests", "mode": "score"}
TESTS = "assert double(2) == 4\nassert double(-1) == -2\n"
RIGHT = "Here it is:\n\n```python\ndef double(n):\n    return 2 * n\n```"
WRONG = "```python\ndef double(n):\n    return n * n\n```"
EVERY_TEST = "every test that came with the instruction"


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnitTestVerifier, "limits", Limits(cpu_s=1, wall_s=20.0))


def recipe_with(section: dict[str, Any], **changes: Any) -> SynthesisRecipe:
    return make_recipe(arm="refined", review={"comments": "never", "verifiers": [section]}, **changes)


def judged(folder: Path, response: str, tests: str = TESTS, section: dict[str, Any] = FILTER) -> Candidate:
    """Return the candidate of one seed whose refined response is given."""
    recipe = recipe_with(section)
    assert recipe.committee is not None
    ids = {name: ModelId(m.model, f"sha256:{m.model}", "t") for name, m in recipe.committee.models.items()}
    members = make_members(recipe.committee, recipe.review, ids)
    setting = CandidateSettings(recipe, members, verifiers=make_verifiers(recipe.review.verifiers, members, PERMISSION))
    seed = Seed("s1", "math", "Write double(n).", RIGHT, tests=tests)
    ledger = open_ledger(folder / f"{next(fresh)}.sqlite")
    try:
        script = committee("unused", response)
        pool = EnginePool({m.model.name: JitteryEngine(m.model.name, script) for m in members.values()}, 100.0)
        return asyncio.run(refine_seed(setting, Broker(ledger, pool, backoff_s=0.0), 0, seed))
    finally:
        ledger.close()


def test_a_right_program_passes_and_the_committee_goes_on(tmp_path: Path) -> None:
    ended = judged(tmp_path, RIGHT)
    assert ended.verifications == (Verified("tests", "filter", (EVERY_TEST,), (), 10.0),)
    assert (ended.state, ended.mean, ended.tests) == (State.ACCEPTED, 9.0, TESTS)


def test_a_wrong_program_is_rejected_before_a_reviewer_is_asked(tmp_path: Path) -> None:
    ended = judged(tmp_path, WRONG)
    assert (ended.state, ended.reason) == (State.REJECTED, "program tests: its tests do not pass")
    (verdict,) = ended.verifications
    assert isinstance(verdict, Verified)
    assert verdict.broken == ("failed: AssertionError in `assert double(-1) == -2`",)
    assert (ended.reviews, ended.mean) == ((), None)


@pytest.mark.parametrize(("response", "score"), [(RIGHT, 10.0), (WRONG, 0.0)])
def test_scoring_test_verifier_gives_ten_or_zero(tmp_path: Path, response: str, score: float) -> None:
    ended = judged(tmp_path, response, section=SCORE)
    assert ended.mean == pytest.approx((9 + 9 + 9 + score) / 4)
    assert len(ended.reviews) == 3


def test_verifier_abstains_without_tests(tmp_path: Path) -> None:
    ended = judged(tmp_path, RIGHT, tests="")
    assert ended.verifications == (Abstained("tests", "filter", "no tests came with the instruction"),)
    assert ended.state is State.ACCEPTED


def test_an_answer_without_a_program_cannot_pass(tmp_path: Path) -> None:
    (verdict,) = judged(tmp_path, "You multiply it by two.").verifications
    assert isinstance(verdict, Verified)
    assert verdict.broken == ("the response holds no program",)


@pytest.mark.parametrize(
    "body",
    ["while True: pass", "import time; time.sleep(60)"],
    ids=["busy", "asleep"],
)
def test_a_hanging_answer_is_ended_by_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    monkeypatch.setattr(UnitTestVerifier, "limits", Limits(cpu_s=1, wall_s=3.0))
    (verdict,) = judged(tmp_path, f"```python\ndef double(n):\n    {body}\n```").verifications
    assert isinstance(verdict, Verified)
    assert verdict.broken[0].startswith("timeout")


HOSTILE = {
    "leaves with success": "import os\ndef double(n):\n    os._exit(0)",
    "ends the interpreter": "import sys\ndef double(n):\n    sys.exit(0)",
    "equals everything": "class Any:\n    def __eq__(self, other): return True\ndef double(n): return Any()",
    "patches the checker": "import builtins\nbuiltins.AssertionError = KeyError\ndef double(n): return 0",
    "writes a file": "def double(n):\n    open('{place}', 'w').write('here')\n    return 2 * n",
    "starts a program": "import subprocess\ndef double(n):\n    subprocess.run(['touch', '{place}'])\n    return 2 * n",
}


@pytest.mark.parametrize("attempt", HOSTILE)
def test_a_hostile_answer_neither_passes_nor_touches_the_machine(tmp_path: Path, attempt: str) -> None:
    place = tmp_path / "written"
    program = HOSTILE[attempt].replace("{place}", str(place))
    ended = judged(tmp_path, f"```python\n{program}\n```")
    assert ended.state is State.REJECTED
    assert ended.verifications[0].outcome == "failed"
    assert not place.exists()


# ---- permission ---------------------------------------------------------------------------------------------


def test_no_permission_no_program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("gra.synthesis.run.is_downloaded", lambda name: True)
    with pytest.raises(
        CodeExecutionRefused, match=r"`kind: tests` of `review\.verifiers` runs code that a model wrote"
    ):
        make_verifiers(recipe_with(FILTER).review.verifiers, {})
    write_job(tmp_path, recipe_with(FILTER))
    arguments = ["synthesize", str(tmp_path / "recipe.yaml"), "--dry-run", "--runs", str(tmp_path)]
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert "pass --allow-code-execution" in capsys.readouterr().err
    with pytest.raises(SystemExit) as allowed:
        main([*arguments, "--allow-code-execution"])
    assert allowed.value.code == 0
    assert "nothing was spent" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["tests", "functions"])
def test_an_experiment_says_it_for_its_arms(tmp_path: Path, kind: str) -> None:
    write_job(tmp_path, recipe_with({**FILTER, "kind": kind}))
    root = ROOT
    recipe = {
        "name": "x", "arms": {"r": str(tmp_path / "recipe.yaml")}, "baseline": "r",
        "student": str(root / "recipes/gemma-3-270m/sft/config_lora.yaml"),
        "suite": str(root / "eval/suites/smoke.yaml"),
    }  # fmt: skip
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises(CodeExecutionRefused, match=rf"`kind: {kind}` .*`allow_code_execution: true`"):
        load_experiment(path, [], tmp_path)
    assert load_experiment(path, ["allow_code_execution=true"], tmp_path).recipe.allow_code_execution


def test_a_plan_runs_nothing_and_needs_the_word_that_the_run_will_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gra.forecast.memory.cached", lambda name: False)
    write_job(tmp_path, recipe_with(FILTER))
    asked = ["plan", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as refused:
        main(asked)
    assert refused.value.code == 2
    assert "`kind: tests`" in capsys.readouterr().err
    with pytest.raises(SystemExit) as allowed:
        main([*asked, FLAG])
    assert allowed.value.code == 0
    assert "a mock run on stub models" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


# ---- from the seed file to the lineage -----------------------------------------------------------------------


def test_tests_are_read_from_seed_rows_and_bad_ones_are_set_aside(tmp_path: Path) -> None:
    row = {"domain": "math", "instruction": "Write double(n).", "response": RIGHT}
    rows = [{**row, "tests": TESTS}, row, {**row, "tests": "assert ("}, {**row, "tests": ["assert True"]}]
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(canonical_json(r) + "\n" for r in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"seeds\.jsonl:3: `tests` is not Python .*\n.*:4: `tests` must be Python code"):
        load_seeds(path, ["math"])
    path.write_text("".join(canonical_json(r) + "\n" for r in rows[:2]), encoding="utf-8")
    assert [seed.tests for seed in load_seeds(path, ["math"]).rows] == [TESTS, ""]


def test_a_whole_run_records_verdicts_and_where_programs_ran(tmp_path: Path) -> None:
    def answer(call: Call) -> Completion | Fault:
        if isinstance(call.output, Text) and call.role == "generator":
            return said(RIGHT if "s-right" in call.messages[-1][1] else WRONG)
        return answer_by_content(call)

    write_job(tmp_path, recipe_with(FILTER))
    rows = [
        {"id": f"s-{name}", "domain": "math", "instruction": f"Write double(n), case s-{name}.", "response": "…",
         **({"tests": TESTS} if name != "bare" else {})}
        for name in ("right", "wrong", "bare")
    ]  # fmt: skip
    (tmp_path / "seeds.jsonl").write_text("".join(canonical_json(row) + "\n" for row in rows), encoding="utf-8")
    make(tmp_path, answer=answer, permission=PERMISSION)
    by_seed = {c.parents[0]: c for c in read_candidates(tmp_path / "lineage.parquet")}
    assert {name: c.verifications[0].outcome for name, c in by_seed.items()} == {
        "s-right": "passed", "s-wrong": "failed", "s-bare": "abstained",
    }  # fmt: skip
    assert by_seed["s-wrong"].reason == "program tests: its tests do not pass"
    assert (by_seed["s-right"].tests, by_seed["s-bare"].tests) == (TESTS, "")
    facts = json.loads((tmp_path / "manifest.json").read_text())["synthesis"]
    assert facts["code_execution"]["allowed_by"] == "a test"
    assert facts["programs"]["tests"] == {"takes": "veto", "passed": 1, "failed": 1, "abstained": 1}
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(explain(tmp_path, by_seed["s-wrong"].id))
    page = console.export_text()
    assert "assert double(2) == 4" in page
    assert "broken: failed: AssertionError in `assert double(-1) == -2`" in page


def test_a_recipe_whose_responses_have_no_tests_says_so(tmp_path: Path) -> None:
    def notes(folder: Path, **changes: Any) -> str:
        write_job(folder, make_recipe(review={"comments": "never", "verifiers": [FILTER]}, **changes))
        make(folder, permission=PERMISSION)
        return (folder / "log.jsonl").read_text(encoding="utf-8")

    rounds = {"count": 1, "accept": 2, "max_candidates": 4}
    assert "`arm: gra` writes new instructions, which have no tests" in notes(tmp_path / "gra", rounds=rounds)
    assert "no seed has `tests`" in notes(tmp_path / "refined", arm="refined")
