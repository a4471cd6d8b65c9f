"""How well a reviewer tells good from bad, measured on planted pairs with known verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def auc(good: ArrayLike, bad: ArrayLike) -> float:
    """Probability that a good sample scores above a bad one, ties counted half (Mann-Whitney)."""
    g, b = np.asarray(good, float), np.asarray(bad, float)
    if not g.size or not b.size:
        raise ValueError("both groups need at least one score")
    return float((g[:, None] > b[None, :]).mean() + 0.5 * (g[:, None] == b[None, :]).mean())


@dataclass(frozen=True, slots=True)
class Logistic:
    """A monotone map from a raw score (0-10) to 10 times the probability that the sample is a good one."""

    centre: float
    scale: float
    slope: float
    intercept: float

    def __call__(self, raw: float) -> float:
        """The calibrated score."""
        z = self.slope * (raw - self.centre) / self.scale + self.intercept
        return float(10 / (1 + np.exp(-z)))


def calibrate(good: ArrayLike, bad: ArrayLike, *, ridge: float = 1.0, steps: int = 50) -> Logistic:
    """Logistic regression of "good" on the raw score, by Newton's method with a ridge on the slope.

    The ridge keeps the map finite when the groups separate perfectly, and keeps a reviewer that
    cannot tell them apart near 5 whatever it says. A reviewer that is worse than chance gets a flat
    map rather than an inverted one: it is not trusted, and it is not believed backwards either.
    """
    x = np.concatenate([np.asarray(good, float), np.asarray(bad, float)])
    y = np.concatenate([np.ones(np.size(good)), np.zeros(np.size(bad))])
    centre, scale = float(x.mean()), float(x.std()) or 1.0
    features = np.stack([(x - centre) / scale, np.ones_like(x)], axis=1)
    penalty = np.diag([ridge, 1e-6])
    weights = np.zeros(2)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (y - p) - penalty @ weights
        hessian = (features * (p * (1 - p))[:, None]).T @ features + penalty
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    slope, intercept = max(float(weights[0]), 0.0), float(weights[1])
    if slope == 0.0:
        intercept = float(np.log(y.mean() / (1 - y.mean())))
    return Logistic(centre, scale, slope, intercept)
