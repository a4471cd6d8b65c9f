"""The three-way gate: the paper's numbers, its boundaries, and what happens when two of three reviewers are wrong."""

from __future__ import annotations

import asyncio
import json
from statistics import pstdev, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import answer_by_content, make_recipe, make_seeds, said

from gra.config.review import ReviewConfig
from gra.core.types import DIMENSIONS, Candidate, State
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Choice, Completion, Json, ModelId
from gra.ledger.ledger import Ledger
from gra.synthesis.candidate import CandidateSettings, generate_candidate
from gra.synthesis.committee.gate import Gate, decide
from gra.synthesis.committee.members import make_members
from gra.synthesis.committee.roles import random_roles
from gra.synthesis.rounds.round import grow

PAPER = ReviewConfig()
SAMPLE = ReviewConfig(std="sample")


def test_the_papers_worked_case_goes_to_the_adjudicator() -> None:
    spread = 1.6 * (1.5**0.5)  # three scores at 8.2 - d, 8.2, 8.2 + d have population deviation d * sqrt(2/3)
    worked = decide([8.2 - spread, 8.2, 8.2 + spread], PAPER)
    assert (worked.mean, worked.std) == (pytest.approx(8.2), pytest.approx(1.6))
    assert worked.gate is Gate.ADJUDICATE


@pytest.mark.parametrize(
    ("scores", "gate"),
    [
        ([8.0, 8.0, 8.0], Gate.ACCEPT),  # exactly 8 passes
        ([8.0, 8.0, 7.999], Gate.REJECT),
        ([6.5, 9.5], Gate.ACCEPT),  # mean exactly 8, population deviation exactly 1.5
        ([6.49, 9.51], Gate.ADJUDICATE),
        ([10.0, 10.0, 4.0], Gate.ADJUDICATE),
        ([0.0, 10.0, 10.0], Gate.REJECT),  # a low mean is rejected however much they disagree
        ([10.0], Gate.ACCEPT),
        ([7.9], Gate.REJECT),
    ],
)
def test_boundaries(scores: list[float], gate: Gate) -> None:
    assert decide(scores, PAPER).gate is gate


def test_sample_and_population_deviation_can_decide_differently() -> None:
    scores = [6.5, 8.2, 10.0]
    assert decide(scores, PAPER).std == pytest.approx(pstdev(scores))
    assert decide(scores, SAMPLE).std == pytest.approx(stdev(scores))
    assert (decide(scores, PAPER).gate, decide(scores, SAMPLE).gate) == (Gate.ACCEPT, Gate.ADJUDICATE)
    assert decide([9.0], SAMPLE).std == 0.0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=7))
def test_the_order_of_reviewers_does_not_matter_and_every_case_has_its_gate(scores: list[float]) -> None:
    found = decide(scores, PAPER)
    again = decide(sorted(scores), PAPER)
    assert found.mean == pytest.approx(again.mean)
    if found.mean < 8:
        assert found.gate is Gate.REJECT
    else:
        assert found.gate is (Gate.ACCEPT if found.std <= 1.5 else Gate.ADJUDICATE)


def expecting(score: float) -> Completion:
    """Digit probabilities that read as this score, 0-10."""
    low, share = divmod(score * 9 / 10, 1)
    weights = {str(digit): 1e-9 for digit in range(10)} | {str(int(low)): 1 - share, str(int(low) + 1): share}
    return said("8", "length", **weights)


def judged(ledger: Ledger, scores: dict[str, float], adjudicator: float, **review: str) -> Candidate:
    """Run the first candidate, with given scores of its reviewers, in order, and of its adjudicator."""
    made = make_recipe(review={"comments": "never", "ask": "expected", **review})
    assert made.committee is not None
    ids = {name: ModelId(m.model, m.model, "t") for name, m in made.committee.models.items()}
    members = make_members(made.committee, made.review, ids)
    reviewers = [reviewer.name for reviewer in random_roles(members, 3, made.seed, 1, 0).reviewers]
    said_by = dict(zip(reviewers, scores.values(), strict=True))

    def script(call: Call) -> Completion:
        if isinstance(call.output, Choice):
            if set(call.output.labels) == {"yes", "no"}:
                return said("yes", "length", yes=0.9, no=0.1)
            return expecting(adjudicator if call.role == "adjudicator" else said_by[call.member])
        return answer_by_content(call)

    engines = {m.model.name: MockEngine(m.model.name, script) for m in members.values()}
    broker = Broker(ledger, EnginePool(engines, 100.0), backoff_s=0.0)
    return asyncio.run(generate_candidate(CandidateSettings(made, members), broker, grow({}, make_seeds()), 1, 0))


def test_the_papers_worked_case_from_reviews_to_verdict(ledger: Ledger) -> None:
    """Case 2: mean 8.2, deviation 1.6, so it goes to the adjudicator, who gives 8.1, and the sample is kept."""
    apart = 1.6 / 2**0.5  # two above the mean by d and one below by 2d have population deviation d * sqrt(2)
    scores = {"R1": 8.2 + apart, "R2": 8.2 + apart, "R3": 8.2 - 2 * apart}
    kept = judged(ledger, scores, 8.1)
    assert (kept.mean, kept.std) == (pytest.approx(8.2, abs=1e-6), pytest.approx(1.6, abs=1e-6))
    assert (kept.disputed, kept.state, kept.reason) == (True, State.ACCEPTED, "adjudicator kept it")
    assert kept.ruling is not None
    assert (kept.ruling.score, kept.ruling.kept) == (pytest.approx(8.1, abs=1e-6), True)


def test_two_of_three_reviewers_miss_a_fault_and_the_adjudicator_recovers_the_verdict(ledger: Ledger) -> None:
    """Case 1: a majority would keep the error."""
    scores = {"wrong": 10.0 - 1e-6, "wrong too": 9.5, "right": 4.6}
    assert sum(score >= 8 for score in scores.values()) == 2
    caught = judged(ledger, scores, 3.0)
    assert caught.mean is not None
    assert caught.mean >= 8
    assert (caught.disputed, caught.state, caught.reason) == (True, State.REJECTED, "adjudicator rejected it")


def test_wrong_majority_of_reviewers_is_no_dispute(ledger: Ledger) -> None:
    """The paper's gate rejects a low mean without adjudication: the adjudicator can take away, and never rescue."""
    condemned = judged(ledger, {"wrong": 5.0, "wrong too": 6.0, "right": 9.5}, 9.5)
    assert (condemned.disputed, condemned.ruling) == (False, None)
    assert (condemned.state, condemned.reason) == (State.REJECTED, "response: mean score too low")


@pytest.mark.parametrize(("disputed", "state"), [("accept", State.ACCEPTED), ("reject", State.REJECTED)])
def test_without_an_adjudicator_the_recipe_settles_disputes(ledger: Ledger, disputed: str, state: State) -> None:
    settled = judged(ledger, {"R1": 9.9, "R2": 9.5, "R3": 5.0}, 1.0, disputed=disputed)
    assert (settled.disputed, settled.ruling, settled.adjudicator) == (True, None, "")
    assert (settled.state, settled.reason) == (state, f"disputed: {state} without an adjudicator")


@pytest.mark.parametrize(("adjudicator_says", "state"), [(9, State.ACCEPTED), (8, State.ACCEPTED), (7, State.REJECTED)])
def test_when_reviewers_are_wrong_the_adjudicator_decides(
    ledger, scripted_committee, adjudicator_says: int, state: State
) -> None:
    """One reviewer sees the fault that two miss (or the other way round); the fourth opinion is final."""

    def script(call: Call) -> Completion:
        if not (isinstance(call.output, Json) and "correctness" in call.output.schema["properties"]):
            if isinstance(call.output, Json) and "clear" in call.output.schema["properties"]:
                return said(json.dumps(dict.fromkeys(call.output.schema["properties"], True)))
            return answer_by_content(call)
        grade = adjudicator_says if call.role == "adjudicator" else (5 if call.member == dissenter else 10)
        fields = {"comment": "A comment of some length."} if "comment" in call.output.schema["properties"] else {}
        return said(json.dumps(fields | dict.fromkeys(DIMENSIONS, grade)))

    members, _ = scripted_committee(script=script)
    engines = {m.model.name: MockEngine(m.model.name, script) for m in members.values()}
    broker = Broker(ledger, EnginePool(engines, 100.0), backoff_s=0.0)
    setting = CandidateSettings(make_recipe(review={"comments": "never"}), members)
    pool = grow({}, make_seeds())
    dissenter = random_roles(members, 3, 0, 1, 0).reviewers[1].name
    candidate = asyncio.run(generate_candidate(setting, broker, pool, 1, 0))
    assert (candidate.mean, candidate.disputed, candidate.state) == (pytest.approx(25 / 3), True, state)
    assert candidate.ruling is not None
    assert (candidate.ruling.adjudicator, candidate.ruling.score) == (candidate.adjudicator, adjudicator_says)
    assert candidate.adjudicator not in {candidate.generator, *candidate.reviewers}
