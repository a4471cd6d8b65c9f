"""Estimate the share of good rows from decisions on a random part, and from a panel's scores of all.

The estimate is prediction-powered inference (Angelopoulos et al. 2023, arXiv 2301.09633) with a tuned weight (PPI++,
arXiv 2311.01453). The scores of all rows are known. So it is also the regression estimator of surveys (Cochran 1977,
chapter 7), with its correction for a finite population. The weight is shrunk where one of the two verdicts is rare.

The interval is for a share, as surveys make it (Korn and Graubard 1998). The variance gives a number of effective
decisions. With it, the interval is Wilson's, or that of Clopper and Pearson where a verdict is rare. So it stays
within 0 and 1, and has a width when all decisions agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gra.stats.t_distribution import beta_quantile, t_quantile

_RARE = 5  # decisions of the rarer verdict below which the interval is Clopper and Pearson's
_SHRINKAGE = 5.0  # as if this many rare decisions said that scores show nothing
_MOST_GAIN = 10.0  # a decision is never worth more than this many
_FEWEST = 5  # decisions from which scores are used at all
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Precision:
    """The share of good rows with its interval.

    Attributes:
        value: the estimate.
        low: the lower end of the interval.
        high: the upper end.
        decisions: how many rows were decided.
        good: how many of them are good.
        rows: all rows.
        gain: how many plain decisions a decision is worth, because scores help; 1 without scores.
    """

    value: float
    low: float
    high: float
    decisions: int
    good: int
    rows: int
    gain: float


def estimate_precision(
    good: Sequence[bool], scores: ArrayLike, other_scores: ArrayLike, *, level: float = 0.95
) -> Precision:
    """Estimate the share of good rows among all rows.

    Args:
        good: a person's decisions on rows drawn at random.
        scores: the panel's scores of these rows; NaN where there is none.
        other_scores: the panel's scores of all other rows.
        level: of the interval.

    Raises:
        ValueError: there is no decision, or decisions and scores differ in number.
    """
    y, known, other = np.asarray(good, float), np.asarray(scores, float), np.asarray(other_scores, float)
    if not y.size or y.size != known.size:
        raise ValueError("decisions and their scores must be as many, and at least one")
    n, rows = y.size, y.size + other.size
    every = np.concatenate([known, other])
    middle = float(np.nanmean(every)) if not np.isnan(every).all() else 0.0
    every = np.where(np.isnan(every), middle, every)
    weight, gain = _weight(y, every[:n])
    value = float(np.clip(weight * every.mean() + (y - weight * every[:n]).mean(), 0.0, 1.0))
    rare = int(min(y.sum(), n - y.sum()))
    low, high = _interval(value, n, rows, gain, rare, level)
    return Precision(value, low, high, n, int(y.sum()), rows, gain)


def decisions_needed(found: Precision, half_width: float = 0.05, *, level: float = 0.95) -> int:
    """Return how many more decisions make the interval as narrow as asked, if the share stays what it is.

    Args:
        found: the estimate so far.
        half_width: half of the wanted interval's width.
        level: of the interval.
    """
    rare_share = min(found.value, 1 - found.value)

    def wide(decisions: int) -> bool:
        rare = int(rare_share * decisions)
        low, high = _interval(found.value, decisions, found.rows, found.gain, rare, level)
        return high - low > 2 * half_width

    if not wide(found.decisions):
        return 0
    few, enough = found.decisions, found.rows
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if wide(middle) else (few, middle)
    return enough - found.decisions


def _weight(y: Values, scores: Values) -> tuple[float, float]:
    """Return the weight of the scores, and how many plain decisions one decision is worth with it."""
    n = y.size
    if n < _FEWEST or not y.std() or not scores.std():
        return 0.0, 1.0
    covariance = float(np.cov(y, scores)[0, 1])
    if covariance <= 0:
        return 0.0, 1.0
    rare = float(min(y.sum(), n - y.sum()))
    shrunk = rare / (rare + _SHRINKAGE)
    explained = covariance**2 / float(scores.var(ddof=1) * y.var(ddof=1)) * (2 * shrunk - shrunk**2)
    left = max(1 - explained, 1 / _MOST_GAIN) * (n - 1) / (n - 2)
    return shrunk * covariance / float(scores.var(ddof=1)), max(1.0, 1 / left)


def _interval(value: float, n: int, rows: int, gain: float, rare: int, level: float) -> tuple[float, float]:
    """Return the interval of a share that was estimated from `n` of `rows` rows."""
    if n >= rows:
        return value, value
    effective = n * gain / (1 - n / rows)
    tail = (1 - level) / 2
    if rare < _RARE:
        x = value * effective
        low = beta_quantile(tail, x, effective - x + 1) if x > 0 else 0.0
        high = beta_quantile(1 - tail, x + 1, effective - x) if x < effective else 1.0
        return low, high
    z = t_quantile(1 - tail, n - 1)
    scale = 1 + z * z / effective
    center = (value + z * z / (2 * effective)) / scale
    half = z / scale * float(np.sqrt(value * (1 - value) / effective + z * z / (4 * effective**2)))
    return max(0.0, center - half), min(1.0, center + half)
