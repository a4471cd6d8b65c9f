"""The share of good rows: its interval holds what it promises, and scores make it narrower."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.stats.precision import Precision, decisions_needed, estimate_precision
from gra.stats.t_distribution import beta_quantile

NAN = float("nan")


def simulated(rows: int, share: float, shift: float, decisions: int, seed: int) -> tuple[Precision, float]:
    """An estimate from decisions drawn at random, and the share that is true of the rows."""
    luck = np.random.default_rng(seed)
    good = luck.random(rows) < share
    scores = luck.normal(6 + good * shift, 1.0)
    order = luck.permutation(rows)
    chosen, others = order[:decisions], order[decisions:]
    return estimate_precision(good[chosen].tolist(), scores[chosen], scores[others]), float(good.mean())


@pytest.mark.parametrize(
    ("rows", "share", "shift", "decisions"),
    [(400, 0.8, 0.0, 30), (400, 0.8, 2.0, 30), (150, 0.95, 1.0, 40), (2000, 0.5, 2.0, 60), (100, 0.9, 1.5, 12)],
)
def test_interval_covers_the_truth_as_often_as_it_says(rows: int, share: float, shift: float, decisions: int) -> None:
    trials = 250
    found = [simulated(rows, share, shift, decisions, seed) for seed in range(trials)]
    covered = sum(estimate.low <= truth <= estimate.high for estimate, truth in found)
    # Fewer than 226 of 250 has a chance of 1 in 1,000 at 95 %.
    assert covered >= 226


def test_scores_that_see_the_faults_make_the_interval_narrower() -> None:
    def width(shift: float) -> float:
        found = [simulated(2000, 0.7, shift, 80, seed)[0] for seed in range(30)]
        return float(np.mean([estimate.high - estimate.low for estimate in found]))

    assert width(2.5) < 0.75 * width(0.0)


def test_decisions_that_agree_leave_a_width() -> None:
    found = estimate_precision([True] * 30, [7.0] * 30, [7.0] * 970)
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.88 < found.low < 0.9  # Clopper and Pearson's interval of 30 of 30 begins at 0.884


def test_all_rows_decided_leave_none() -> None:
    found = estimate_precision([True, True, False, True], [7.0, 8.0, 3.0, NAN], [])
    assert (found.value, found.low, found.high) == (0.75, 0.75, 0.75)
    assert decisions_needed(found) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10) | st.just(NAN)), min_size=1, max_size=30),
       st.lists(st.floats(0, 10) | st.just(NAN), max_size=30))  # fmt: skip
def test_estimate_lies_in_its_interval_and_needed_decisions_suffice(
    decided: list[tuple[bool, float]], others: list[float]
) -> None:
    found = estimate_precision([good for good, _ in decided], [score for _, score in decided], others)
    assert 0 <= found.low <= found.high <= 1
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert 0 <= decisions_needed(found) <= len(others)


def test_needed_decisions_shrink_with_every_decision() -> None:
    few = simulated(3000, 0.8, 1.5, 40, 1)[0]
    many = simulated(3000, 0.8, 1.5, 160, 1)[0]
    assert 60 < decisions_needed(few) < 400
    assert decisions_needed(many) < decisions_needed(few)


@pytest.mark.parametrize(("p", "a", "b", "x"), [(0.5, 1, 1, 0.5), (0.025, 30, 1, 0.88430), (0.975, 3, 9, 0.51776)])
def test_beta_quantiles_are_those_of_tables(p: float, a: float, b: float, x: float) -> None:
    assert beta_quantile(p, a, b) == pytest.approx(x, abs=2e-5)


def test_decisions_and_scores_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="as many"):
        estimate_precision([True], [1.0, 2.0], [])
    with pytest.raises(ValueError, match="at least one"):
        estimate_precision([], [], [1.0])
