"""The three-way gate: the paper's numbers, its boundaries, and what happens when two of three reviewers are wrong."""

from __future__ import annotations

import asyncio
import json
from statistics import pstdev, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import answer_by_content, make_recipe, make_seeds, said

from gra.core.records import DIMENSIONS, State
from gra.core.schema import Review
from gra.engines.broker import Broker, EnginePool
from gra.engines.protocol import Call, Completion, Json
from gra.engines.scripted import ScriptedEngine
from gra.synthesis.committee import draw_roles
from gra.synthesis.consensus import Gate, decide
from gra.synthesis.rounds import grow
from gra.synthesis.story import Setting, live

PAPER = Review()
SAMPLE = Review(std="sample")


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
    engines = {m.model.name: ScriptedEngine(m.model.name, script) for m in members.values()}
    broker = Broker(ledger, EnginePool(engines, 100.0), backoff_s=0.0)
    setting = Setting(make_recipe(review={"comments": "never"}), members)
    pool = grow({}, make_seeds())
    dissenter = draw_roles(members, 3, 0, 1, 0).reviewers[1].name
    candidate = asyncio.run(live(setting, broker, pool, 1, 0))
    assert (candidate.mean, candidate.disputed, candidate.state) == (pytest.approx(25 / 3), True, state)
    assert candidate.ruling is not None
    assert (candidate.ruling.adjudicator, candidate.ruling.score) == (candidate.adjudicator, adjudicator_says)
    assert candidate.adjudicator not in {candidate.generator, *candidate.reviewers}
