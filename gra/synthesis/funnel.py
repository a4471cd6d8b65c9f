"""How many candidates reached each step of the method: for the live view, the manifest and the report."""

from __future__ import annotations

from gra.core.records import Candidate, State
from gra.synthesis.programs import passed

PROGRAMS = "programs passed"  # left out where no program is asked
STEPS = (
    "candidates",
    "instruction written",
    "response written",
    PROGRAMS,
    "scored",
    "mean passed",
    "disputed",
    "kept by adjudicator",
    "accepted",
)


def steps(candidate: Candidate) -> dict[str, bool]:
    """Which of the `STEPS` a candidate reached."""
    c, scored = candidate, candidate.mean is not None
    reached = (
        True,
        bool(c.instruction),
        bool(c.response),
        passed(c),
        scored,
        scored and (c.disputed or c.state is not State.REJECTED),
        c.disputed,
        c.ruling is not None and c.ruling.kept,
        c.state is State.ACCEPTED,
    )
    return dict(zip(STEPS, reached, strict=True))
