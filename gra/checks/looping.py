"""Find text that repeats itself without end, as small models do when they fail to stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gra.checks.text_units import words

_LONGEST_PHRASE = 60  # words
_LONGEST_UNIT = 24  # characters
_MOST_CHARACTERS = 200_000
_SHORTEST_RUN = 60  # characters that repeat what stands one period before
_BLANKS = np.array([ord(c) for c in " \t\n\r"], np.uint32)
_RULES = np.array([ord(c) for c in "-=_*~.#+|:…— \t\n\r"], np.uint32)  # dividers and blanks may repeat


def loops(text: str) -> bool:
    """Decide whether a text repeats a word, a phrase, a line or a run of characters over and over.

    A loop is a word five times in a row, or a phrase of two to four words four times. It is also a longer phrase three
    times. Or a run of 60 characters with a period of 24 or less. The last kind is one line that fills half of eight or
    more.
    """
    text = text[:_MOST_CHARACTERS]
    return _phrases(words(text.casefold())) or _characters(text) or _lines(text)


def _phrases(found: Sequence[str]) -> bool:
    stripped = [word.strip("\"'“”‘’().,;:!?*_`") for word in found]
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in stripped], np.int64)
    # A row of numbers may be a table.
    lettered = np.array([any(map(str.isalpha, word)) for word in stripped], bool)
    for period in range(1, min(_LONGEST_PHRASE, len(ids) // 3) + 1):
        times = 5 if period == 1 else 4 if period < 5 else 3
        starts, lengths = _runs(ids[period:] == ids[:-period])
        if any(lettered[start : start + period].any() for start in starts[lengths >= (times - 1) * period]):
            return True
    return False


def _characters(text: str) -> bool:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    plain, blank = ~np.isin(codes, _RULES), np.isin(codes, _BLANKS)
    for period in range(1, min(_LONGEST_UNIT, len(codes) // 3) + 1):
        starts, lengths = _runs(codes[period:] == codes[:-period])
        for start in starts[lengths >= _SHORTEST_RUN]:
            unit = slice(start, start + period)
            if plain[unit].any() and not blank[unit].any():  # words are compared as such
                return True
    return False


def _lines(text: str) -> bool:
    found = [line.strip().casefold() for line in text.splitlines()]
    counted = Counter(line for line in found if len(line) > 3 and any(map(str.isalpha, line)))
    total = sum(counted.values())
    return total >= 8 and counted.most_common(1)[0][1] * 2 >= total


def _runs(same: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where the runs of True begin, and their lengths."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]])))
    return edges[::2], edges[1::2] - edges[::2]
