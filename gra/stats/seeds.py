"""Add the variance between training seeds to the error of a paired difference.

Scores of an arm form a table of seeds by items. Three components vary: items, seeds, and their interaction (one
answer's luck). The error between items, of scores averaged over seeds, holds the items and the interaction. The
variance of the seeds' means holds the seeds and the interaction. Their sum would count the interaction twice, so it is
estimated from the residuals of the table and subtracted:

    V = items + max(seeds - interaction, -share * interaction)

The lower bound keeps V positive. It lies below zero because V would otherwise be too large where seeds do not differ:
the estimate of a variance that is zero would never err downwards. Degrees of freedom follow Satterthwaite. Below
four degrees of freedom between seeds the exponent is smaller, because his rule is known to promise too much. Both
constants were chosen so that false alarms stay near 5 % (`benchmarks/seed_variance.py`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gra.stats.paired import Estimate, cluster_sums


def with_seed_variance(estimate: Estimate, *arms: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Add the variance between training seeds to an estimate.

    An arm with one seed adds nothing: the estimate then speaks about that checkpoint only. The seeds of all arms are
    taken to vary alike, so their variances are pooled.

    Args:
        estimate: the paired difference of the scores averaged over seeds, with its error between items.
        arms: scores of each arm, shape [seeds, items].
        clusters: the cluster of each item, as given to `paired_difference`.

    Raises:
        ValueError: when a table has no seeds or no items.
    """
    tables = [np.asarray(arm, dtype=np.float64) for arm in arms]
    if any(table.ndim != 2 or not table.size for table in tables):
        raise ValueError(f"scores need the shape [seeds, items]; these are {[table.shape for table in tables]}")
    repeated = [table for table in tables if len(table) > 1]
    items = estimate.se**2
    df = sum(len(table) - 1 for table in repeated)
    if not repeated:
        return estimate
    # The variances of one seed's mean, pooled over arms, and how much of them is in the difference.
    share = sum(1 / len(table) for table in repeated)
    seeds = share * sum((len(table) - 1) * float(table.mean(axis=1).var(ddof=1)) for table in repeated) / df
    inner = share * sum((len(table) - 1) * _interaction(table, clusters) for table in repeated) / df
    inner = min(inner, items)  # the error between items holds it
    if df == 1:  # the variance of two seeds' means is too uncertain to subtract from
        return _widened(estimate, seeds, items + seeds, df)
    low = max(0.5, 1.8 / df)
    if seeds <= (1 - low) * inner:
        return Estimate(estimate.value, math.sqrt(items - low * inner), estimate.df)
    return _widened(estimate, seeds, items + seeds - inner, df)


def _widened(estimate: Estimate, seeds: float, variance: float, df: int) -> Estimate:
    """Return the estimate with a larger variance, of which `seeds` has `df` degrees of freedom."""
    if not variance:
        return estimate
    exponent = min(2.0, 0.55 * df)
    inverse = (estimate.se**2 / variance) ** 2 / estimate.df + min(1.0, seeds / variance) ** exponent / df
    freedom = max(1 / inverse, min(estimate.df, df)) if inverse else math.inf
    return Estimate(estimate.value, math.sqrt(variance), freedom)


def _interaction(table: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> float:
    """Return the variance that items and seeds together give to the mean of one seed."""
    residuals = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    sums = residuals if clusters is None else np.array([cluster_sums(row, clusters)[0] for row in residuals])
    count = sums.shape[1]
    if count < 2:
        return 0.0
    return float((sums**2).sum() * count / (count - 1) / (len(table) - 1) / table.shape[1] ** 2)
