"""Best of n: which response is kept, what becomes of the others, and that one response is as before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scripted_rounds import make_setting, run, small
from scripted_run import answer_by_content, make_recipe, make_seeds, open_ledger, said

from gra.core.types import CHECKS, DIMENSIONS, SECOND_BEST, AlternativeResponse, Candidate, Ruling, State
from gra.data.export import lineage_row, preference_rows, worse_responses
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Choice, Completion, Fault, Json, Text
from gra.synthesis.best_of_n import best_by_comparison, pick_best
from gra.synthesis.candidate import generate_candidate
from gra.synthesis.rounds.round import grow

DECIDED = Candidate("r1-000000", 1, 0, "qa", State.REJECTED, "response: mean score too low", mean=5.0)
scores = st.none() | st.floats(0, 10)
decided = st.builds(
    lambda state, mean, ruled: replace(
        DECIDED, state=state, reason=f"it {state}", mean=mean,
        ruling=None if ruled is None else Ruling("judge", {}, ruled, "", True),
    ),
    st.sampled_from([State.ACCEPTED, State.REJECTED, State.FAILED]), scores, scores,
)  # fmt: skip


@given(st.lists(decided, min_size=1, max_size=5))
def test_best_response_is_kept_and_others_become_alternatives(decided: list[Candidate]) -> None:
    taken = pick_best(decided)
    (number,) = set(range(len(decided))) - {response.number for response in taken.alternatives}
    assert replace(taken, alternatives=()) == decided[number]
    assert [d.number for d in taken.alternatives] == [n for n in range(len(decided)) if n != number]
    passed = [d.verdict_score or 0.0 for d in decided if d.state is State.ACCEPTED]
    assert (taken.state is State.ACCEPTED) == bool(passed)
    if passed:
        assert (taken.verdict_score or 0.0) == max(passed)
    for response in taken.alternatives:
        was = decided[response.number]
        assert response.reason == (SECOND_BEST if was.state is State.ACCEPTED else was.reason)
        assert response.verdict_score == was.verdict_score


def run_one(
    folder: Path, decided: int, script: Any = answer_by_content, index: int = 0, **changes: Any
) -> tuple[Candidate, list[Call]]:
    """Run one candidate and record its calls."""
    asked: list[Call] = []

    def note(call: Call) -> Completion | Fault:
        asked.append(call)
        answer: Completion | Fault = script(call)
        return answer

    setting = make_setting(small(best_of=decided, **changes))
    engines = {m.model.name: MockEngine(m.model.name, note) for m in setting.members.values()}
    ledger = open_ledger(folder / f"{decided}.sqlite")
    try:
        broker = Broker(ledger, EnginePool(engines, 100.0), backoff_s=0.0)
        return asyncio.run(generate_candidate(setting, broker, grow({}, make_seeds()), 1, index)), asked
    finally:
        ledger.close()


def good(call: Call) -> Completion | Fault:
    """Make every answer usable; reviewers score the third response highest, then the second."""
    if isinstance(call.output, Text):
        return said(f"Response number {call.sample}.")
    assert isinstance(call.output, Json)
    text = call.messages[-1][1]
    score = 9 if "number 2" in text else 8 if "number 1" in text else 3
    known = dict.fromkeys(DIMENSIONS, score) | dict.fromkeys(CHECKS, True)
    known |= {"keywords": ["tide", "owl", "bread"], "exercise": "Write about tides and owls."}
    return said(json.dumps({name: known[name] for name in call.output.schema["properties"]}))


def test_same_reviewers_score_three_responses_and_the_best_is_kept(tmp_path: Path) -> None:
    ended, asked = run_one(tmp_path, 3, good)
    assert (ended.state, ended.response, ended.mean) == (State.ACCEPTED, "Response number 2.", 9.0)
    assert [(d.number, d.response, d.mean, d.reason) for d in ended.alternatives] == [
        (0, "Response number 0.", 3.0, "response: mean score too low"), (1, "Response number 1.", 8.0, SECOND_BEST)
    ]  # fmt: skip
    assert [[r.reviewer for r in d.reviews] for d in ended.alternatives] == [list(ended.reviewers)] * 2
    assert [pair["score_rejected"] for pair in preference_rows(ended)] == [3.0, 8.0]
    # The candidate holds the cost of all responses, and the keys of all answers.
    assert ended.usage["generator"].calls == 2 + 3
    assert ended.usage["reviewer"].calls == 3 + 3 * 3
    assert len(ended.calls) == len(asked) == 5 + 12


def test_unusable_response_fails_alone(tmp_path: Path) -> None:
    def script(call: Call) -> Completion | Fault:
        return said("I cannot", "refusal") if isinstance(call.output, Text) and call.sample != 1 else good(call)

    ended, _ = run_one(tmp_path, 3, script)
    assert (ended.state, ended.response) == (State.ACCEPTED, "Response number 1.")
    assert [d.reason for d in ended.alternatives] == [f"generator {ended.generator}: refused"] * 2
    assert preference_rows(ended) == []


def test_candidate_fails_when_no_response_is_usable(tmp_path: Path) -> None:
    def script(call: Call) -> Completion | Fault:
        return said("I cannot", "refusal") if isinstance(call.output, Text) else good(call)

    for decided in (1, 3):
        ended, _ = run_one(tmp_path, decided, script)
        assert (ended.state, ended.reason) == (State.FAILED, f"generator {ended.generator}: refused")
        assert len(ended.alternatives) == decided - 1


def test_more_responses_reuse_every_answer_of_one(tmp_path: Path) -> None:
    for index in range(6):
        one, three = run_one(tmp_path, 1, index=index)[0], run_one(tmp_path, 3, index=index)[0]
        assert one.alternatives == ()
        assert set(one.calls) <= set(three.calls)


def test_concurrency_does_not_change_the_best_response(tmp_path: Path) -> None:
    recipe = make_recipe(rounds={"count": 1, "accept": 12, "max_candidates": 12}, best_of=3)
    one, many = run(tmp_path, recipe, 1, up_to_s=0.0), run(tmp_path, recipe, 64)
    assert [lineage_row(c) for c in one.candidates] == [lineage_row(c) for c in many.candidates]
    written = [c for c in one.candidates if c.response]
    assert written
    assert all(len(c.alternatives) == 2 for c in written)
    assert any(preference_rows(c) for c in written)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arm": "vanilla", "committee": None}, "needs reviewers"),
        ({"committee": {"models": {"a": "m", "b": "n"}, "reviewers": 0}}, "needs reviewers"),
        (
            {"committee": {"models": {n: {"model": n, "sampling": {"temperature": 0}} for n in "abcde"}}},
            "would all be the same",
        ),
        ({"best_of": 0}, "greater than or equal to 1"),
        ({"best_of": 1, "best_by": "pairwise"}, "set `best_of` to 2 or more"),
        ({"best_by": "pairwise", "review": {"ask": "logprob", "control_items": 4}}, "asks reviewers in words"),
    ],
)
def test_impossible_best_of_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make_recipe(**{"best_of": 2, **changes})


def test_alternative_has_its_deciding_score() -> None:
    ruling = Ruling("judge", {}, 3.0, "", False)
    assert AlternativeResponse(0, "x", "y", mean=8.5, ruling=ruling).verdict_score == 3.0
    assert AlternativeResponse(0, "x", "y", mean=8.5).verdict_score == 8.5
    assert AlternativeResponse(0, "x", "y").verdict_score is None


@given(st.lists(decided, min_size=2, max_size=5), st.randoms())
def test_comparisons_decide_among_passed_responses(decided: list[Candidate], random: Any) -> None:
    decided = [replace(one, response=f"response {number}") for number, one in enumerate(decided)]
    order = list(range(len(decided)))
    random.shuffle(order)
    passed = [number for number, one in enumerate(decided) if one.state is State.ACCEPTED]

    async def compare(responses: Sequence[str]) -> list[list[float]]:
        ranks = [order[int(text.split()[1])] for text in responses]
        return [[0.5 if a == b else 0.9 if a < b else 0.1 for b in ranks] for a in ranks]

    taken = asyncio.run(best_by_comparison(decided, compare))
    if len(passed) < 2:
        assert taken == pick_best(decided)
        return
    best = min(passed, key=order.__getitem__)
    assert taken.response == f"response {best}"
    for other in taken.alternatives:
        assert other.preferred == (0.1 if other.number in passed else None)
    assert {a.number for a in worse_responses(taken)} == {
        number
        for number, one in enumerate(decided)
        if number != best and one.verdict_score is not None and taken.verdict_score is not None
        and (number in passed or one.verdict_score < taken.verdict_score)
    }  # fmt: skip


def test_pairwise_shows_every_pair_in_both_orders(tmp_path: Path) -> None:
    def script(call: Call) -> Completion | Fault:
        if isinstance(call.output, Choice) and call.output.labels == ("A", "B"):
            shown = call.messages[-1][1]
            first = shown.index("Response number 1.") < shown.index("Response number 2.")
            # Reviewers prefer what stands first, and response 2 a little: only both orders show that.
            return said("A", "length", **({"A": 0.8, "B": 0.2} if first else {"A": 0.9, "B": 0.1}))
        return good(call)

    taken, asked = run_one(tmp_path, 3, script, best_by="pairwise")
    compared = [call for call in asked if isinstance(call.output, Choice)]
    assert len(compared) == 2 * len(taken.reviewers)
    assert taken.response == "Response number 2."
    assert [a.preferred for a in taken.alternatives] == [None, pytest.approx(0.45)]
