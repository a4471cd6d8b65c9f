"""Count how many candidates reached each step of the method, for the live view, the manifest and the report."""

from __future__ import annotations

from gra.config.synthesis import SynthesisRecipe
from gra.core.types import Candidate, State
from gra.synthesis.committee.verifiers import passed
from gra.synthesis.rounds.dedup import DUPLICATE_OF

PROGRAMS = "programs passed"  # left out where the recipe has no verifier
CLEAN = "free of test items"  # left out where the recipe names no suite
STEPS = (
    "candidates",
    "instruction written",
    "response written",
    PROGRAMS,
    "scored",
    "mean passed",
    "disputed",
    "kept by adjudicator",
    CLEAN,
    "accepted",
)


def plain_reason(candidate: Candidate) -> str:
    """Return why a candidate ended as it did, without the name of the sample that a duplicate repeats."""
    step = candidate.rejected_at
    return DUPLICATE_OF.get(step, candidate.reason) if step is not None else candidate.reason


def taken_by(recipe: SynthesisRecipe) -> tuple[str, ...]:
    """Return the `STEPS` that a recipe has."""
    without = {PROGRAMS: not recipe.review.verifiers, CLEAN: recipe.contamination is None}
    return tuple(step for step in STEPS if not without.get(step))


def steps(candidate: Candidate) -> dict[str, int]:
    """Return which of the `STEPS` a candidate reached, as counts: 1 or 0."""
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
        c.contamination is not None and c.state is not State.CONTAMINATED,
        c.state is State.ACCEPTED,
    )
    return dict(zip(STEPS, map(int, reached), strict=True))
