"""Show texts of models, servers, seeds and recipes in a terminal without letting them steer it."""

from __future__ import annotations

import re

# Characters that move the cursor, change colors or the direction of reading, or cannot be encoded. Line breaks and
# tabs stay.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_SHOWN = "\ufffd"


def printable(text: object) -> str:
    """Return the text with a replacement character for each character that a terminal would obey."""
    return _UNSAFE.sub(_SHOWN, str(text).replace("\r\n", "\n"))


def printable_line(text: object) -> str:
    """Return the printable text on one line."""
    return " ".join(printable(text).split())
