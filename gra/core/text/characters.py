"""Make text with any characters safe to write, to normalize and to compare."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

_JOINER = "\u034f"  # COMBINING GRAPHEME JOINER: nothing is reordered across it
_LONGEST_RUN = 30  # marks on one character, as in Unicode's Stream-Safe Text Format
_MARKS = re.compile(rf"[^\w\s]{{{_LONGEST_RUN + 1},}}")


def well_formed(text: str) -> str:
    """Replace each half of a surrogate pair by U+FFFD: it is no character, and no file can hold it."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def normalized(form: Literal["NFC", "NFKC"], text: str) -> str:
    """Return a text in a Unicode normal form, in time proportional to its length.

    Python's routine takes the square of the number of combining marks on one character. Marks beyond 30 are therefore
    kept apart by a joiner.
    """
    return text if text.isascii() else unicodedata.normalize(form, _MARKS.sub(_broken, text))


def _broken(found: re.Match[str]) -> str:
    pieces, marks = [], 0
    for character in found[0]:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > _LONGEST_RUN:
            pieces.append(_JOINER)
            marks = 1
        pieces.append(character)
    return "".join(pieces)


def letters(text: str) -> str:
    """Return a text's letters and digits in lower case, without anything else."""
    return "".join(filter(str.isalnum, text.lower()))
