"""Split a whole number into whole parts by shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Split `total` into whole parts by shares (largest remainder; ties in the given order)."""
    exact = {name: Fraction(share) for name, share in shares.items()}
    whole = sum(exact.values())
    parts = {name: math.floor(total * share / whole) for name, share in exact.items()}
    left = sorted(exact, key=lambda name: parts[name] - total * exact[name] / whole)
    for name in left[: total - sum(parts.values())]:
        parts[name] += 1
    return parts
