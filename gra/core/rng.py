"""Make random generators that depend on their purpose, never on the order of draws."""

from __future__ import annotations

import random

from gra.core.hashing import digest


def rng(*purpose: int | str) -> random.Random:
    """Return a generator for one purpose, such as (run seed, round, candidate index, "parents")."""
    return random.Random(int(digest(list(purpose)), 16))
