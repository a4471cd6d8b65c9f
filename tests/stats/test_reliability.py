"""What reviewers are worth: AUC, calibration, and the planted pairs they are measured on."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import answer_by_content, make_seeds, said

from gra.core.errors import EngineUnavailable, ModelUnavailable
from gra.core.types import DIMENSIONS
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Completion, Fault, Json
from gra.ledger.ledger import Ledger
from gra.stats.reliability import Logistic, auc, calibrate, logistic
from gra.synthesis.measuring.calibration import committee_auc, make_control_items, measure_reviewer

scores = st.lists(st.floats(0, 10) | st.integers(0, 10).map(float), min_size=1, max_size=12)


@given(scores, scores)
def test_auc_is_the_share_of_pairs_in_the_right_order(good: list[float], bad: list[float]) -> None:
    pairs = [1.0 if g > b else 0.5 if g == b else 0.0 for g, b in itertools.product(good, bad)]
    assert auc(good, bad) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(good, bad) + auc(bad, good) == pytest.approx(1.0)


def test_auc_needs_both_kinds() -> None:
    for good, bad in (([], [1.0]), ([1.0], [])):
        with pytest.raises(ValueError, match="at least one"):
            auc(good, bad)


@given(scores, scores)
def test_a_calibration_is_finite_monotone_and_a_probability(good: list[float], bad: list[float]) -> None:
    fitted = calibrate(good, bad)
    grid = [fitted(x) for x in np.linspace(-5, 15, 41)]
    assert all(math.isfinite(y) and 0 <= y <= 10 for y in grid)
    assert all(low <= high + 1e-9 for low, high in itertools.pairwise(grid))


def test_perfect_separation_is_finite_and_sure_but_not_certain() -> None:
    fitted = calibrate([9.0] * 20, [1.0] * 20)
    assert 8.5 < fitted(9.0) < 10.0
    assert 0.0 < fitted(1.0) < 1.5
    assert math.isfinite(fitted.slope)


def test_more_evidence_makes_it_surer() -> None:
    few, many = calibrate([9.0] * 2, [1.0] * 2), calibrate([9.0] * 200, [1.0] * 200)
    assert many(9.0) > few(9.0) > 5.0


def test_a_reviewer_worse_than_chance_gets_a_flat_map() -> None:
    fitted = calibrate([1.0, 2.0, 3.0] * 5, [7.0, 8.0, 9.0] * 5)
    assert fitted.slope == 0.0
    assert fitted(0.0) == fitted(10.0) == pytest.approx(5.0)
    assert calibrate([1.0] * 30, [9.0] * 10)(5.0) == pytest.approx(7.5)  # flat at the share of good samples


def test_a_reviewer_that_always_says_the_same_is_no_opinion() -> None:
    fitted = calibrate([10.0] * 8, [10.0] * 8)
    assert fitted(10.0) == pytest.approx(5.0)


@given(st.floats(0.05, 40), st.floats(-50, 50))
def test_the_scale_a_reviewer_answers_on_does_not_matter(stretch: float, shift: float) -> None:
    """Nats, digits or probabilities: the calibrated score is the same."""
    good, bad = [6.0, 8.0, 9.0, 5.0], [2.0, 6.5, 3.0, 1.0]
    plain = calibrate(good, bad)
    moved = calibrate([stretch * x + shift for x in good], [stretch * x + shift for x in bad])
    for x in (1.0, 5.0, 9.0):
        assert moved(stretch * x + shift) == pytest.approx(plain(x), abs=1e-4)


wide = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


@given(wide, wide, st.floats(-1e300, 1e300))
def test_calibration_never_overflows(good: list[float], bad: list[float], raw: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = calibrate(good, bad)
        assert 0.0 <= fitted(raw) <= 10.0
        low, high = min(good + bad), max(good + bad)
        assert fitted(low) <= fitted(high) + 1e-9


def test_logistic_is_sure_far_from_zero() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logistic(np.array([-1e6, 0.0, 1e6])) == pytest.approx([0.0, 0.5, 1.0])
        assert Logistic(5.0, 1.0, 1e6, 0.0)(0.0) == pytest.approx(0.0)


def test_calibration_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="at least one"):
        calibrate([], [1.0])


# --- planted pairs --------------------------------------------------------------------------------------------------


def test_planted_pairs_take_domains_in_turn_and_swap_within_them() -> None:
    seeds = make_seeds(3)
    domain_of = {seed.response: {s.domain for s in seeds if s.response == seed.response} for seed in seeds}
    control_items = make_control_items(seeds, 4, seed=0)
    assert sorted(sample.domain for sample, _ in control_items) == ["math", "math", "qa", "qa"]
    assert len({sample.id for sample, _ in control_items}) == 4
    for sample, wrong in control_items:
        assert wrong != sample.response
        assert sample.domain in domain_of[wrong]
    assert make_control_items(seeds, 4, seed=0) == control_items
    assert make_control_items(seeds, 4, seed=1) != control_items
    assert len(make_control_items(seeds, 99, seed=0)) == len(seeds)


def make_broker(ledger: Ledger, members: Any, script: Any) -> Broker:
    names = {member.model.name for member in members.values()}
    return Broker(ledger, EnginePool({n: MockEngine(n, script) for n in names}, 100.0), backoff_s=0.0)


def test_good_reviewers_measure_well_and_coins_do_not(ledger: Ledger, scripted_committee) -> None:
    seeds = make_seeds(6)

    def script(call: Call) -> Completion:
        fields = call.output.schema["properties"] if isinstance(call.output, Json) else {}
        if "correctness" not in fields:
            return answer_by_content(call)
        prompt = call.messages[-1][1]
        right = any(f"{s.instruction}\n" in prompt and f"<answer>\n{s.response}\n" in prompt for s in seeds)
        grade = 9 if right else 2
        return said(json.dumps(dict.fromkeys(DIMENSIONS, 7 if call.member == "b" else grade)))

    members, _ = scripted_committee("ab", script)
    broker = make_broker(ledger, members, script)
    control_items = make_control_items(seeds, 12, seed=0)

    async def both() -> list[Any]:
        return [await measure_reviewer(broker, member, control_items) for member in members.values()]

    sharp, coin = asyncio.run(both())
    assert (sharp.auc, coin.auc) == (1.0, 0.5)
    assert sharp.calibration(9.0) > 8 > 2 > sharp.calibration(2.0)
    assert coin.calibration(7.0) == pytest.approx(5.0)
    assert committee_auc([sharp, coin]) == 1.0
    assert committee_auc([coin]) == 0.5
    assert json.loads(json.dumps(sharp.to_json()))["auc"] == 1.0
    assert set(sharp.thresholds) == {"reasonable", "complete", "clear"}
    assert all(0 <= threshold <= 0.5 for threshold in sharp.thresholds.values())


def test_a_pair_without_a_usable_answer_is_left_out_and_counted(ledger: Ledger, scripted_committee) -> None:
    def script(call: Call) -> Completion:
        if isinstance(call.output, Json) and "owls" in call.messages[-1][1]:
            return said('{"correctness": 1', "length")
        return answer_by_content(call)

    members, _ = scripted_committee("a", script)
    found = asyncio.run(
        measure_reviewer(
            make_broker(ledger, members, script), members["a"], make_control_items(make_seeds(3), 6, seed=0)
        )
    )
    assert found.unanswered > 0
    assert found.to_json()["unanswered"] == found.unanswered
    assert len(found.good) + len(found.bad) + found.unanswered == 12
    assert 0 < committee_auc([found]) <= 1


def test_a_reviewer_that_never_answers_is_an_error_with_what_to_do(ledger: Ledger, scripted_committee) -> None:
    members, _ = scripted_committee("a")
    broker = make_broker(ledger, members, lambda call: said("I would rather not"))
    with pytest.raises(ModelUnavailable, match=r"`a` .*no usable answer to any control item .*another `ask`"):
        asyncio.run(measure_reviewer(broker, members["a"], make_control_items(make_seeds(3), 6, seed=0)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("died", "its process is gone"), r"could not be asked .*is gone\); run the same command again"),
        (Fault("error", "labels do not differ", permanent=True), r"labels do not differ\); give it another `ask`"),
    ],
)
def test_a_reviewer_is_blamed_only_for_what_would_come_again(ledger, scripted_committee, fault, message) -> None:
    members, _ = scripted_committee("a")
    broker = make_broker(ledger, members, lambda call: fault)
    broker._backoff = 0.0
    with pytest.raises(ModelUnavailable, match=message):
        asyncio.run(measure_reviewer(broker, members["a"], make_control_items(make_seeds(3), 6, seed=0)))


def test_items_that_infrastructure_lost_are_asked_again_and_never_left_out(ledger, scripted_committee) -> None:
    """Calibrating without them would give another start, which asks them, other scores."""
    failures = 0

    def lost(call: Call) -> Completion | Fault:
        nonlocal failures
        if "owls" in call.messages[-1][1] and failures < limit:
            failures += 1
            return Fault("died", "its process is gone")
        return answer_by_content(call)

    members, _ = scripted_committee("a")
    items = make_control_items(make_seeds(3), 6, seed=0)
    limit = 10**9
    broker = make_broker(ledger, members, lost)
    broker._backoff = 0.0
    with pytest.raises(ModelUnavailable, match=r"could not be asked about \d of the control items .*is gone"):
        asyncio.run(measure_reviewer(broker, members["a"], items))
    failures, limit = 0, 3  # the broker's attempts; then the engine is there again
    broker = make_broker(ledger, members, lost)
    broker._backoff = 0.0
    again = asyncio.run(measure_reviewer(broker, members["a"], items))
    assert failures == 3
    assert len(again.good) + len(again.bad) + again.unanswered == 12


def test_an_engine_that_is_lost_while_measuring_is_not_taken_for_a_bad_reviewer(ledger, scripted_committee) -> None:
    def lost(call: Call) -> Completion | Fault:
        raise EngineUnavailable("lost")

    members, _ = scripted_committee("a")
    with pytest.raises(EngineUnavailable, match="lost"):
        asyncio.run(
            measure_reviewer(
                make_broker(ledger, members, lost), members["a"], make_control_items(make_seeds(3), 6, seed=0)
            )
        )


@pytest.mark.parametrize("count", [5, 50])
def test_even_odds_do_not_depend_on_the_share_of_good_samples(count: int) -> None:
    fitted = calibrate([6.0, 7.0, 8.0] * count, [2.0, 3.0, 4.0] * 10, even_odds=True)
    assert fitted(5.0) == pytest.approx(5.0, abs=0.5)
    assert calibrate([1.0] * count, [9.0] * 10, even_odds=True)(5.0) == pytest.approx(5.0)
