"""Functions that members write: kept by control items, weighed with copies merged, run in the sandbox only."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted_run
from scripted_run import answer_by_content, make_recipe, said, write_job

from gra.core.hashing import canonical_json
from gra.data.export import read_lineage
from gra.engines.types import Call, Completion, Fault, Text
from gra.sandbox.job import Limits
from gra.sandbox.permission import CodeExecutionRefused, Permission
from gra.sandbox.sandbox import Sandbox
from gra.stats.aggregation import label_model
from gra.stats.reliability import auc
from gra.synthesis.committee import verifiers
from gra.synthesis.committee.functions import (
    WrittenFunction,
    choose_functions,
    collect_votes,
    fit_functions,
    score_ways,
)
from gra.synthesis.measuring import functions

PERMISSION = Permission("a test")
FUNCTIONS = {"kind": "functions", "mode": "score"}


def simulate(items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Voters of accuracy .9, .75 and .7, which abstain on 30 %, and a voter of .62 with three copies."""
    rng = np.random.default_rng(seed)
    good = rng.random(items) < 0.5
    rows = [np.where(rng.random(items) < accuracy, good, ~good).astype(float) for accuracy in (0.9, 0.75, 0.7, 0.62)]
    for row in rows:
        row[rng.random(items) < 0.3] = np.nan
    return good, np.array([*rows, rows[3], rows[3], rows[3]])


@pytest.mark.parametrize("seed", range(3))
def test_merged_copies_lose_to_the_label_model_and_win_a_majority(seed: int) -> None:
    good, votes = simulate(600, seed)
    model = label_model(votes)
    found = {name: auc(scores[good], scores[~good]) for name, scores in score_ways(model, votes).items()}
    assert found["label_model"] > max(found["majority"], found["best_function"]) + 0.03
    assert (3, 4, 5, 6) in model.groups


def test_verdict_on_a_new_item_is_that_of_the_fitted_items() -> None:
    _, votes = simulate(200, 0)
    model = label_model(votes)
    judged = [model.judge(column) for column in votes.T]
    assert [p for p in judged if p is not None] == pytest.approx(
        [p for p, again in zip(model.right, judged, strict=True) if again is not None], abs=1e-4
    )
    assert model.judge([np.nan] * 7) is None


def test_functions_are_kept_that_separate_good_from_bad() -> None:
    good = np.array([True] * 6 + [False] * 6)
    right, always, wrong, silent = good * 1.0, np.ones(12), (~good) * 1.0, np.full(12, np.nan)
    half = np.where(np.arange(12) % 3 == 0, np.nan, right)
    assert choose_functions(np.array([always, half, wrong, silent, right]), good) == [1, 4]
    written = [WrittenFunction("a", n, "") for n in range(3)]
    nothing = fit_functions(written, np.array([always, wrong, silent]), good, np.zeros(12, bool))
    assert nothing.model is None
    assert nothing.facts["kept"] == 0


def test_held_out_votes_measure_and_fit_nothing() -> None:
    good, votes = simulate(80, 0)
    held = np.arange(80) % 4 == 0
    written = [WrittenFunction("a", n, "") for n in range(len(votes))]
    found = fit_functions(written, votes, good, held)
    other = fit_functions(written, np.where(held, 1 - votes, votes), good, held)
    assert (other.functions, other.model) == (found.functions, found.model)
    assert other.facts["accuracy"] == found.facts["accuracy"]
    assert other.facts["held_out"]["auc"] != found.facts["held_out"]["auc"]


def test_votes_come_from_the_sandbox_and_what_fails_abstains() -> None:
    codes = [
        "def check(i, r):\n    return 'yes' in r",
        "def check(i, r):\n    return None if i == 'b' else 1 / 0",
        "def check(i, r):\n    return 'no verdict'",
        "import os\ndef check(i, r):\n    os._exit(0)",
        "def check(i, r):\n    while True: pass",
    ]
    sandbox = Sandbox(PERMISSION, Limits(cpu_s=1))
    written = [WrittenFunction("a", n, code) for n, code in enumerate(codes)]
    items = [("a", "yes '\"\n"), ("b", "no")]
    votes = asyncio.run(collect_votes(sandbox, asyncio.Semaphore(2), written, items))
    assert votes[0].tolist() == [1.0, 0.0]
    assert np.isnan(votes[1:]).all()


CHECK = "```python\ndef check(instruction, response):\n    return response in instruction\n```"


def write(call: Call) -> Completion | Fault:
    """Write a function that knows, one that always agrees, and no function; responses repeat a word of the exercise."""
    prompt = call.messages[-1][1]
    if not isinstance(call.output, Text):
        return answer_by_content(call)
    if prompt.startswith("Answers to exercises"):
        return said(
            {"a": CHECK, "b": "def check(instruction, response):\n    return True"}.get(call.member, "I cannot.")
        )
    return said(prompt.split()[1] if "owls" in prompt else "zebra")


async def without_sandbox(_: Sandbox, __: asyncio.Semaphore, written: list[WrittenFunction], items: Any) -> np.ndarray:
    """Vote as the two functions of `write` do; a process for each vote would take seconds."""
    return np.array([[float("in instruction" not in f.code or r in i) for i, r in items] for f in written])


def test_functions_give_one_vote_in_the_review_and_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (verifiers, functions):
        monkeypatch.setattr(module, "collect_votes", without_sandbox)
    recipe = make_recipe(arm="refined", refine={"writes": "answer"}, domains=["qa"],
                         review={"comments": "never", "verifiers": [FUNCTIONS], "accept_mean": 5.0})  # fmt: skip
    write_job(tmp_path, recipe)
    rows = [{"id": f"s{n}", "domain": "qa", "instruction": f"Name the animal w{n} of {scripted_run.TOPICS[n % 12]} .",
             "response": f"w{n}"} for n in range(18)]  # fmt: skip
    (tmp_path / "seeds.jsonl").write_text("".join(canonical_json(row) + "\n" for row in rows))
    scripted_run.make(tmp_path, answer=write, permission=PERMISSION)
    facts: dict[str, Any] = json.loads((tmp_path / "manifest.json").read_text())["synthesis"]
    found = facts["functions"]["qa"]
    assert (found["written"], found["kept"], list(found["accuracy"])) == (4, 1, ["a-0"])  # a-1 is a copy
    assert found["held_out"]["auc"]["label_model"] == 1.0
    assert facts["code_execution"]["allowed_by"] == "a test"
    for row in read_lineage(tmp_path / "lineage.parquet"):
        (verdict,) = row["programs"]
        assert verdict["outcome"] == ("passed" if "owls" in row["instruction"] else "failed")
        assert "a-0" in str(verdict)
    asked = (tmp_path / "asked.txt").read_text()
    scripted_run.make(tmp_path, answer=write, permission=PERMISSION)
    assert (tmp_path / "asked.txt").read_text() == asked


def test_functions_without_permission_are_refused_before_anything_is_spent(tmp_path: Path) -> None:
    write_job(tmp_path, make_recipe(arm="refined", review={"verifiers": [FUNCTIONS]}))
    with pytest.raises(CodeExecutionRefused, match=r"`kind: functions` of `review.verifiers` runs code"):
        scripted_run.make(tmp_path, answer=write)
    assert (tmp_path / "asked.txt").read_text() == ""


def test_only_drawing_verifiers_take_draws() -> None:
    make_recipe(review={"verifiers": [{**FUNCTIONS, "draws": 3}]})
    with pytest.raises(ValueError, match="`by` belongs to `kind: consistency`"):
        make_recipe(review={"verifiers": [{**FUNCTIONS, "by": "author"}]})
