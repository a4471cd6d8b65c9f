"""Rounds of a run that is started again: what ended is not gone through anew, and what was paid for stays."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from scripted_rounds import run, small
from scripted_run import WordEmbedder, answer_by_content, make_recipe, make_seeds

from gra.core.errors import DataError, EngineUnavailable
from gra.engines.types import Call, Completion
from gra.ledger.schema import seal_verdict


def test_a_round_that_ended_is_not_gone_through_again(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "ended.sqlite"
    first = run(tmp_path, small(seed=3), 64, path=path)

    with monkeypatch.context() as patch:
        patch.setattr(WordEmbedder, "encode", never)
        assert run(tmp_path, small(seed=3), 8, never, path=path) == first
    more = make_recipe(rounds={"count": 1, "accept": 10, "max_candidates": 120}, seed=3)
    fuller = run(tmp_path, more, 8, path=path)
    assert len(fuller.accepted) == 10
    responses = [candidate.response for candidate in first.candidates]
    assert [candidate.response for candidate in fuller.candidates[: len(responses)]] == responses


def test_first_recipe_replays_its_answers_after_another_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "both.sqlite"
    first = run(tmp_path, small(seed=3), 8, path=path)
    asked = 0

    def lost(call: Call) -> Completion:
        nonlocal asked
        asked += 1
        if asked > 60:
            raise EngineUnavailable("lost")
        return answer_by_content(call)

    with pytest.raises(EngineUnavailable):
        run(tmp_path, small(seed=3), 8, lost, path=path, seeds=make_seeds(4))
    assert run(tmp_path, small(seed=3), 1, never, path=path).candidates == first.candidates


def never(*_: Any) -> Any:
    raise AssertionError("nothing is asked or embedded again")


def test_a_verdict_that_another_run_took_away_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    run(tmp_path, small(), 8, path=path)
    with sqlite3.connect(path) as db:
        db.create_function("seal_verdict", 3, seal_verdict)
        db.execute("UPDATE verdicts SET story = replace(story, '\"scope\": \"', '\"scope\": \"of another ') "
                   "WHERE candidate = 'r1-000002'")  # fmt: skip
        db.execute("UPDATE verdicts SET seal = seal_verdict(run, candidate, story)")
    with pytest.raises(DataError, match=r"the verdict on r1-000002 is no longer in .* give each its own `name`"):
        run(tmp_path, small(), 8, path=path)


def test_running_again_with_a_spent_budget_keeps_every_finished_row(tmp_path: Path) -> None:
    """What was paid for does not vanish because there is no money left to look at it."""
    recipe = make_recipe(rounds={"count": 1, "accept": 200, "max_candidates": 200})
    path = tmp_path / "budget.sqlite"
    first = run(tmp_path, recipe, 8, path=path, token_budget=20_000)
    asked: list[Call] = []

    def script(call: Call) -> Completion:
        asked.append(call)
        return answer_by_content(call)

    again = run(tmp_path, recipe, 8, script, path=path, token_budget=20_000)
    assert (again.stopped, asked) == ("budget", [])
    assert again.candidates == first.candidates
    more = run(tmp_path, recipe, 8, path=path, token_budget=30_000)
    assert more.candidates[: len(first.candidates)] != []
    assert len(more.candidates) > len(first.candidates)
