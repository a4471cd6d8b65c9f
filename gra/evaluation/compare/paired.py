"""Compute one arm against another on the same items; compare.py does so for tasks and their categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.evaluation.compare.runs import ScoredRun
from gra.stats import paired as stats
from gra.stats.paired import Estimate
from gra.stats.seeds import with_seed_variance


def item_scores(runs: Sequence[ScoredRun], task: str, items: Sequence[str]) -> NDArray[np.float64]:
    """Return item scores, shape [seeds, items]."""
    return np.array([[run.tasks[task][item]["score"] for item in items] for run in runs], dtype=np.float64)


def proportion(scores: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean score with Wilson's interval; scores of shape [seeds, items]."""
    mean = float(scores.mean())
    low, high = stats.wilson(mean, scores.shape[1])
    return {"n": scores.shape[1], "mean": mean, "low": low, "high": high}


def own_estimate(runs: Sequence[ScoredRun], task: str) -> Estimate:
    """Return an arm's mean score on a task, with the error between items and the variance between its seeds."""
    items = list(runs[0].tasks[task])
    scores = item_scores(runs, task, items)
    clusters = [runs[0].tasks[task][item]["cluster"] or (item,) for item in items]
    zeros = np.zeros(len(items))
    estimate = stats.paired_difference(scores.mean(axis=0), zeros, clusters, bounded=True, answers=len(scores))
    return with_seed_variance(estimate, scores, clusters=clusters)


def difference(
    ours: Sequence[ScoredRun], theirs: Sequence[ScoredRun], task: str, items: Sequence[str]
) -> dict[str, Any]:
    """Compare one arm with another on some items: interval, p, wins and losses, without a verdict."""
    a, b = item_scores(ours, task, items), item_scores(theirs, task, items)
    # An item without a cluster, as in records from before there were any, is one of its own.
    clusters = [ours[0].tasks[task][item]["cluster"] or (item,) for item in items]
    answers = 2 / (1 / len(a) + 1 / len(b))
    estimate = stats.paired_difference(a.mean(axis=0), b.mean(axis=0), clusters, bounded=True, answers=answers)
    estimate = with_seed_variance(estimate, a, b, clusters=clusters)
    gap = a.mean(axis=0) - b.mean(axis=0)
    wins, losses = int((gap > 0).sum()), int((gap < 0).sum())
    # One checkpoint each, scores of 0 or 1, no clusters: the exact test. Otherwise the t test.
    exact = len(a) == len(b) == 1 and bool(np.isin([a, b], (0.0, 1.0)).all()) and len({*clusters}) == len(items)
    p = stats.mcnemar(wins, losses) if exact else estimate.p_value()
    counts = {"wins": wins, "losses": losses, "ties": len(items) - wins - losses}
    return {"n": len(items), **figures(estimate), "p": p, **counts}


def figures(estimate: Estimate) -> dict[str, Any]:
    """Return a difference as compare.json has it, and the estimate itself under `_estimate` for the verdict."""
    low, high = estimate.interval()
    return {
        "difference": estimate.value, "low": low, "high": high, "se": estimate.se,
        "mde": estimate.detectable(), "_estimate": estimate,
    }  # fmt: skip
