"""Agreement among reviewers: Krippendorff's alpha, effective votes, severity and length bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]


def krippendorff_alpha(scores: ArrayLike) -> float:
    """Compute Krippendorff's alpha for interval data (Krippendorff 2004, chapter 11).

    Args:
        scores: reviewers x samples; NaN where a reviewer gave no score.

    Returns:
        1 for perfect agreement, 0 for agreement at chance, NaN without two scores that can be paired.
    """
    table = np.asarray(scores, float)
    table = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    values = table[~np.isnan(table)]
    if values.size < 2:
        return float("nan")
    within = 0.0
    for column in table.T:
        given = column[~np.isnan(column)]
        # All pairs of the sample, each weighted by 1 / (its number of scores - 1).
        within += 2 * given.size**2 * float(np.var(given)) / (given.size - 1)
    observed = within / values.size
    expected = 2 * float(np.var(values)) * values.size / (values.size - 1)
    return 1 - observed / expected if expected > 0 else float("nan")


def effective_votes(errors: ArrayLike) -> float:
    """Estimate how many independent reviewers a panel is worth (Kish's design effect).

    Errors of k reviewers that correlate with mean r have the variance of k / (1 + (k - 1) r) independent ones.

    Args:
        errors: reviewers x control items: score less the known verdict, on one scale; NaN where there is none.

    Returns:
        A number from 1 to k; NaN with fewer than two reviewers or three items that all have scored.
    """
    table = np.asarray(errors, float)
    table = table[:, ~np.isnan(table).any(axis=0)]
    reviewers, items = table.shape
    if reviewers < 2 or items < 3:
        return float("nan")
    spread = table.std(axis=1)
    if not (spread > 0).all():
        return float("nan")
    correlations = np.corrcoef(table)
    mean = float((correlations.sum() - reviewers) / (reviewers * (reviewers - 1)))
    return float(np.clip(reviewers / (1 + (reviewers - 1) * max(mean, 0.0)), 1.0, reviewers))


def severity(scores: ArrayLike) -> Scores:
    """Estimate each reviewer's severity: how far it scores below the others on the same samples.

    Args:
        scores: reviewers x samples; NaN where a reviewer gave no score.

    Returns:
        One value a reviewer, in points; positive is more severe than the others, NaN without a shared sample.
    """
    table = np.asarray(scores, float)
    found = np.full(len(table), np.nan)
    for place, own in enumerate(table):
        others = np.delete(table, place, axis=0)
        known = ~np.isnan(own) & (~np.isnan(others)).any(axis=0)
        if known.any():
            found[place] = float(np.mean(np.nanmean(others[:, known], axis=0) - own[known]))
    return found


def length_bias(scores: ArrayLike, lengths: ArrayLike) -> float:
    """Compute Spearman's rank correlation of scores with the lengths of the texts.

    Returns:
        -1 to 1; positive when longer texts score higher, NaN with fewer than three pairs or no spread.
    """
    one, two = np.asarray(scores, float), np.asarray(lengths, float)
    known = ~np.isnan(one) & ~np.isnan(two)
    first, second = _ranks(one[known]), _ranks(two[known])
    if first.size < 3 or not first.std() or not second.std():
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Scores) -> Scores:
    """Rank values from 0, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse], float)
