"""How often the tests raise a false alarm, and how often they find what is there, on simulated truth.

GRA_TRIALS=8000 pytest tests/stats/test_error_rates.py   # narrower bounds, in minutes
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import pytest

from gra.stats import paired as stats
from gra.stats.paired import Estimate
from gra.stats.seeds import with_seed_variance

TRIALS = int(os.environ.get("GRA_TRIALS", "2500"))


def allowed(trials: int) -> tuple[float, float]:
    """Return 4 to 6 %, and one and a half standard errors of a rate of 5 % on both sides."""
    error = math.sqrt(0.05 * 0.95 / trials)
    return 0.04 - 1.5 * error, 0.06 + 1.5 * error


LOW, HIGH = allowed(TRIALS)


def _pairs(rng: np.random.Generator, n: int, gain: float, discordance: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 0 and 1, half of them right, that differ on this share of items; shapes [TRIALS, n]."""
    u = rng.random((TRIALS, n))
    ours, theirs = (discordance + gain) / 2, discordance
    agreed = u >= theirs
    both = rng.random((TRIALS, n)) < 0.5
    return np.where(agreed, both, u < ours), np.where(agreed, both, u >= ours)


def _bounded(a: np.ndarray, b: np.ndarray) -> bool:
    low, high = stats.paired_difference(a, b, bounded=True).interval()
    return low > 0 or high < 0


def _mid_p(a: np.ndarray, b: np.ndarray) -> bool:
    return stats.mcnemar(int((a > b).sum()), int((a < b).sum())) <= 0.05


def _t_test(a: np.ndarray, b: np.ndarray) -> bool:
    return stats.paired_difference(a, b).p_value() <= 0.05


@pytest.mark.parametrize("rejects", [_bounded, _mid_p, _t_test])
def test_one_false_alarm_in_twenty(rejects: Callable[[np.ndarray, np.ndarray], bool]) -> None:
    # Two models of equal accuracy that agree on most items, as two checkpoints of one base do.
    a, b = (scores.astype(float) for scores in _pairs(np.random.default_rng(6), 300, 0.0, 0.2))
    alarms = sum(rejects(ours, theirs) for ours, theirs in zip(a, b, strict=True))
    assert LOW <= alarms / TRIALS <= HIGH


def test_one_false_alarm_in_twenty_by_bootstrap() -> None:
    # Partial credit in fifths. With scores of 0 and 1 the percentile is often 0 itself, and the rate nearer 3 %.
    rng, trials, alarms = np.random.default_rng(16), TRIALS // 2, 0
    for trial in range(trials):
        a, b = rng.binomial(5, rng.random(120), (2, 120)) / 5
        low, high = stats.paired_bootstrap(a, b, replicates=1000, seed=trial)
        alarms += low > 0 or high < 0
    low, high = allowed(trials)
    assert low <= alarms / trials <= high


def test_one_false_alarm_in_twenty_by_cluster() -> None:
    rng, trials, alarms = np.random.default_rng(7), TRIALS, {"clustered": 0, "ignored": 0}
    clusters = np.repeat(np.arange(40), 5).tolist()
    for _ in range(trials):
        shared = np.repeat(rng.normal(0, 0.2, 40), 5)  # what the items of one passage have in common
        a = shared + rng.normal(0, 0.2, 200)
        alarms["clustered"] += stats.paired_difference(a, np.zeros(200), clusters).p_value() <= 0.05
        alarms["ignored"] += stats.paired_difference(a, np.zeros(200)).p_value() <= 0.05
    assert LOW <= alarms["clustered"] / trials <= HIGH
    assert alarms["ignored"] / trials > 0.15  # what clusters cost when nobody looks


def test_a_macro_average_raises_one_false_alarm_in_twenty() -> None:
    rng, trials, alarms = np.random.default_rng(11), TRIALS, 0
    for _ in range(trials):
        parts = [
            stats.paired_difference(rng.normal(0, s, n), np.zeros(n)) for s, n in ((0.4, 40), (0.2, 90), (0.3, 15))
        ]
        alarms += stats.macro_average(parts).p_value() <= 0.05
    assert LOW <= alarms / trials <= HIGH


def test_holm_keeps_the_family_at_five_percent() -> None:
    p = np.random.default_rng(12).random((8000, 10))
    family = np.mean([min(stats.holm(row.tolist())) <= 0.05 for row in p])
    assert 0.04 <= family <= 0.06


@pytest.mark.parametrize(
    ("items", "seeds", "spread", "own"),
    [
        (40, 3, 0.0, 0.0),
        (120, 3, 0.0, 0.3),
        (120, 3, 0.05, 0.0),
        (120, 3, 0.3, 0.3),
        (120, 2, 0.1, 0.0),
        (400, 5, 0.03, 0.3),
    ],
)
def test_training_seeds_raise_one_false_alarm_in_twenty(items: int, seeds: int, spread: float, own: float) -> None:
    """`benchmarks/seed_variance.py` has the whole grid."""
    trials, rng, alarms = TRIALS, np.random.default_rng(13), 0
    for _ in range(trials):
        arms = seeded_arms(rng, items, seeds, spread, own, 0.0)
        plain = stats.paired_difference(arms[0].mean(axis=0), arms[1].mean(axis=0))
        alarms += with_seed_variance(plain, *arms).p_value() <= 0.05
    assert LOW <= alarms / trials <= HIGH


def test_leaving_seeds_out_raises_false_alarms_and_counting_twice_costs_power() -> None:
    trials, rng = 800, np.random.default_rng(14)
    ignored = found = before = 0
    for _ in range(trials):
        arms = seeded_arms(rng, 400, 3, 0.05, 0.0, 0.0)
        ignored += stats.paired_difference(arms[0].mean(axis=0), arms[1].mean(axis=0)).p_value() <= 0.05
        arms = seeded_arms(rng, 120, 3, 0.0, 0.0, 0.12)
        plain = stats.paired_difference(arms[0].mean(axis=0), arms[1].mean(axis=0))
        found += with_seed_variance(plain, *arms).p_value() <= 0.05
        twice = plain.se**2 + sum(float(arm.mean(axis=1).var(ddof=1)) / 3 for arm in arms)
        before += Estimate(plain.value, math.sqrt(twice), 10).p_value() <= 0.05
    assert ignored / trials > 0.15
    assert found > 1.15 * before


def seeded_arms(
    rng: np.random.Generator, items: int, seeds: int, spread: float, own: float, gain: float
) -> list[np.ndarray]:
    """Right and wrong answers of two arms, shape [seeds, items]; the first is better by `gain`."""
    chance = 0.35 + 0.3 * rng.random(items)
    arms = []
    for better in (gain, 0.0):
        shift = rng.normal(0, spread, (seeds, 1)) + rng.uniform(-own, own, items) + better
        arms.append((rng.random((seeds, items)) < np.clip(chance + shift, 0, 1)).astype(float))
    return arms


def test_twice_the_power_of_an_unpaired_test() -> None:
    # Three points more on GSM8K's 1319 items when one item in five is decided differently.
    n = 1319
    a, b = _pairs(np.random.default_rng(14), n, 0.03, 0.2)
    wins, losses = (a & ~b).sum(axis=1), (~a & b).sum(axis=1)
    paired = np.mean([stats.mcnemar(int(w), int(lost)) <= 0.05 for w, lost in zip(wins, losses, strict=True)])
    rates = a.mean(axis=1), b.mean(axis=1)
    pooled = (rates[0] + rates[1]) / 2
    z = (rates[0] - rates[1]) / np.sqrt(2 * pooled * (1 - pooled) / n)
    unpaired = np.mean(np.abs(z) > 1.959964)
    assert paired > 0.6
    assert paired >= 2 * unpaired


def test_a_true_loss_of_the_margin_is_called_non_inferior_one_time_in_forty() -> None:
    a, b = _pairs(np.random.default_rng(15), 900, -0.03, 0.2)
    called = 0
    for gap in (a.astype(int) - b.astype(int)).astype(float):
        estimate = stats.paired_difference(gap, np.zeros(len(gap)))
        low, high = estimate.interval()
        called += stats.conclude(low, high, estimate.p_value(), margin=0.03) in ("better", "non-inferior")
    assert 0.017 <= called / TRIALS <= 0.033  # one in forty and two and a half standard errors


def test_detectable_difference_is_found_four_times_in_five() -> None:
    rng, n, hits = np.random.default_rng(5), 100, 0
    effect = Estimate(0.0, 0.3 / math.sqrt(n), n - 1).detectable()
    for _ in range(2000):
        hits += stats.paired_difference(rng.normal(effect, 0.3, n), np.zeros(n)).p_value() <= 0.05
    assert hits / 2000 == pytest.approx(0.8, abs=0.03)
