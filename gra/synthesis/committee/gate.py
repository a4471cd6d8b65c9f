"""Decide a reviewed response by the mean and spread of its scores (section 3.2, equations 4-6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, pstdev, stdev

from gra.config.review import ReviewConfig


class Gate(StrEnum):
    """The three decisions on a reviewed response."""

    ACCEPT = "accept"
    REJECT = "reject"
    ADJUDICATE = "adjudicate"


@dataclass(frozen=True, slots=True)
class Consensus:
    """Mean and standard deviation of the scores (0-10), and the decision."""

    mean: float
    std: float
    gate: Gate


def decide(scores: Sequence[float], review: ReviewConfig, together: float | None = None) -> Consensus:
    """Reject below `accept_mean`; accept when the spread is at most `dispute_std`; otherwise adjudicate.

    A mean equal to `accept_mean` passes, and a spread equal to `dispute_std` is agreement.

    Args:
        scores: of all reviewers and scoring verifiers, 0-10.
        review: the recipe's section.
        together: the panel's score in place of the mean, where the recipe aggregates in another way.
    """
    mean = fmean(scores) if together is None else together
    spread = pstdev if review.std == "population" else stdev
    std = spread(scores) if len(scores) > 1 else 0.0
    if mean < review.accept_mean:
        return Consensus(mean, std, Gate.REJECT)
    return Consensus(mean, std, Gate.ACCEPT if std <= review.dispute_std else Gate.ADJUDICATE)
