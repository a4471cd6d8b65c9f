"""Aggregation of reviewers' scores: shrunken weights from control items, and a label model without labels.

Weights are fitted on log-odds by ridge logistic regression and cross-fitted: no item is scored by weights that it
helped to fit. They replace the plain mean only when the gain is shown on held-out items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gra.stats.reliability import auc, even_counts, logistic

Table = NDArray[np.float64]
_FOLDS = 5
_CLONES = 0.98  # share of equal votes from which two voters are one
_ALPHA, _BETA, _START = 5.0, 2.0, 0.7  # prior and start of a voter's accuracy


@dataclass(frozen=True)
class Weights:
    """A weighted sum of standardized scores; `gain` is the cross-fitted AUC less that of the plain mean.

    `used` says whether the weights replace the mean. `low` is the lower end of the 95 % interval of the gain.
    `crossed` holds each item's score by weights that it did not help to fit.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float
    auc: float
    mean_auc: float
    gain: float
    low: float
    used: bool
    crossed: Table = field(repr=False, compare=False, default_factory=lambda: np.zeros(0))

    def __call__(self, scores: ArrayLike) -> float:
        """Score one sample: log-odds of "right" where the weights are used, else the mean. NaN counts as 0."""
        row = np.nan_to_num(np.asarray(scores, float))
        return float(row @ np.asarray(self.weights) + self.intercept) if self.used else float(np.mean(row))


def fit_weights(names: Sequence[str], scores: ArrayLike, right: ArrayLike, *, ridge: float = 4.0) -> Weights:
    """Fit reviewers' weights on control items, and decide whether they beat the plain mean.

    Args:
        names: the reviewers.
        scores: items x reviewers, log-odds at even odds; NaN where a reviewer gave none (it counts as 0).
        right: the known verdict of each item.
        ridge: how strongly weights are pulled to 0.

    Raises:
        ValueError: when one of the two verdicts is missing.
    """
    table, known = np.nan_to_num(np.asarray(scores, float)), np.asarray(right, bool)
    if known.all() or not known.any():
        raise ValueError("control items need both right and wrong answers")
    crossed = np.empty(len(known))
    folds = stratified_folds(known)
    for fold in range(_FOLDS):
        held = folds == fold
        if held.any() and known[~held].any() and not known[~held].all():
            weights, intercept = _at_even_odds(table[~held], known[~held], ridge)
            crossed[held] = table[held] @ weights + intercept
        else:
            crossed[held] = table[held].mean(axis=1)
    plain = table.mean(axis=1)
    gain, low = _gain(crossed, plain, known)
    weights, intercept = _at_even_odds(table, known, ridge)
    own, mean = auc(crossed[known], crossed[~known]), auc(plain[known], plain[~known])
    return Weights(tuple(names), tuple(map(float, weights)), float(intercept), own, mean, gain, low, low > 0, crossed)


def _at_even_odds(table: Table, right: NDArray[np.bool_], ridge: float) -> tuple[Table, float]:
    """Return weights and intercept as if half of the items were right, as reviewers' own scores are."""
    return ridge_logistic(table, right.astype(float), ridge, even_counts(right))


def stratified_folds(right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the fold of each item, with as many right ones in every fold as can be."""
    folds = np.empty(len(right), np.int64)
    for verdict in (True, False):
        at = np.flatnonzero(right == verdict)
        folds[at] = np.arange(len(at)) % _FOLDS
    return folds


def _gain(one: Table, two: Table, right: NDArray[np.bool_], draws: int = 400) -> tuple[float, float]:
    """Return the difference of two AUCs and the lower end of its 95 % bootstrap interval over items."""
    random = np.random.default_rng(0)
    good, bad = np.flatnonzero(right), np.flatnonzero(~right)
    found = []
    for _ in range(draws):
        g, b = random.choice(good, len(good)), random.choice(bad, len(bad))
        found.append(auc(one[g], one[b]) - auc(two[g], two[b]))
    return auc(one[good], one[bad]) - auc(two[good], two[bad]), float(np.percentile(found, 2.5))


def ridge_logistic(x: Table, y: Table, ridge: float, counts: Table | None = None) -> tuple[Table, float]:
    """Fit logistic regression by Newton's method, with a ridge that pulls all weights to 0.

    Args:
        x: items x features.
        y: 1 where an item is right, else 0.
        ridge: the penalty on the squared weights; the intercept has none.
        counts: how often each item counts; once by default.

    Returns:
        The weights, and the intercept.
    """
    counts = np.ones(len(x)) if counts is None else counts
    features = np.column_stack([x, np.ones(len(x))])
    penalty = np.diag([ridge] * x.shape[1] + [1e-6])
    weights = np.zeros(features.shape[1])
    for _ in range(100):
        z = np.clip(features @ weights, -30, 30)  # the sigmoid is 0 or 1 beyond, to double precision
        p = 1 / (1 + np.exp(-z))
        gradient = features.T @ (counts * (y - p)) - penalty @ weights
        hessian = (features * (counts * p * (1 - p) + 1e-9)[:, None]).T @ features + penalty
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    return weights[:-1], float(weights[-1])


@dataclass(frozen=True)
class LabelModel:
    """What a label model found: the probability of each item's verdict, and each voter's accuracy.

    `groups` holds the voters that were merged as clones, by place.
    """

    right: tuple[float, ...]
    accuracy: tuple[float, ...]
    groups: tuple[tuple[int, ...], ...]

    def judge(self, votes: ArrayLike) -> float | None:
        """Return the probability that a new item is right; None where all voters abstain.

        Args:
            votes: one a voter: 1 right, 0 wrong, NaN abstained.
        """
        given, z = np.asarray(votes, float), 0.0
        if np.isnan(given).all():
            return None
        for group in self.groups:
            vote = float(_majority(given[list(group)][:, None])[0])
            accuracy = self.accuracy[group[0]]
            z += 0.0 if np.isnan(vote) else (2 * vote - 1) * float(np.log(accuracy / (1 - accuracy)))
        return float(logistic(z))


def label_model(votes: ArrayLike, *, steps: int = 200) -> LabelModel:
    """Estimate verdicts and accuracies from votes alone, by one-coin EM (Dawid and Skene 1979).

    Clones are merged first: with two copies of one voter, EM takes their agreement for accuracy.

    Args:
        votes: voters x items: 1 right, 0 wrong, NaN abstained.
        steps: most iterations.
    """
    table = np.asarray(votes, float)
    groups = _clone_groups(table)
    merged = np.array([_majority(table[list(group)]) for group in groups])
    spoke = ~np.isnan(merged)
    accuracy = np.full(len(groups), _START)
    right = np.full(table.shape[1], 0.5)
    for _ in range(steps):
        odds = np.log(accuracy / (1 - accuracy))[:, None]
        z = np.where(spoke, np.where(merged > 0.5, odds, -odds), 0.0).sum(axis=0)
        right = 1 / (1 + np.exp(-np.clip(z, -30, 30)))
        agreed = np.where(merged > 0.5, right, 1 - right)
        hits = np.where(spoke, agreed, 0.0).sum(axis=1)
        new = (_ALPHA - 1 + hits) / (_ALPHA + _BETA - 2 + spoke.sum(axis=1))
        done = np.abs(new - accuracy).max() < 1e-6
        accuracy = new
        if done:
            break
    by_voter = np.empty(len(table))
    for group, value in zip(groups, accuracy, strict=True):
        by_voter[list(group)] = value
    return LabelModel(tuple(map(float, right)), tuple(map(float, by_voter)), groups)


def _clone_groups(votes: Table) -> tuple[tuple[int, ...], ...]:
    """Group voters that agree on more than 98 % of the items on which both vote."""
    groups: list[list[int]] = []
    for voter, own in enumerate(votes):
        for group in groups:
            both = ~np.isnan(own) & ~np.isnan(votes[group[0]])
            if both.sum() >= 20 and float((own[both] == votes[group[0]][both]).mean()) > _CLONES:
                group.append(voter)
                break
        else:
            groups.append([voter])
    return tuple(map(tuple, groups))


def _majority(votes: Table) -> Table:
    """Return the majority of each item; NaN where all abstain, the first voter's vote on a tie."""
    count = (~np.isnan(votes)).sum(axis=0)
    share = np.where(count > 0, np.nansum(votes, axis=0) / np.maximum(count, 1), np.nan)
    decided = np.where(share > 0.5, 1.0, 0.0)
    first = np.where(np.isnan(votes[0]), decided, votes[0])
    return np.where(np.isnan(share), np.nan, np.where(share == 0.5, first, decided))
