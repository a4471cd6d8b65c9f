"""MinHash: find the texts that share half of their three-word shingles with a text of a suite (Broder 1997).

Signatures of 96 permutations in 32 bands of 3. A pair of Jaccard similarity J meets in some band with probability
1 - (1 - J^3)^32: 0.99 at J = 0.5, 0.88 at 0.4, 0.03 at 0.1. Pairs that meet are settled by their exact similarity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gra.data.contamination.words import GramTable, Hashes

SHINGLE = 3  # words
_BANDS, _ROWS = 32, 3
_generator = np.random.default_rng(20250411)
_FACTORS = _generator.integers(0, 2**32, _BANDS * _ROWS, dtype=np.uint32) | np.uint32(1)
_ADDENDS = _generator.integers(0, 2**32, _BANDS * _ROWS, dtype=np.uint32)
_PRIME = np.uint64(0x100000001B3)


def jaccard(one: Hashes, two: Hashes) -> float:
    """Return the share of the shingles of two sets that is in both."""
    shared = len(np.intersect1d(one, two, assume_unique=True))
    return shared / max(1, len(one) + len(two) - shared)


def band_keys(shingles: Sequence[Hashes]) -> Hashes:
    """Return one key for each band of each text, shape [texts, bands]; no text may be without shingles."""
    sizes = np.array([len(s) for s in shingles])
    starts = np.cumsum(sizes) - sizes
    flat = (np.concatenate(shingles) >> np.uint64(32)).astype(np.uint32)
    keys = np.empty((len(shingles), _BANDS), dtype=np.uint64)
    for band in range(_BANDS):
        key = np.full(len(shingles), band, dtype=np.uint64)
        for row in range(band * _ROWS, (band + 1) * _ROWS):
            smallest = np.minimum.reduceat(flat * _FACTORS[row] + _ADDENDS[row], starts)
            key = (key ^ smallest) * _PRIME
            key ^= key >> np.uint64(29)
        keys[:, band] = key * np.uint64(0x9E3779B97F4A7C15)
    return keys


class NearDuplicates:
    """An index of a suite's texts that finds variants of them.

    Args:
        shingles: the shingle set of each text, unique and sorted.
        owners: the item that each text belongs to.
        threshold: the smallest Jaccard similarity that counts.
    """

    def __init__(self, shingles: Sequence[Hashes], owners: Sequence[int], threshold: float) -> None:
        self._shingles, self._owners, self._threshold = list(shingles), list(owners), threshold
        self._largest = max((len(s) for s in shingles), default=0) / threshold
        keys = band_keys(self._shingles) if self._shingles else np.zeros((0, _BANDS), dtype=np.uint64)
        texts = np.repeat(np.arange(len(self._shingles), dtype=np.int32), _BANDS)
        self._table = GramTable(keys.ravel(), texts)

    def find(self, candidates: Sequence[Hashes]) -> list[tuple[int, int, float]]:
        """Return triples of a candidate's index, an item, and their similarity, at the threshold or above."""
        # A set that much larger than every text of the suite cannot reach the threshold.
        eligible = [i for i, c in enumerate(candidates) if 0 < len(c) <= self._largest]
        if not eligible:
            return []
        places, texts = self._table.find(band_keys([candidates[i] for i in eligible]).ravel())
        pairs: NDArray[np.int64] = np.unique(np.column_stack([places // _BANDS, texts]), axis=0)
        found = []
        for place, text in pairs.tolist():
            candidate = candidates[eligible[place]]
            similarity = jaccard(candidate, self._shingles[text])
            if similarity >= self._threshold:
                found.append((eligible[place], self._owners[text], similarity))
        return found
