"""Measure how well a reviewer separates good samples from bad ones, on control items with known verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LARGEST_LOGIT = 700.0  # beyond it the exponential overflows, and the probability is 0 or 1 in float64
_SMALLEST_SPREAD = 1e-9  # of scores from 0 to 10: below it they are equal but for rounding
_HALVINGS = 30


def auc(good: ArrayLike, bad: ArrayLike) -> float:
    """Return the probability that a good sample scores above a bad one, ties counted half (Mann-Whitney).

    Raises:
        ValueError: when a group has no scores.
    """
    g, b = _groups(good, bad)
    return float((g[:, None] > b[None, :]).mean() + 0.5 * (g[:, None] == b[None, :]).mean())


@dataclass(frozen=True, slots=True)
class Logistic:
    """Map a raw score (0-10) to 10 times the probability that the sample is good; the map never falls."""

    centre: float
    scale: float
    slope: float
    intercept: float

    def __call__(self, raw: float) -> float:
        """Return the calibrated score."""
        return float(logistic(self.slope * (raw - self.centre) / self.scale + self.intercept, largest=10))


def logistic(logit: Any, largest: float = 1) -> Any:
    """Return largest / (1 + exp(-logit)) of a number or an array, without overflow."""
    return largest / (1 + np.exp(-np.clip(logit, -_LARGEST_LOGIT, _LARGEST_LOGIT)))


def calibrate(
    good: ArrayLike, bad: ArrayLike, *, ridge: float = 1.0, steps: int = 50, even_odds: bool = False
) -> Logistic:
    """Fit a logistic regression of "good" on the raw score, by Newton's method with a ridge on the slope.

    The ridge keeps the map finite when the groups separate perfectly. It keeps a reviewer that cannot separate them
    near the share of good samples at every score. A reviewer that is worse than chance gets a flat map, not an
    inverted one.

    Args:
        good: raw scores of good samples, 0-10.
        bad: raw scores of bad samples.
        ridge: the penalty on the squared slope.
        steps: the most steps of Newton's method.
        even_odds: whether probabilities are as if half of the samples were good.

    Raises:
        ValueError: when a group has no scores.
    """
    g, b = _groups(good, bad)
    x = np.concatenate([g, b])
    y = np.concatenate([np.ones(g.size), np.zeros(b.size)])
    centre, scale = float(x.mean()), float(x.std())
    scale = scale if scale > _SMALLEST_SPREAD else 1.0
    features = np.stack([(x - centre) / scale, np.ones_like(x)], axis=1)
    counts = even_counts(y == 1) if even_odds else np.ones_like(y)
    penalty = np.diag([ridge, 1e-6])
    weights = np.zeros(2)
    for _ in range(steps):
        p = logistic(features @ weights)
        gradient = features.T @ (counts * (y - p)) - penalty @ weights
        hessian = (features * (counts * p * (1 - p))[:, None]).T @ features + penalty
        step = _uphill(features, y, counts, penalty, weights, np.linalg.solve(hessian, gradient))
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    slope, intercept = max(float(weights[0]), 0.0), float(weights[1])
    if slope == 0.0:
        share = float(counts @ y / counts.sum())
        intercept = math.log(share / (1 - share))
    return Logistic(centre, scale, slope, intercept)


def even_counts(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how often each sample counts, so that right and wrong ones weigh the same; the mean is 1."""
    good = right.sum()
    return np.where(right, len(right) / (2 * good), len(right) / (2 * (len(right) - good)))


def _groups(good: ArrayLike, bad: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    g, b = np.asarray(good, np.float64), np.asarray(bad, np.float64)
    if not g.size or not b.size:
        raise ValueError("both groups need at least one score")
    return g, b


def _uphill(
    features: NDArray[np.float64],
    y: NDArray[np.float64],
    counts: NDArray[np.float64],
    penalty: NDArray[np.float64],
    weights: NDArray[np.float64],
    step: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Halve a step of Newton's method until the penalized likelihood does not fall, so that it cannot diverge."""

    def likelihood(at: NDArray[np.float64]) -> float:
        logits = features @ at
        return float(counts @ (y * logits - np.logaddexp(0.0, logits)) - at @ penalty @ at / 2)

    before = likelihood(weights)
    for _ in range(_HALVINGS):
        if likelihood(weights + step) >= before - 1e-9 * (1 + abs(before)):
            break
        step = step / 2
    return step
