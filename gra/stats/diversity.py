"""Measure how varied a set of embedded texts is, and how far it covers another set.

Rows are unit vectors, so a product is a cosine. Every function compares all rows with all, so callers give a few
thousand rows at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
Places = NDArray[np.intp]
_STEPS = 25  # of k-means; few rows change their region after ten


def vendi_score(vectors: Vectors) -> float:
    """Return the effective number of different rows, from 1 (all the same) to n (all orthogonal).

    It is the exponential of the entropy of the eigenvalues of K / n; K holds the cosines. Source: Friedman & Dieng
    2023, arXiv 2210.02410. K has the nonzero eigenvalues of the smaller matrix of products.

    Args:
        vectors: unit rows, shape (n, d), n > 0.

    Raises:
        ValueError: when there is no row.
    """
    if not len(vectors):
        raise ValueError("there are no rows")
    rows = vectors.astype(np.float64)
    products = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    values = np.linalg.eigvalsh(products / len(rows))
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def nearest_cosines(vectors: Vectors) -> Floats:
    """Return the cosine of each row to its most similar other row, shape (n,); empty for fewer than two rows."""
    if len(vectors) < 2:
        return np.empty(0)
    products = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.fill_diagonal(products, -np.inf)
    found: Floats = products.max(axis=1)
    return found


def coverage(real: Vectors, made: Vectors, neighbors: int = 5) -> float | None:
    """Return the share of real rows that have a made row nearer than their k-th nearest other real row.

    This is the coverage of Naeem et al. 2020 (arXiv 2002.09797), on cosines.

    Args:
        real: unit rows, shape (n, d).
        made: unit rows, shape (m, d).
        neighbors: k of the source.

    Returns:
        A share of 1, or None where there are too few real rows for k neighbors.
    """
    if len(real) <= neighbors:
        return None
    if not len(made):
        return 0.0
    base = real.astype(np.float64)
    products = base @ base.T
    np.fill_diagonal(products, -np.inf)
    radius = np.partition(products, -neighbors, axis=1)[:, -neighbors]
    reached = (base @ made.astype(np.float64).T).max(axis=1)
    return float(np.mean(reached >= radius))


@dataclass(frozen=True)
class Regions:
    """Divide the space of some rows.

    Attributes:
        centers: unit vectors, shape (k, d).
        members: the region of each row, shape (n,).
        typical: the row nearest to each center, shape (k,).
    """

    centers: Vectors
    members: Places
    typical: Places

    def assign(self, vectors: Vectors) -> Places:
        """Return the region of each row, shape (n,): that of the most similar center."""
        return np.argmax(vectors @ self.centers.T, axis=1) if len(vectors) else np.empty(0, np.intp)


def find_regions(vectors: Vectors, count: int, seed: int = 0) -> Regions:
    """Divide rows into regions by spherical k-means (Dhillon & Modha 2001), begun by k-means++.

    Args:
        vectors: unit rows, shape (n, d), n > 0.
        count: how many regions at most; empty ones are left out.
        seed: of the first centers.
    """
    random = np.random.default_rng(seed)
    chosen = [int(random.integers(len(vectors)))]
    distance = 1 - vectors @ vectors[chosen[0]]
    while len(chosen) < min(count, len(vectors)):
        weights = np.maximum(distance, 0).astype(np.float64)
        if weights.sum() <= 1e-9:  # all rows are copies of those chosen
            break
        chosen.append(int(random.choice(len(vectors), p=weights / weights.sum())))
        distance = np.minimum(distance, 1 - vectors @ vectors[chosen[-1]])
    centers = vectors[chosen].astype(np.float32)
    members = np.argmax(vectors @ centers.T, axis=1)
    for _ in range(_STEPS):
        sums = np.stack([vectors[members == place].sum(axis=0) for place in range(len(centers))])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centers = np.where(lengths > 1e-9, sums / np.maximum(lengths, 1e-9), centers).astype(np.float32)
        moved = np.argmax(vectors @ centers.T, axis=1)
        if np.array_equal(moved, members):
            break
        members = moved
    kept = np.unique(members)
    centers, members = centers[kept], np.searchsorted(kept, members)
    similar = vectors @ centers.T
    similar[members[:, None] != np.arange(len(centers))] = -np.inf
    return Regions(centers, members, np.argmax(similar, axis=0))


def rarer(count: int, total: int, other: int, other_total: int) -> float:
    """Return the p-value of Fisher's exact test that a kind is rarer in a set than in another.

    Args:
        count: rows of the kind in the set.
        total: rows of the set.
        other: rows of the kind in the other set.
        other_total: rows of the other set.

    Returns:
        The chance of at most `count`, were the kind equally frequent in both.
    """
    kind, rows = count + other, total + other_total
    whole = _log_choose(rows, total)
    low = max(0, total - (rows - kind))
    terms = [
        math.exp(_log_choose(kind, k) + _log_choose(rows - kind, total - k) - whole) for k in range(low, count + 1)
    ]
    return min(1.0, sum(terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
