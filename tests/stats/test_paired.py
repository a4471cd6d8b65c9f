"""Statistics against SciPy, brute force, published examples and simulated truth."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.stats import paired as stats
from gra.stats import t_distribution as quantiles
from gra.stats.paired import Estimate

# SciPy is a check of our own quantiles, not something they need.
with_scipy = pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="SciPy is not installed")
scores = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=40
)


def scipy_stats() -> Any:
    return importlib.import_module("scipy.stats")


@with_scipy
@given(st.floats(-50, 50), st.floats(0.6, 500))
def test_t_distribution_agrees_with_scipy(t: float, df: float) -> None:
    assert quantiles.t_cdf(t, df) == pytest.approx(scipy_stats().t.cdf(t, df), rel=1e-9, abs=1e-14)


@with_scipy
@given(st.floats(0.001, 0.999), st.floats(1, 500))
def test_t_quantile_agrees_with_scipy(p: float, df: float) -> None:
    assert quantiles.t_quantile(p, df) == pytest.approx(scipy_stats().t.ppf(p, df), rel=1e-8, abs=1e-9)


def test_infinite_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert quantiles.t_quantile(0.975, math.inf) == pytest.approx(1.959964, abs=1e-6)
    assert quantiles.t_cdf(-1.959964, math.inf) == pytest.approx(0.025, abs=1e-7)


@with_scipy
@given(st.integers(1, 400), st.data())
def test_wilson_agrees_with_scipy_and_has_width(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    expected = scipy_stats().binomtest(successes, n).proportion_ci(0.95, method="wilson")
    low, high = stats.wilson(successes / n, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert low <= successes / n <= high
    assert high > low


def test_wilson_as_published() -> None:
    # Newcombe 1998, table I: 81/263 and 0/20.
    assert stats.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert stats.wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@with_scipy
@given(scores)
def test_paired_difference_is_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(column) for column in zip(*pairs, strict=True))
    estimate = stats.paired_difference(a, b)
    assert estimate.value == pytest.approx(float((a - b).mean()))
    if np.ptp(a - b) > 0:
        expected = scipy_stats().ttest_rel(a, b)
        assert estimate.p_value() == pytest.approx(expected.pvalue, rel=1e-7)
        interval = expected.confidence_interval(0.95)
        low, high = estimate.interval()
        assert (low, high) == pytest.approx((max(-1, interval.low), min(1, interval.high)), rel=1e-7)


@given(scores)
def test_bounded_errors_never_claim_certainty(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    estimate = stats.paired_difference(a, b, bounded=True)
    low, high = estimate.interval()
    assert low < estimate.value < high or abs(estimate.value) == 1.0
    assert high - low > 0


def test_clusters_of_one_are_no_clusters_and_copies_add_nothing() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(30), rng.random(30)
    alone = stats.paired_difference(a, b)
    single = stats.paired_difference(a, b, clusters=list(range(30)))
    copied = stats.paired_difference(np.repeat(a, 5), np.repeat(b, 5), clusters=list(np.repeat(np.arange(30), 5)))
    assert (single.value, single.se, single.df) == pytest.approx((alone.value, alone.se, alone.df))
    assert (copied.value, copied.se, copied.df) == pytest.approx((alone.value, alone.se, alone.df))


def test_bounded_errors_of_clusters() -> None:
    a, b = np.random.default_rng(2).integers(0, 2, (2, 24))
    alone = stats.paired_difference(a, b, bounded=True)
    deviation = np.append(a - b, (1, -1)).std()
    assert (alone.se, alone.df) == pytest.approx((deviation / math.sqrt(26), 25))
    single = stats.paired_difference(a, b, clusters=list(range(24)), bounded=True)
    assert (single.value, single.se, single.df) == pytest.approx((alone.value, alone.se, alone.df))
    equal = stats.paired_difference([1] * 12, [1] * 12, clusters=list("aaabbbcccddd"), bounded=True)
    assert (equal.value, equal.df) == (0.0, 5)
    assert equal.se == pytest.approx(math.sqrt(2) / 14)


def test_clustered_error_by_hand() -> None:
    d = np.array([1.0, 1.0, 0.0, -1.0, 0.0])
    estimate = stats.paired_difference(d, np.zeros(5), clusters=["x", "x", "y", "y", "z"])
    sums = [2 - 2 * 0.2, -1 - 2 * 0.2, 0 - 0.2]
    assert estimate.se == pytest.approx(math.sqrt(3 / 2 * sum(s * s for s in sums)) / 5)
    assert estimate.df == 2


@with_scipy
@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 61), (600, 500)])
def test_mcnemar_exact_is_the_binomial_test(wins: int, losses: int) -> None:
    exact = scipy_stats().binomtest(wins, wins + losses, 0.5).pvalue if wins + losses else 1.0
    assert stats.mcnemar(wins, losses, mid=False) == pytest.approx(exact)
    assert stats.mcnemar(wins, losses) == pytest.approx(stats.mcnemar(losses, wins))
    assert 0 < stats.mcnemar(wins, losses) <= 1


@pytest.mark.parametrize(("wins", "losses"), [(3, 12), (9, 9), (6, 0)])
def test_mcnemar_by_counting_every_outcome(wins: int, losses: int) -> None:
    n, distance = wins + losses, abs(wins - losses)
    outcomes = [abs(2 * k - n) for k in range(n + 1) for _ in range(math.comb(n, k))]
    exact = sum(o >= distance for o in outcomes) / 2**n
    mid = sum(1.0 if o > distance else 0.5 if o == distance else 0.0 for o in outcomes) / 2**n
    assert stats.mcnemar(wins, losses, mid=False) == pytest.approx(exact)
    # Wins equal to losses are one outcome, not two, of which the half is taken twice.
    assert stats.mcnemar(wins, losses) == pytest.approx(
        mid if wins != losses else 1 - math.comb(n, wins) / 2 ** (n + 1)
    )


def test_t_quantiles_as_published() -> None:
    # Student's table as printed everywhere: 97.5 % at 1, 4, 10 and 30 degrees of freedom; 80 % at 7.
    shown = [round(quantiles.t_quantile(0.975, df), 3) for df in (1, 4, 10, 30)]
    assert shown == [12.706, 2.776, 2.228, 2.042]
    assert quantiles.t_quantile(0.8, 7) == pytest.approx(0.896, abs=5e-4)


def test_mcnemar_as_published() -> None:
    # Fagerland, Lydersen and Laake 2013, table 4: airway hyper-responsiveness, b = 1, c = 7.
    assert stats.mcnemar(1, 7, mid=False) == pytest.approx(0.0703, abs=5e-5)
    assert stats.mcnemar(1, 7) == pytest.approx(0.0391, abs=5e-5)


def test_bootstrap_by_counts_agrees_with_resampling_items() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    low, high = stats.paired_bootstrap(a, b, replicates=20_000)
    plain = (a - b)[rng.integers(0, 80, (20_000, 80))].mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.0126)
    assert (low, high) == stats.paired_bootstrap(a, b, replicates=20_000)
    assert (low, high) != stats.paired_bootstrap(a, b, replicates=20_000, seed=1)


def test_bootstrap_of_clusters_is_wider_when_items_agree_within_them() -> None:
    rng = np.random.default_rng(4)
    a = np.repeat(rng.integers(0, 2, 20), 10)
    b = np.repeat(rng.integers(0, 2, 20), 10)
    clusters = list(np.repeat(np.arange(20), 10))
    items, whole = stats.paired_bootstrap(a, b), stats.paired_bootstrap(a, b, clusters)
    t = stats.paired_difference(a, b, clusters).interval()
    assert whole[1] - whole[0] > 2 * (items[1] - items[0])
    assert whole == pytest.approx(t, abs=0.06)


def test_cluster_bootstrap_by_counts_agrees_with_resampling_clusters() -> None:
    rng = np.random.default_rng(8)
    clusters = np.sort(rng.integers(0, 30, 120))
    a, b = rng.integers(0, 2, 120), rng.integers(0, 2, 120)
    members = [np.flatnonzero(clusters == name) for name in np.unique(clusters)]
    means = []
    for _ in range(6000):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        means.append((a - b)[drawn].mean())
    found = stats.paired_bootstrap(a, b, clusters.tolist(), replicates=20_000)
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.015)


def test_bootstrap_of_many_distinct_scores_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(9).random((2, 500))
    whole = stats.paired_bootstrap(a, b, replicates=300)
    monkeypatch.setattr(stats, "_DRAWN", 1000)  # two replicates at a time, the same draws, summed in another order
    assert stats.paired_bootstrap(a, b, replicates=300) == pytest.approx(whole, rel=1e-12)


def test_average_at_k_takes_the_error_apart() -> None:
    rng = np.random.default_rng(10)
    n, k = 4000, 8
    chance = rng.beta(2, 2, n)  # variance 0.05 between items; mean of p(1 - p) within them: 0.2
    repeated = stats.average_at_k((rng.random((n, k)) < chance[:, None]).astype(float))
    assert repeated.between == pytest.approx(0.05, abs=0.005)
    assert repeated.within == pytest.approx(0.2, abs=0.005)
    assert repeated.estimate().se == pytest.approx(math.sqrt(0.05 / n + 0.2 / (n * k)), rel=0.03)
    assert repeated.estimate(1).se == pytest.approx(math.sqrt(0.25 / n), rel=0.03)


def test_average_at_k_is_the_error_of_the_item_means() -> None:
    scores = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=float)
    repeated = stats.average_at_k(scores)
    means = scores.mean(axis=1)
    assert repeated.value == pytest.approx(means.mean())
    assert repeated.estimate().se == pytest.approx(means.std(ddof=1) / 2)
    steady = stats.average_at_k(np.tile([[1.0, 0.0]], (5, 1)))
    assert (steady.between, steady.within) == (0.0, 0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_by_brute_force(p_values: list[float]) -> None:
    # The adjusted p of a hypothesis is the largest Bonferroni p over all intersections it is not separated from.
    def closed(index: int) -> float:
        worst = 0.0
        others = [i for i in range(len(p_values)) if i != index]
        for size in range(len(others) + 1):
            for chosen in itertools.combinations(others, size):
                subset = (index, *chosen)
                worst = max(worst, min(1.0, len(subset) * min(p_values[i] for i in subset)))
        return worst

    assert stats.holm(p_values) == pytest.approx([closed(i) for i in range(len(p_values))])


def test_macro_average_and_its_error() -> None:
    average = stats.macro_average([Estimate(0.1, 0.03, 50), Estimate(0.3, 0.04, 20)])
    assert average.value == pytest.approx(0.2)
    assert average.se == pytest.approx(0.025)
    assert 20 < average.df < 70
    alone = stats.macro_average([Estimate(0.1, 0.03, 50)])
    assert (alone.value, alone.se, alone.df) == pytest.approx((0.1, 0.03, 50))


@pytest.mark.parametrize(
    ("low", "high", "p", "word"),
    [
        (0.01, 0.09, 0.01, "better"),
        (0.01, 0.09, 0.20, "non-inferior"),
        (-0.01, 0.09, 0.30, "non-inferior"),
        (-0.015, -0.001, 0.01, "non-inferior"),
        (-0.08, -0.03, 0.001, "worse"),
        (-0.08, -0.03, 0.200, "inconclusive"),
        (-0.05, 0.05, 1.0, "inconclusive"),
        (-0.02, 0.05, 1.0, "inconclusive"),
    ],
)
def test_verdicts(low: float, high: float, p: float, word: str) -> None:
    assert stats.conclude(low, high, p, margin=0.02) == word


def test_margin_tests_match_the_interval() -> None:
    estimate = Estimate(-0.01, 0.004, 60)
    low, high = estimate.interval()
    assert (estimate.p_inferior(0.02) < 0.025) == (low > -0.02)
    assert (estimate.p_unequal(0.02) < 0.025) == (low > -0.02 and high < 0.02)
    assert estimate.p_inferior(0.001) > 0.5
    assert Estimate(0.0, 0.0, 5).p_unequal(0.02) == 0.0


@pytest.mark.parametrize(("n", "discordance"), [(1319, 0.1), (1319, 0.3), (164, 0.2), (30, 0.5)])
def test_detectable_difference_is_that_of_its_own_error(n: int, discordance: float) -> None:
    effect = stats.detectable_difference(n, discordance)
    error = math.sqrt((discordance - effect**2) / n)
    assert effect / error == pytest.approx(1.959964 + 0.841621, abs=1e-5)


def test_planned_and_measured_detectable_differences_agree() -> None:
    wins, losses, n = 150, 114, 1319
    measured = stats.paired_difference(
        [1] * wins + [0] * (n - wins), [0] * wins + [1] * losses + [0] * (n - wins - losses)
    )
    assert measured.detectable() == pytest.approx(stats.detectable_difference(n, (wins + losses) / n), rel=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.paired_difference([1, 0], [1, 0, 1]), "one shape"),
        (lambda: stats.paired_difference([1], [0]), "at least two items"),
        (lambda: stats.paired_difference([1, 0], [0, 0], clusters=["x", "x"]), "at least two clusters"),
        (lambda: stats.paired_difference([1, 0], [0, 0], clusters=["x"]), "1 clusters are given for 2 items"),
        (lambda: stats.macro_average([]), "no tasks"),
        (lambda: stats.average_at_k([[1.0], [0.0]]), r"at least two, not \(2, 1\)"),
        (lambda: stats.wilson(0.0, 0), "no items"),
    ],
)
def test_impossible_requests_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
