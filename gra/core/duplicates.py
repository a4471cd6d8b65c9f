"""Find what is named more than once in a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that a list has more than once, in alphabetical order."""
    return sorted(name for name, count in Counter(names).items() if count > 1)
