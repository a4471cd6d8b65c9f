"""Statistics of scores on the same items: intervals, paired tests, and the four words of a verdict.

Pure NumPy, no I/O. Scores lie in [0, 1]; differences are "ours minus reference", so a positive one is good.
What a verdict means, with the 95 % interval [low, high] of the difference and the margin m:

- better:        low > 0 and the Holm-adjusted p is at most 0.05
- non-inferior:  not better, and low > -m (a one-sided test at 2.5 %: a loss of m or more is ruled out)
- worse:         none of the above, high < 0 and the Holm-adjusted p is at most 0.05
- inconclusive:  none of the above; the minimum detectable effect says how large a difference would have shown

A difference that is significantly negative but certainly smaller than the margin is therefore "non-inferior".
"As good as" in both directions is equivalence (`Estimate.p_unequal`, two one-sided tests); it has no word of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gra.stats.t_distribution import normal_quantile, t_cdf, t_quantile

Conclusion = Literal["better", "non-inferior", "inconclusive", "worse"]
LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
_DRAWN = 4_000_000  # multinomial counts held at once by the bootstrap


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean difference with its standard error and degrees of freedom (infinite: the normal distribution)."""

    value: float
    se: float
    df: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the two-sided t interval, kept within [-1, 1]."""
        half = t_quantile(0.5 + level / 2, self.df) * self.se
        return max(-1.0, self.value - half), min(1.0, self.value + half)

    def p_value(self) -> float:
        """Return the two-sided p of "no difference"."""
        if self.se == 0.0:
            return 1.0 if self.value == 0.0 else 0.0
        return 2.0 * t_cdf(-abs(self.value) / self.se, self.df)

    def p_inferior(self, margin: float) -> float:
        """Return the one-sided p of "worse by the margin or more"; small means non-inferior."""
        return self._p_below(self.value + margin)

    def p_unequal(self, margin: float) -> float:
        """Return the p of two one-sided tests of "differs by the margin or more"; small means equivalent."""
        return max(self._p_below(self.value + margin), self._p_below(margin - self.value))

    def detectable(self, power: float = POWER, alpha: float = ALPHA) -> float:
        """Return the smallest true difference that a two-sided test at `alpha` finds with this power."""
        return (t_quantile(1.0 - alpha / 2, self.df) + t_quantile(power, self.df)) * self.se

    def _p_below(self, distance: float) -> float:
        if self.se == 0.0:
            return 0.0 if distance > 0 else 1.0
        return t_cdf(-distance / self.se, self.df)


def wilson(mean: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion: never of zero width.

    Raises:
        ValueError: when there are no items.
    """
    if n < 1:
        raise ValueError("a proportion of no items has no interval")
    z = normal_quantile(0.5 + level / 2)
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # At 0 and 1 the bound is the proportion itself; rounding must not move it past.
    return min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half))


def paired_difference(
    ours: ArrayLike,
    reference: ArrayLike,
    clusters: Sequence[Any] | None = None,
    *,
    bounded: bool = False,
    answers: float = 1.0,
) -> Estimate:
    """Return the mean difference over paired items.

    Args:
        ours: scores, shape [n].
        reference: scores of the same items, shape [n].
        clusters: the cluster of each item; the error is then between clusters, with C - 1 degrees of freedom.
        bounded: add one win and one loss to the error (not to the mean), each a cluster of its own. A handful of
            identical scores in [0, 1] then does not claim certainty (after Bonett and Price 2012).
        answers: the number of answers that each score is the mean of, as with several training seeds; what is added
            has the variance of one such mean.

    Raises:
        ValueError: when the shapes differ, or there are fewer than two items (one, if bounded) or clusters.
    """
    d = _differences(ours, reference)
    mean, names = float(d.mean()), range(len(d)) if clusters is None else clusters
    if bounded:
        size = 1 / math.sqrt(answers)
        d, names = np.append(d, (size, -size)), [*names, object(), object()]
    sums = cluster_sums(d - d.mean(), names)[0]
    count = len(sums)
    if count < 2:
        raise ValueError(f"a paired comparison needs at least two {'items' if clusters is None else 'clusters'}")
    # The two items that were added are not estimated from, so nothing is lost to the mean.
    factor = 1.0 if bounded else count / (count - 1)
    return Estimate(mean, math.sqrt(factor * float(sums @ sums)) / len(d), count - 1)


@dataclass(frozen=True, slots=True)
class Repeated:
    """avg@k: the mean score of n items that were each answered k times, and where its error comes from.

    `between` is the variance of the items' true means, `within` the variance of one answer around its item's mean.
    """

    value: float
    n: int
    k: int
    between: float
    within: float

    def estimate(self, k: int | None = None) -> Estimate:
        """Return the mean with its error between items; with another k, the error to expect of k answers an item."""
        variance = self.between / self.n + self.within / (self.n * (k or self.k))
        return Estimate(self.value, math.sqrt(variance), self.n - 1)


def average_at_k(scores: ArrayLike) -> Repeated:
    """Return the mean over items and repeats, with the variance between items and within them.

    Args:
        scores: one row an item, one column a repeat, shape [n, k].

    Raises:
        ValueError: when there are fewer than two items or fewer than two repeats.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"avg@k needs scores of shape [n, k] with n and k of at least two, not {x.shape}")
    n, k = x.shape
    within = float(x.var(axis=1, ddof=1).mean())
    # Clipped at 0: items that differ by less than their repeats do show no spread of their own.
    between = max(0.0, float(x.mean(axis=1).var(ddof=1)) - within / k)
    return Repeated(float(x.mean()), n, k, between, within)


def macro_average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the unweighted mean over tasks; their errors are independent.

    Raises:
        ValueError: when there are no tasks.
    """
    if not estimates:
        raise ValueError("no tasks to average over")
    count = len(estimates)
    se, df = _combine([((e.se / count) ** 2, e.df) for e in estimates])
    return Estimate(sum(e.value for e in estimates) / count, se, df)


def mcnemar(wins: int, losses: int, *, mid: bool = True) -> float:
    """Return the two-sided exact p of equally many wins and losses among discordant pairs, mid-p by default."""
    n, fewer = wins + losses, min(wins, losses)
    if n == 0:
        return 1.0
    scale = math.lgamma(n + 1) - n * math.log(2)
    mass = [math.exp(scale - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for k in range(fewer + 1)]
    if not mid:
        return min(1.0, 2.0 * sum(mass))
    return 1.0 - 0.5 * mass[-1] if wins == losses else 2.0 * sum(mass) - mass[-1]


def detectable_difference(n: int, discordance: float, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """Return the difference of two accuracies that n paired items will find with this power.

    Args:
        n: number of items.
        discordance: the share of items that only one of the two gets right.
    """
    z = normal_quantile(1.0 - alpha / 2) + normal_quantile(power)
    return z * math.sqrt(discordance / (n + z * z))  # the variance of one pair is discordance - difference ** 2


def paired_bootstrap(
    ours: ArrayLike,
    reference: ArrayLike,
    clusters: Sequence[Any] | None = None,
    *,
    replicates: int = 10_000,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Return the percentile interval of the mean difference under resampling of items, or of whole clusters.

    Items (or clusters) that are alike are drawn together by their counts, one multinomial draw a replicate. So the
    cost grows with the number of distinct differences, not of items. Below about twenty clusters
    the interval is too narrow; `paired_difference` with its t quantile is the better one there.
    """
    d = _differences(ours, reference)
    sums, sizes = (d, np.ones(len(d), dtype=np.int_)) if clusters is None else cluster_sums(d, clusters)
    kinds, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    means = np.empty(replicates)
    block = max(1, _DRAWN // len(kinds))
    for start in range(0, replicates, block):
        part = means[start : start + block]
        draws = generator.multinomial(len(sums), counts / len(sums), size=len(part))
        part[:] = (draws @ kinds[:, 0]) / (draws @ kinds[:, 1])
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values after Holm's step-down adjustment, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def conclude(low: float, high: float, p_adjusted: float, margin: float) -> Conclusion:
    """Return the conclusion; the four are defined at the top of this module."""
    if low > 0 and p_adjusted <= ALPHA:
        return "better"
    if low > -margin:
        return "non-inferior"
    if high < 0 and p_adjusted <= ALPHA:
        return "worse"
    return "inconclusive"


def _differences(ours: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"paired scores need one shape [n], n > 0; these are {a.shape} and {b.shape}")
    return a - b


def cluster_sums(values: NDArray[np.float64], clusters: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """Return the sum and the size of each cluster, shapes [C]."""
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} clusters are given for {len(values)} items")
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([names[name] for name in clusters])
    return np.bincount(index, weights=values).astype(np.float64), np.bincount(index)


def _combine(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the standard error of a sum of independent terms (variance, df), with Welch and Satterthwaite's df."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / df for variance, df in parts)
    return math.sqrt(total), total**2 / spread if spread > 0 else math.inf
