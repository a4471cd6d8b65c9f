"""Statistics of scores on the same items: intervals, paired tests, and the four words of a verdict.

Pure NumPy, no I/O. Scores lie in [0, 1]; differences are "ours minus reference", so a positive one is good.
What a verdict means, with the 95 % interval [low, high] of the difference and the margin m:

- better:        low > 0 and the Holm-adjusted p is at most 0.05
- non-inferior:  not better, and low > -m (a one-sided test at 2.5 %: a loss of m or more is ruled out)
- worse:         none of the above, high < 0 and the Holm-adjusted p is at most 0.05
- inconclusive:  none of the above; the minimum detectable effect says how large a difference would have shown

A difference that is significantly negative but certainly smaller than the margin is therefore "non-inferior".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Verdict = Literal["better", "non-inferior", "inconclusive", "worse"]
LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean difference with its standard error and degrees of freedom (infinite: the normal distribution)."""

    value: float
    se: float
    df: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The two-sided t interval, kept within [-1, 1]."""
        half = t_quantile(0.5 + level / 2, self.df) * self.se
        return max(-1.0, self.value - half), min(1.0, self.value + half)

    def p_value(self) -> float:
        """Two-sided p of "no difference"."""
        if self.se == 0.0:
            return 1.0 if self.value == 0.0 else 0.0
        return 2.0 * t_cdf(-abs(self.value) / self.se, self.df)

    def p_inferior(self, margin: float) -> float:
        """One-sided p of "worse by the margin or more"; small means non-inferior."""
        return self._p_below(self.value + margin)

    def p_unequal(self, margin: float) -> float:
        """Two one-sided tests of "differs by the margin or more"; small means equivalent."""
        return max(self._p_below(self.value + margin), self._p_below(margin - self.value))

    def detectable(self, power: float = POWER, alpha: float = ALPHA) -> float:
        """The smallest true difference that a two-sided test at `alpha` finds with this power."""
        return (t_quantile(1.0 - alpha / 2, self.df) + t_quantile(power, self.df)) * self.se

    def _p_below(self, distance: float) -> float:
        if self.se == 0.0:
            return 0.0 if distance > 0 else 1.0
        return t_cdf(-distance / self.se, self.df)


def wilson(mean: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion: never of zero width.

    Raises:
        ValueError: when there are no items.
    """
    if n < 1:
        raise ValueError("a proportion of no items has no interval")
    z = _NORMAL.inv_cdf(0.5 + level / 2)
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # At 0 and 1 the bound is the proportion itself; rounding must not move it past.
    return min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half))


def paired_difference(
    ours: ArrayLike, reference: ArrayLike, clusters: Sequence[Any] | None = None, *, bounded: bool = False
) -> Estimate:
    """Mean difference over paired items.

    Args:
        ours: scores, shape [n].
        reference: scores of the same items, shape [n].
        clusters: the cluster of each item; the error is then between clusters, with C - 1 degrees of freedom.
        bounded: add one win and one loss of size 1 to the error (not to the mean), so that a handful of
            identical scores in [0, 1] does not claim certainty (after Bonett and Price 2012).

    Raises:
        ValueError: when the shapes differ, or there are fewer than two items (one, if bounded) or clusters.
    """
    d = _differences(ours, reference)
    mean = float(d.mean())
    if clusters is None:
        values = np.append(d, (1.0, -1.0)) if bounded else d
        if len(values) < 2:
            raise ValueError("a paired comparison needs at least two items")
        deviation = float(values.std(ddof=0 if bounded else 1))
        return Estimate(mean, deviation / math.sqrt(len(values)), len(values) - 1)
    if bounded:
        raise ValueError("bounded errors are for items that are not clustered")
    sums = _cluster_sums(d - mean, clusters)[0]
    if len(sums) < 2:
        raise ValueError("a clustered error needs at least two clusters")
    factor = len(sums) / (len(sums) - 1)
    return Estimate(mean, math.sqrt(factor * float(sums @ sums)) / len(d), len(sums) - 1)


def with_seed_variance(estimate: Estimate, *arms: Sequence[float]) -> Estimate:
    """The estimate with the spread between training seeds added: the mean of each seed, arm by arm.

    An arm with one seed adds nothing: the estimate then speaks about that checkpoint only.
    """
    parts = [(estimate.se**2, estimate.df)]
    for means in arms:
        if len(means) > 1:
            parts.append((float(np.var(means, ddof=1)) / len(means), len(means) - 1))
    return Estimate(estimate.value, *_combine(parts))


def macro_average(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean over tasks; their errors are independent.

    Raises:
        ValueError: when there are no tasks.
    """
    if not estimates:
        raise ValueError("no tasks to average over")
    count = len(estimates)
    se, df = _combine([((e.se / count) ** 2, e.df) for e in estimates])
    return Estimate(sum(e.value for e in estimates) / count, se, df)


def mcnemar(wins: int, losses: int, *, mid: bool = True) -> float:
    """Two-sided exact p of equally many wins and losses among discordant pairs; mid-p by default; 1 without any."""
    n, fewer = wins + losses, min(wins, losses)
    if n == 0:
        return 1.0
    scale = math.lgamma(n + 1) - n * math.log(2)
    mass = [math.exp(scale - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for k in range(fewer + 1)]
    if not mid:
        return min(1.0, 2.0 * sum(mass))
    return 1.0 - 0.5 * mass[-1] if wins == losses else 2.0 * sum(mass) - mass[-1]


def paired_bootstrap(
    ours: ArrayLike,
    reference: ArrayLike,
    clusters: Sequence[Any] | None = None,
    *,
    replicates: int = 10_000,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile interval of the mean difference under resampling of items, or of whole clusters.

    Equal items are drawn together by their counts, one multinomial draw a replicate, so the cost grows with
    the number of distinct differences and not with the number of items.
    """
    d = _differences(ours, reference)
    generator = np.random.default_rng(seed)
    if clusters is None:
        values, counts = np.unique(d, return_counts=True)
        means = generator.multinomial(len(d), counts / len(d), size=replicates) @ values / len(d)
    else:
        sums, sizes = _cluster_sums(d, clusters)
        draws = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=replicates)
        means = (draws @ sums) / (draws @ sizes)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def verdict(low: float, high: float, p_adjusted: float, margin: float) -> Verdict:
    """One of the four words; the definitions are at the top of this module."""
    if low > 0 and p_adjusted <= ALPHA:
        return "better"
    if low > -margin:
        return "non-inferior"
    if high < 0 and p_adjusted <= ALPHA:
        return "worse"
    return "inconclusive"


def t_cdf(t: float, df: float) -> float:
    """Student's distribution function; `df` may be fractional or infinite."""
    if math.isinf(df):
        return _NORMAL.cdf(t)
    tail = 0.5 * _incomplete_beta(df / (df + t * t), df / 2, 0.5)
    return tail if t < 0 else 1.0 - tail


@lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """The inverse of `t_cdf`, by bisection."""
    if math.isinf(df):
        return _NORMAL.inv_cdf(p)
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def _differences(ours: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"paired scores need one shape [n], n > 0; these are {a.shape} and {b.shape}")
    return a - b


def _cluster_sums(values: NDArray[np.float64], clusters: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """The sum and the size of each cluster, shapes [C]."""
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} clusters are given for {len(values)} items")
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([names[name] for name in clusters])
    return np.bincount(index, weights=values).astype(np.float64), np.bincount(index)


def _combine(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Standard error of a sum of independent terms (variance, df), with Welch and Satterthwaite's df."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / df for variance, df in parts)
    return math.sqrt(total), total**2 / spread if spread > 0 else math.inf


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function by its continued fraction (modified Lentz)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d = 1.0 / (1.0 + numerator * d or tiny)
            c = 1.0 + numerator / c or tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * result
