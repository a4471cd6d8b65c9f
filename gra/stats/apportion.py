"""Split a whole number into whole parts by shares."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from fractions import Fraction
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def apportion(shares: Mapping[K, float], total: int) -> dict[K, int]:
    """Split `total` into whole parts by shares (largest remainder; ties in the given order)."""
    exact = {name: Fraction(share) for name, share in shares.items()}
    whole = sum(exact.values())
    parts = {name: math.floor(total * share / whole) for name, share in exact.items()}
    left = sorted(exact, key=lambda name: parts[name] - total * exact[name] / whole)
    for name in left[: total - sum(parts.values())]:
        parts[name] += 1
    return parts
