"""Greedy deduplication of rows that are still coming in.

After every row, what is kept is what `greedy_dedup` would keep of all rows so far. A new row can push out a row of
lower score, which may let others back in; only these are looked at again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gra.data.dedup.minhash import MinHashText
from gra.data.dedup.nearest import BLOCK, Corpus, Matrix, reaches, worker_threads


class IncrementalDedup:
    """The rows so far, and which of them are kept; earlier rows go before later ones of the same score."""

    def __init__(self, pool: Matrix, pool_texts: Sequence[str], threshold: float, minhash: float | None = None) -> None:
        self._pool = Corpus(pool)
        self._pool.add(np.arange(len(pool)))
        self._threshold = threshold
        self._wording = MinHashText(minhash)
        self._pool_keys = {self._wording.key(text) for text in pool_texts}
        self._vectors: Matrix | None = None
        self._scores = np.empty(0)
        self._keys = np.empty(0, np.intp)
        self._against = np.empty(0, np.intp)  # how many that are kept (or pooled) speak against each row
        self._kept = np.empty(0, bool)

    def arrive(self, vectors: Matrix, scores: Sequence[float], texts: Sequence[str]) -> Iterator[NDArray[np.bool_]]:
        """Take in rows in order, and show after each of them which rows are kept; the array changes with the next.

        Args:
            vectors: unit rows, those of the new rows after all that came before; they are looked at and not copied.
            scores: of the new rows, as the texts.
        """
        begun = len(self._scores)
        keys = [self._wording.key(text) for text in texts]
        self._vectors = vectors
        self._scores = np.concatenate([self._scores, np.asarray(scores, np.float64)])
        self._keys = np.concatenate([self._keys, np.array(keys, np.intp)])
        self._against = np.concatenate([self._against, self._pooled(vectors[begun:], keys)])
        self._kept = np.concatenate([self._kept, np.zeros(len(texts), bool)])
        for row in range(begun, len(vectors)):
            self._take(row)
            yield self._kept

    def _pooled(self, vectors: Matrix, keys: Sequence[int]) -> NDArray[np.intp]:
        """Return 1 for each row that the pool has already, else 0."""
        found = np.array([not self._pool_keys.isdisjoint([key, *self._wording.alike(key)]) for key in keys], bool)
        with worker_threads() as workers:
            for start in range(0, len(vectors), BLOCK):
                nearest = self._pool.nearest(vectors[start : start + BLOCK], self._threshold, workers)
                found[start : start + BLOCK] |= nearest.similarity >= self._threshold
        return found.astype(np.intp)

    def _take(self, new: int) -> None:
        better, _ = self._similar(new, new + 1)
        self._against[new] += int(self._kept[better].sum())
        # In the order of greedy dedup: all better rows of a row are decided before it.
        again = [(-self._scores[new], new)]
        while again:
            _, row = heapq.heappop(again)
            keep = bool(self._against[row] == 0)
            if keep == self._kept[row]:
                continue
            self._kept[row] = keep
            _, worse = self._similar(row, new + 1)
            self._against[worse] += 1 if keep else -1
            unsettled = worse[self._kept[worse] != (self._against[worse] == 0)]
            for other in unsettled.tolist():
                heapq.heappush(again, (-self._scores[other], other))

    def _similar(self, row: int, upto: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows before `upto` that are the same as a row: those that go before it, and those after it."""
        assert self._vectors is not None
        vectors, one = self._vectors[:upto], self._vectors[row : row + 1]
        same = reaches(one @ vectors.T, one, vectors, self._threshold)[0]
        key = int(self._keys[row])
        same |= np.isin(self._keys[:upto], [key, *self._wording.alike(key)])
        same[row] = False
        others = np.flatnonzero(same)
        score = self._scores[row]
        first = (self._scores[others] > score) | ((self._scores[others] == score) & (others < row))
        return others[first], others[~first]
