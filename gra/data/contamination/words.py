"""Texts as words, and hashes of every run of n words in one pass of array arithmetic.

Words are runs of letters, digits and underscores in lower case; everything else only separates them, so line breaks,
punctuation, Markdown and "A." before a choice do not hide a match. A word of the suite is a random 64-bit number, a run
of words a polynomial of them: equal runs have equal hashes, others collide with probability 2^-64 each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return _WORD.findall(text.lower())


def excerpt(text: str, first: int, count: int) -> str:
    """The stretch of the original text that holds `count` words from the word `first` on."""
    spans = [match.span() for match in _WORD.finditer(text)][first : first + count]
    return text[spans[0][0] : spans[-1][1]] if spans else ""


class Vocabulary:
    """A number for each word of the suite, of 64 bits; every other word has its checksum's 32.

    Strangers match nothing, but they have to differ: a text of equal ones would have next to no shingles of its own
    and be taken for a variant of the few words that it shares with an item.
    """

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        self._places: dict[str, int] = {}
        for text in texts:
            for word in text:
                self._places.setdefault(word, len(self._places) + 1)
        digests = b"".join(blake2b(word.encode(), digest_size=8).digest() for word in self._places)
        self._values = np.concatenate([np.zeros(1, dtype=np.uint64), np.frombuffer(digests, dtype=np.uint64)])

    def values(self, text: Sequence[str]) -> Hashes:
        """The word values of a text, shape [words]."""
        place = self._places.get
        places = np.array([place(word, 0) for word in text], dtype=np.int64)
        found: Hashes = self._values[places]
        strangers = np.flatnonzero(places == 0)
        found[strangers] = np.array([crc32(text[i].encode()) for i in strangers.tolist()], dtype=np.uint64) * _MIX
        return found


def grams(values: Hashes, n: int) -> Hashes:
    """The hash of every run of n words, shape [max(0, words - n + 1)]."""
    count = max(0, len(values) - n + 1)
    found = np.zeros(count, dtype=np.uint64)
    for place in range(n):
        found *= _BASE
        found += values[place : place + count]
    # The polynomial's low bits depend on the last words only; fold the high ones in.
    found ^= found >> np.uint64(31)
    found *= _MIX
    return found


class GramTable:
    """From the hash of a gram to the items that have it; what is not in the table is told quickly."""

    def __init__(self, keys: Hashes, owners: NDArray[np.int32]) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, starts = np.unique(keys[order], return_index=True)
        self._starts = np.append(starts, len(keys))
        self._owners = owners[order]
        bits = max(10, int(np.ceil(np.log2(max(1, len(self._keys)) * 16))))
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, dtype=np.bool_)
        self._maybe[self._keys >> self._shift] = True

    def find(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Every pair of a position in `hashes` and an item that has this gram."""
        places = np.flatnonzero(self._maybe[hashes >> self._shift])
        at = np.searchsorted(self._keys, hashes[places])
        at[at == len(self._keys)] = 0
        known = self._keys[at] == hashes[places] if len(self._keys) else np.zeros(len(places), dtype=np.bool_)
        places, at = places[known], at[known]
        counts = self._starts[at + 1] - self._starts[at]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(places, counts), self._owners[np.repeat(self._starts[at], counts) + offsets]
