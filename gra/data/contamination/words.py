"""Split texts into words, and hash every run of n words in one pass of array arithmetic.

Words are runs of letters, digits and underscores in one normal form: NFKC, without case and invisible characters.
So line breaks, punctuation, Markdown and "A." before a choice do not hide a match.
In scripts without spaces between words (Chinese, Japanese, Thai, ...) every character is a word.

A word of the suite is a random 64-bit number, a run of words a polynomial of them.
Equal runs have equal hashes, others collide with probability 2^-64 each.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import blake2b
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gra.core.text.characters import normalized

Hashes = NDArray[np.uint64]
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
# Thai and Lao, Myanmar, Khmer, Tai scripts, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\U00020000-\U0003ffff"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_INVISIBLE = dict.fromkeys([0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF])
_LAST_MARK = 0x1E944  # the end of the last block with combining marks, variation selectors aside
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def words(text: str) -> list[str]:
    """Return the words of a text in normal form."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return [word.casefold() for word in _word().findall(_normal(text))]


def excerpt(text: str, first: int, count: int) -> str:
    """Return the stretch of a text that holds `count` words from the word `first` on, its characters in NFKC."""
    text = _normal(text)
    pattern = _ASCII_WORD if text.isascii() else _word()
    spans = [match.span() for match in pattern.finditer(text)][first : first + count]
    return text[spans[0][0] : spans[-1][1]] if spans else ""


def characters_per_word(text: Sequence[str]) -> int:
    """Return how many words of a text say as much as one English word: 2 in scripts without spaces, else 1."""
    return 2 if 2 * sum(_IS_UNSPACED.match(word) is not None for word in text) > len(text) else 1


def _normal(text: str) -> str:
    return text if text.isascii() else normalized("NFKC", text).translate(_INVISIBLE)


@cache
def _word() -> re.Pattern[str]:
    """Return the pattern of a word; marks such as Indic vowel signs belong to the letter before them."""
    marks = [chr(code) for code in range(0x300, _LAST_MARK) if unicodedata.category(chr(code)).startswith("M")]
    mark = f"[{''.join(marks)}]*+"
    return re.compile(rf"(?=\w)[{_UNSPACED}]{mark}|(?:[^\W{_UNSPACED}]++{mark})++")


class Vocabulary:
    """A number for each word of the suite, of 64 bits; every other word has its checksum's 32 bits.

    Other words match nothing, but their numbers have to differ. A text of equal numbers would have few shingles.
    Then the words that it shares with an item would weigh too much.
    """

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        self._places: dict[str, int] = {}
        for text in texts:
            for word in text:
                self._places.setdefault(word, len(self._places) + 1)
        digests = b"".join(
            blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in self._places
        )
        self._values = np.concatenate([np.zeros(1, dtype=np.uint64), np.frombuffer(digests, dtype=np.uint64)])

    def values(self, text: Sequence[str]) -> Hashes:
        """Return the word values of a text, shape [words]."""
        place = self._places.get
        places = np.array([place(word, 0) for word in text], dtype=np.int64)
        found: Hashes = self._values[places]
        others = np.flatnonzero(places == 0)
        found[others] = (
            np.array([crc32(text[i].encode("utf-8", "surrogatepass")) for i in others.tolist()], dtype=np.uint64) * _MIX
        )
        return found


def grams(values: Hashes, n: int) -> Hashes:
    """Return the hash of every run of n words, shape [max(0, words - n + 1)]."""
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
    """A table from the hash of a gram to the items that have it; a bitmap rules most other grams out."""

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
        """Return every pair of a position in `hashes` and an item that has this gram."""
        places = np.flatnonzero(self._maybe[hashes >> self._shift])
        at = np.searchsorted(self._keys, hashes[places])
        at[at == len(self._keys)] = 0
        known = self._keys[at] == hashes[places] if len(self._keys) else np.zeros(len(places), dtype=np.bool_)
        places, at = places[known], at[known]
        counts = self._starts[at + 1] - self._starts[at]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(places, counts), self._owners[np.repeat(self._starts[at], counts) + offsets]
