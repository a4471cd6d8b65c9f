"""The screen: nothing that repeats a test item gets into a dataset, and every run decides so in the same way."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from resumed_runs import asked, check_same
from resumed_runs import processes as processes
from scripted_run import answer_by_content, content, fake_resolve, make_recipe, said, write_job
from synthesised import command

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError, ModelUnavailable, RecipeError
from gra.core.run_folder import RunFolder
from gra.core.types import AlternativeResponse, Candidate, State
from gra.data.contamination import SuiteItem
from gra.data.export import read_lineage
from gra.engines.types import Call, Completion, Fault, Text
from gra.evaluation.suite import suite_items
from gra.experiment import load_experiment
from gra.serving.models import ModelRegistry
from gra.synthesis import context
from gra.synthesis import job as synthesis_job
from gra.synthesis.committee.no_instruction import INSTRUCTIONS_VERSION
from gra.synthesis.decontamination import Decontaminator, open_decontaminator
from gra.synthesis.funnel import CLEAN
from gra.synthesis.rounds import write_samples

TRAINS = "A train leaves the old harbour at nine and reaches the northern valley before the market closes at noon."
SEED = "Say something about tides for qa ."  # the instruction of the seed qa-0
ITEMS = [("m0", TRAINS), ("m1", SEED), ("m2", "What do worker bees dance for in the dark after they found new clover?")]
REASON = "repeats a test item of sums"
RECIPE: dict[str, Any] = {
    "rounds": {"count": 2, "accept": 30, "max_candidates": 30},
    "review": {"comments": "disputed", "accept_mean": 5.5, "dispute_std": 1.0},
    "contamination": {"suite": "suite.yaml"},
}


def repeating(call: Call) -> Completion | Fault:
    """The scripted committee, of whose responses one in four is a test item, word for word."""
    answer = answer_by_content(call)
    if isinstance(call.output, Text) and isinstance(answer, Completion) and int(content(call), 16) % 4 == 0:
        return said(f"Here is one: {TRAINS}")
    return answer


def write_suite(folder: Path, data: str = "items.jsonl", **task: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": name, "question": question, "answer": "3"} for name, question in ITEMS]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite = {"name": "tiny", "tasks": [{"name": "sums", "kind": "value", "data": data, **task}]}
    (folder / "suite.yaml").write_text(json.dumps(suite), encoding="utf-8")


def prepared(folder: Path, **changes: Any) -> Path:
    write_suite(folder)
    write_job(folder, make_recipe(**RECIPE | changes))
    return folder


def make(folder: Path, kill_after: int = 0) -> None:
    scripted_run.make(folder, kill_after, answer=repeating)


@pytest.fixture(autouse=True)
def _embedder() -> Iterator[None]:
    """`scripted_run.make` puts its own embedder in place; here it shares the process with other tests."""
    before = write_samples.Embedder, write_samples.resolve
    yield
    write_samples.Embedder, write_samples.resolve = before  # type: ignore[misc]


def finished_run(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return read_lineage(folder / "lineage.parquet"), json.loads((folder / "manifest.json").read_text())["synthesis"]


def in_state(rows: list[dict[str, Any]], state: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["state"] == state]


def test_a_response_that_repeats_a_test_item_is_no_row_and_the_lineage_shows_what_matched(tmp_path, capsys) -> None:
    make(prepared(tmp_path))
    rows, facts = finished_run(tmp_path)
    found = in_state(rows, "contaminated")
    assert len(found) > 2
    for row in found:
        assert row["reason"] == REASON
        assert row["contamination"]["row_text"] == row["contamination"]["text"] == TRAINS.rstrip(".")
        assert row["contamination"].items() >= {
            "verdict": "contaminated", "matches": 1, "task": "sums", "item": "m0", "method": "ngram", "longest": 19,
        }.items()  # fmt: skip
    kept = [row for state in ("accepted", "duplicate", "surplus") for row in in_state(rows, state)]
    assert {row["contamination"]["verdict"] for row in kept} == {"clean"}
    assert not any(TRAINS in row["response"] for row in kept)
    assert not any(row["contamination"] for state in ("rejected", "failed") for row in in_state(rows, state))
    check_what_is_said(tmp_path, facts, len(found), len(kept))
    assert command("verify", str(tmp_path)) == 0
    assert command("explain", str(tmp_path), found[0]["candidate_id"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "test items contaminated: item m0 of sums (ngram 1.00, 19 words in a row)" in shown
    assert f"item {TRAINS.rstrip('.')}" in shown


def check_what_is_said(folder: Path, facts: dict[str, Any], contaminated: int, clean: int) -> None:
    """Manifest, funnel and card count alike."""
    assert facts["states"]["contaminated"] == facts["reasons"][REASON] == contaminated
    assert facts["contamination"]["rows"] == {"clean": clean, "suspect": 0, "contaminated": contaminated}
    assert facts["contamination"]["tasks"] == {"sums": contaminated}
    assert (facts["contamination"]["items"], facts["contamination"]["left_out"]) == (3, {})
    assert facts["funnel"][CLEAN] == clean
    card = (folder / "dataset" / "README.md").read_text()
    assert f"{contaminated} repeat one and were left out (sums {contaminated})," in " ".join(card.split())
    assert "Not checked for overlap" not in card


def test_without_the_key_nothing_is_looked_for(tmp_path: Path) -> None:
    make(prepared(tmp_path, contamination=None))
    rows, facts = finished_run(tmp_path)
    assert any(TRAINS in row["response"] for row in in_state(rows, "accepted"))
    assert not any(row["contamination"] for row in rows)
    assert "contamination" not in facts
    assert CLEAN not in facts["funnel"]
    assert "Not checked for overlap" in (tmp_path / "dataset" / "README.md").read_text()


@pytest.mark.parametrize("accept", [30, 5])
def test_the_files_are_the_same_at_any_concurrency_and_after_any_kill(
    processes, tmp_path: Path, monkeypatch, accept: int
) -> None:
    rounds = {"count": 2, "accept": accept, "max_candidates": 30}
    make(prepared(tmp_path / "whole", rounds=rounds))
    assert finished_run(tmp_path / "whole")[1]["states"]["contaminated"]
    prepared(tmp_path / "killed", rounds=rounds)
    questions = len(asked(tmp_path / "whole"))
    for kill_after in (questions // 5, questions // 4, questions // 4, 0):
        process = processes.Process(target=make, args=(tmp_path / "killed", kill_after))
        process.start()
        process.join(60)
        assert process.exitcode == (-signal.SIGKILL if kill_after else 0)
    check_same(tmp_path / "killed", tmp_path / "whole")
    monkeypatch.setattr(context, "candidates_in_flight", lambda concurrency: 1)
    make(prepared(tmp_path / "alone", rounds=rounds))
    check_same(tmp_path / "alone", tmp_path / "whole")


def test_a_suite_named_later_asks_nothing_again(tmp_path: Path) -> None:
    rounds = {"count": 1, "accept": 30, "max_candidates": 30}
    make(prepared(tmp_path, contamination=None, rounds=rounds))
    before, unchecked = asked(tmp_path), finished_run(tmp_path)[1]["states"]
    make(prepared(tmp_path, rounds=rounds))
    states = finished_run(tmp_path)[1]["states"]
    assert asked(tmp_path) == before
    assert states["contaminated"] > 0
    assert states["rejected"] == unchecked["rejected"]


def test_seeds_pass_the_same_screen_in_every_arm_that_keeps_them(tmp_path: Path) -> None:
    plain = {"rounds": {}, "review": {"accept_mean": 0.0, "dispute_std": 10.0}}
    teacher = {"model": "model-t"}
    arms: dict[str, dict[str, Any]] = {
        "vanilla": {"committee": None}, "distilled": {"committee": None, "teacher": teacher}, "refined": {},
    }  # fmt: skip
    for arm, changes in arms.items():
        folder = prepared(tmp_path / arm, arm=arm, **plain | changes)
        scripted_run.make(folder)
        rows, facts = finished_run(folder)
        (found,) = in_state(rows, "contaminated")
        assert (found["candidate_id"], found["contamination"]["item"]) == (f"{arm}-qa-0", "m1")
        assert facts["contamination"]["rows"]["contaminated"] == 1
        assert f"{arm}-qa-1" in {row["candidate_id"] for row in in_state(rows, "accepted")}


def test_a_seed_kept_for_its_rewriting_is_looked_at_too(tmp_path: Path) -> None:
    review = {"accept_mean": 10.0}
    scripted_run.make(prepared(tmp_path, arm="refined", refine={"rejected": "keep"}, review=review))
    rows, _ = finished_run(tmp_path)
    assert {row["candidate_id"]: row["state"] for row in rows if row["candidate_id"].startswith("seed-")} == {
        "seed-qa-0": "contaminated", "seed-qa-1": "accepted", "seed-qa-2": "accepted",
        "seed-math-0": "accepted", "seed-math-1": "accepted", "seed-math-2": "accepted",
    }  # fmt: skip


# --- one candidate --------------------------------------------------------------------------------------------------

ROW = Candidate("r1-000000", 1, 0, "qa", State.ACCEPTED, "reviewers agree", instruction="Hello?", response="Hello.")


def judge(candidate: Candidate) -> Candidate:
    return Decontaminator("suite.yaml", [SuiteItem("sums", name, text) for name, text in ITEMS], {}).check([candidate])[
        0
    ]


def test_alternative_that_repeats_an_item_contaminates_the_candidate() -> None:
    alternatives_ = (
        AlternativeResponse(1, "Nothing.", "a better draft was taken"),
        AlternativeResponse(2, f"So: {TRAINS}", "a better draft was taken"),
    )
    assert judge(replace(ROW, alternatives=alternatives_[:1])).state is State.ACCEPTED
    assert judge(replace(ROW, alternatives=alternatives_)).state is State.CONTAMINATED


def test_what_is_only_suspect_stays_and_is_marked() -> None:
    some = " ".join(TRAINS.split()[5:13])
    judged = judge(replace(ROW, response=f"Once more: {some} and so on it went for them."))
    assert (judged.state, judged.reason) == (State.ACCEPTED, "reviewers agree")
    assert judged.contamination is not None
    assert (judged.contamination.verdict, judged.contamination.text) == ("suspect", some)


# --- recipes --------------------------------------------------------------------------------------------------------


def fingerprint(folder: Path) -> str:
    loaded = load_recipe(folder / "recipe.yaml", SynthesisRecipe)
    job = synthesis_job.Job(
        loaded, RunFolder(folder), folder / "ledger", None, open_decontaminator(loaded, suite_items)
    )

    class Nowhere(ModelRegistry):
        def model_id(self, name: str, adapter: str | None = None) -> Any:
            return replace(scripted_run.ModelId(name, name, "template"), adapter=adapter or "")

    return job.fingerprint(Nowhere(loaded.recipe.engine, {"model-a": fake_resolve("model-a")}))


def test_a_run_is_known_by_the_items_it_was_held_against(tmp_path: Path) -> None:
    with_suite = fingerprint(prepared(tmp_path))
    assert fingerprint(prepared(tmp_path, contamination=None)) != with_suite
    (tmp_path / "moved").mkdir()
    for name in ("suite.yaml", "items.jsonl"):
        (tmp_path / "moved" / name).write_bytes((tmp_path / name).read_bytes())
    write_job(tmp_path, make_recipe(**RECIPE | {"contamination": {"suite": str(tmp_path / "moved" / "suite.yaml")}}))
    assert fingerprint(tmp_path) == with_suite
    rows = (tmp_path / "moved" / "items.jsonl").read_text()
    (tmp_path / "moved" / "items.jsonl").write_text(rows.replace("clover", "heather"))
    assert fingerprint(tmp_path) != with_suite


def test_the_key_does_not_change_what_recipes_without_it_are_known_by(tmp_path: Path, monkeypatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(synthesis_job, "digest", lambda parts: seen.append(parts) or "")
    fingerprint(prepared(tmp_path, contamination=None))
    (parts,) = seen
    assert "contamination" not in json.dumps(parts)
    assert len(parts) == 6
    assert parts[5] == {"instructions": INSTRUCTIONS_VERSION}


def synthesis_of(folder: Path, runs: Path) -> tuple[str, ...]:
    """The command line that makes the arm of a folder."""
    recipe, seeds = str(folder / "recipe.yaml"), f"seeds.source={folder}/seeds.jsonl"
    return "synthesize", recipe, seeds, "--runs", str(runs)


OPTIONAL = {"name": "more", "kind": "letter", "data": "catalog:arc_easy", "optional": True}


@pytest.mark.parametrize("how", [["--dry-run"], []])
def test_a_suite_that_cannot_be_looked_for_ends_the_run_before_it_begins(tmp_path, monkeypatch, capsys, how) -> None:
    monkeypatch.setenv("GRA_OFFLINE", "1")
    folder = prepared(tmp_path, arm="vanilla", committee=None, contamination={"suite": "siute.yaml"})
    run = synthesis_of(folder, tmp_path / "runs")

    def ends(*changes: str) -> tuple[int, str]:
        code = command(*run, *changes, *how)
        return code, capsys.readouterr().err

    code, said = ends()
    assert code == 2
    assert "`siute.yaml` is not there" in said
    write_suite(folder, data="catalog:arc_easy")
    code, said = ends("contamination.suite=suite.yaml")
    assert code == 4
    assert "`contamination.suite: suite.yaml` cannot be looked for: benchmark arc_easy" in said
    assert "Traceback" not in said
    write_suite(folder)
    (folder / "items.jsonl").write_text('{"id": "m0"}\n')
    code, said = ends("contamination.suite=suite.yaml")
    assert code == 2
    assert "items.jsonl:1" in said
    code, said = ends("contamination.siute=suite.yaml")
    assert code == 2
    assert "unknown key `contamination.siute`; did you mean `suite`" in said
    assert not list((tmp_path / "runs").rglob("ledger.sqlite"))


def test_a_task_that_is_left_out_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("GRA_OFFLINE", "1")
    folder = prepared(tmp_path, arm="vanilla", committee=None)
    suite = json.loads((folder / "suite.yaml").read_text())
    (folder / "suite.yaml").write_text(json.dumps(suite | {"tasks": [*suite["tasks"], OPTIONAL]}))
    run = synthesis_of(folder, tmp_path / "runs")
    assert command(*run) == 0
    assert "! more of suite.yaml is not looked for in the rows: benchmark arc_easy" in capsys.readouterr().err
    facts = json.loads((tmp_path / "runs" / "scripted" / "manifest.json").read_text())["synthesis"]
    assert facts["states"] | {"accepted": 5, "contaminated": 1} == facts["states"]
    assert list(facts["contamination"]["left_out"]) == ["more"]
    assert "could not be had: more." in (tmp_path / "runs" / "scripted" / "dataset" / "README.md").read_text()


def test_errors_are_of_their_kind(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GRA_OFFLINE", "1")
    loaded = load_recipe(prepared(tmp_path) / "recipe.yaml", SynthesisRecipe)
    write_suite(tmp_path, data="catalog:arc_easy")
    with pytest.raises(ModelUnavailable, match=r"contamination\.data_dir"):
        open_decontaminator(loaded, suite_items)
    write_suite(tmp_path, data="gone.jsonl")
    with pytest.raises(RecipeError, match=r"gone\.jsonl"):
        open_decontaminator(loaded, suite_items)
    write_suite(tmp_path)
    (tmp_path / "items.jsonl").write_text("")
    with pytest.raises(DataError, match="no rows"):
        open_decontaminator(loaded, suite_items)


def test_an_experiment_knows_at_its_start_that_an_arms_suite_is_not_there(tmp_path: Path) -> None:
    folder = prepared(tmp_path, arm="vanilla", committee=None, contamination={"suite": "gone.yaml"})
    plan = {
        "name": "job", "arms": {"plain": str(folder / "recipe.yaml")}, "baseline": "plain",
        "student": "recipes/smollm2-135m/sft/config_lora.yaml", "suite": "eval/suites/smoke.yaml",
    }  # fmt: skip
    (tmp_path / "experiment.yaml").write_text(json.dumps(plan))
    with pytest.raises(RecipeError, match=r"gone\.yaml` is not there"):
        load_experiment(tmp_path / "experiment.yaml", [], tmp_path / "runs")


def test_real_test_items_among_the_seeds_are_kept_out(tmp_path: Path, shared_data: Path, capsys) -> None:
    """As `gra synthesize` does it, with the benchmarks' own files."""
    suite = {"name": "two", "tasks": [{"name": "gsm8k", "kind": "value", "data": "catalog:gsm8k"},
                                      {"name": "mbpp", "kind": "code", "data": "catalog:mbpp"}]}  # fmt: skip
    with gzip.open(shared_data / "bench" / "gsm8k_test.jsonl.gz", "rt") as lines:
        sums = [json.loads(line)["question"] for _, line in zip(range(30), lines, strict=False)]
    folder = prepared(
        tmp_path,
        arm="vanilla",
        committee=None,
        contamination={"suite": "suite.yaml", "data_dir": str(shared_data / "bench")},
    )
    (folder / "suite.yaml").write_text(json.dumps(suite), encoding="utf-8")
    rows = [{"instruction": f"Solve this:\n{question}", "response": "3", "domain": "math"} for question in sums]
    rows += [
        {"instruction": "Write a poem about a river that forgot its name.", "response": "O river!", "domain": "qa"}
    ]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = synthesis_of(folder, tmp_path / "runs")
    assert command(*run, "--json") == 0
    states = json.loads(capsys.readouterr().out)["states"]
    assert (states["contaminated"], states["accepted"]) == (30, 1)
