"""Judge rows by learning dynamics: how sure a student of trusted rows is of them from early to late checkpoints.

Follows "Curated LLM" (Seedat et al. 2024, arXiv 2312.12112). Checkpoint t gives a row's answer
with probability p_t. Confidence is the mean of p_t, and aleatoric uncertainty the mean of p_t (1 - p_t). A row of low
confidence and low uncertainty was found wrong from early on, and is discarded. Ambiguous rows stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Table = NDArray[np.float64]
UNCERTAINTY_SHARE = 0.75  # of the range of uncertainty, as in the paper's adaptive threshold


@dataclass(frozen=True)
class LearningDynamics:
    """Confidence (0-1) and aleatoric uncertainty (0-0.25) of rows; NaN where a row has no probability."""

    confidence: Table
    uncertainty: Table


def learning_dynamics(probabilities: ArrayLike) -> LearningDynamics:
    """Return confidence and uncertainty of rows.

    Args:
        probabilities: checkpoints x rows; NaN where a checkpoint could not be asked about a row.

    Raises:
        ValueError: when there is no checkpoint.
    """
    p = np.asarray(probabilities, float)
    if p.ndim != 2 or not len(p):
        raise ValueError("learning dynamics need at least one checkpoint")
    return LearningDynamics(p.mean(axis=0), (p * (1 - p)).mean(axis=0))


def uncertainty_threshold(uncertainty: ArrayLike) -> float:
    """Return the adaptive threshold: three quarters of the way from the least uncertainty to the greatest.

    The paper's 0.75 of the range is the same where the least is 0, as in tables. Of texts every row is uncertain.
    """
    known = np.asarray(uncertainty, float)
    known = known[~np.isnan(known)]
    if not known.size:
        return 0.0
    return float(known.min() + UNCERTAINTY_SHARE * (known.max() - known.min()))


def confidence_threshold(trusted: ArrayLike, quantile: float = 0.05) -> float:
    """Return the quantile of the confidence of trusted rows that the student did not learn from.

    Raises:
        ValueError: when there are no such rows.
    """
    known = np.asarray(trusted, float)
    known = known[~np.isnan(known)]
    if not known.size:
        raise ValueError("a threshold needs trusted rows that the student did not learn from")
    return float(np.quantile(known, quantile))


def discarded(dynamics: LearningDynamics, least_confidence: float, most_uncertainty: float) -> NDArray[np.bool_]:
    """Return which rows are discarded: at most this sure of them, and at most this uncertain.

    A row without probabilities is kept, because nothing speaks against it.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(
            (dynamics.confidence <= least_confidence) & (dynamics.uncertainty <= most_uncertainty), np.bool_
        )
