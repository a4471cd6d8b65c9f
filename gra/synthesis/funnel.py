"""How many candidates reached each step of the method: for the live view, the manifest and the report."""

from __future__ import annotations

from collections.abc import Sequence

from gra.core.records import Candidate, State
from gra.synthesis.programs import past_programs


def funnel(candidates: Sequence[Candidate]) -> dict[str, int]:
    """How many candidates reached each step of the method."""
    return {
        "candidates": len(candidates),
        "instruction written": sum(bool(c.instruction) for c in candidates),
        "instruction passed": sum(bool(c.response) for c in candidates),
        **past_programs(candidates),
        "scored": sum(c.mean is not None for c in candidates),
        "mean passed": sum(c.mean is not None and (c.disputed or c.state is not State.REJECTED) for c in candidates),
        "disputed": sum(c.disputed for c in candidates),
        "kept by adjudicator": sum(c.ruling is not None and c.ruling.kept for c in candidates),
        "accepted": sum(c.state is State.ACCEPTED for c in candidates),
    }
