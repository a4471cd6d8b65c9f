"""Random draws that depend on what they are for and never on when they are made."""

from __future__ import annotations

import random

from gra.core.hashing import digest


def rng(*purpose: int | str) -> random.Random:
    """A generator for one purpose, such as (run seed, round, candidate index, "parents")."""
    return random.Random(int(digest(list(purpose)), 16))
