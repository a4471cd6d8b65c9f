"""Votes of annotators on candidate labels, and the F1 of labels against gold."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gra.stats.aggregation import ridge_logistic

_RIDGE = 1.0


@dataclass(frozen=True)
class FittedVotes:
    """A weighted vote that was fitted on labeled texts: one weight a voter, and an intercept, in log-odds."""

    weights: tuple[float, ...]
    intercept: float

    def __call__(self, votes: ArrayLike) -> NDArray[np.float64]:
        """Return the probability that each candidate is right.

        Args:
            votes: voters x candidates: 1 for it, 0 against it, NaN where the voter gave no answer.
        """
        z = np.asarray(self.weights) @ _signed(votes) + self.intercept
        found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(z, -30, 30)))
        return found


def fit_votes(votes: ArrayLike, right: ArrayLike) -> FittedVotes:
    """Fit weights of voters on candidates whose truth is known, by ridge logistic regression.

    A voter that gave no answer counts as 0, between for and against. Copies of one voter share its weight. Two
    candidates are added: one that all are for is right, and one that all are against is wrong.

    Args:
        votes: voters x candidates: 1 for it, 0 against it, NaN where the voter gave no answer.
        right: whether each candidate is right.
    """
    signed, known = _signed(votes), np.asarray(right, float)
    ones = np.ones((len(signed), 1))
    x, y = np.hstack([signed, ones, -ones]).T, np.concatenate([known, [1.0, 0.0]])
    weights, intercept = ridge_logistic(x, y, _RIDGE)
    return FittedVotes(tuple(map(float, weights)), intercept)


def majority(votes: ArrayLike) -> NDArray[np.float64]:
    """Return the share of voters for each candidate, of those that gave an answer.

    Args:
        votes: voters x candidates: 1 for it, 0 against it, NaN where the voter gave no answer.
    """
    table = np.asarray(votes, float)
    found: NDArray[np.float64] = np.nansum(table, axis=0) / np.maximum((~np.isnan(table)).sum(axis=0), 1)
    return found


def _signed(votes: ArrayLike) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.nan_to_num(2 * np.asarray(votes, float) - 1)
    return found


@dataclass(frozen=True)
class MicroF1:
    """Micro-averaged precision, recall and F1, over all labels of all texts."""

    precision: float
    recall: float
    f1: float
    found: int
    gold: int


def micro_f1(gold: Sequence[Collection[Hashable]], found: Sequence[Collection[Hashable]]) -> MicroF1:
    """Score labels against gold: a label is right only if it is exactly one of the text's gold labels.

    Labels are spans with their type, or other values. Where there is no label at all, F1 is 1.

    Args:
        gold: the right labels of each text.
        found: the labels to score, text by text.
    """
    hits, given, wanted = (int(column.sum()) for column in _counts(gold, found).T)
    if not given and not wanted:
        return MicroF1(1.0, 1.0, 1.0, 0, 0)
    f1 = float(_f1(np.array([hits, given, wanted], float)))
    return MicroF1(hits / max(given, 1), hits / max(wanted, 1), f1, given, wanted)


@dataclass(frozen=True)
class F1Gain:
    """The F1 of one labeling less that of another, with its 95 % bootstrap interval over texts."""

    difference: float
    low: float
    high: float


def f1_gain(
    gold: Sequence[Collection[Hashable]],
    one: Sequence[Collection[Hashable]],
    other: Sequence[Collection[Hashable]],
    *,
    draws: int = 2000,
) -> F1Gain:
    """Compare two labelings of the same texts, paired by text.

    Args:
        gold: the right labels of each text.
        one: the labels of the first labeling.
        other: the labels of the second.
        draws: bootstrap samples.
    """
    counts = np.stack([_counts(gold, one), _counts(gold, other)])
    chosen = np.random.default_rng(0).integers(0, max(len(gold), 1), (draws, len(gold)))
    drawn = _f1(counts[:, chosen].sum(axis=2))
    whole = _f1(counts.sum(axis=1))
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    return F1Gain(float(whole[0] - whole[1]), float(low), float(high))


def _counts(gold: Sequence[Collection[Hashable]], found: Sequence[Collection[Hashable]]) -> NDArray[np.float64]:
    """Return right, found and gold labels of each text, shape (texts, 3)."""
    rows = [(len(set(f) & set(g)), len(set(f)), len(set(g))) for g, f in zip(gold, found, strict=True)]
    return np.asarray(rows, float).reshape(-1, 3)


def _f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    hits, total = counts[..., 0], counts[..., 1] + counts[..., 2]
    found: NDArray[np.float64] = np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)
    return found
