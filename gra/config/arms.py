"""List what each arm of a comparison does, in one table.

To add an arm, add a line to `ARMS` and a module to gra/synthesis/arms that runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """State what one arm does.

    Attributes:
        module: the module in gra/synthesis/arms that runs the arm.
        keeps_seed_instructions: whether the arm makes one candidate a seed, with the seed's own instruction.
        asks_teacher: whether the recipe's `teacher` writes, and no committee.
        needs_committee: whether the recipe's `committee` writes.
        writes_rounds: whether the arm writes new samples, round after round.
        reviews: whether reviewers score responses, where the committee has reviewers.
        deduplicates: whether near copies are left out.
        single_member: whether one member plays every role.
    """

    module: str
    keeps_seed_instructions: bool = False
    asks_teacher: bool = False
    needs_committee: bool = False
    writes_rounds: bool = False
    reviews: bool = False
    deduplicates: bool = False
    single_member: bool = False

    @property
    def prepares_committee(self) -> bool:
        """Whether models are asked before the first candidate: to enrich seeds, and to measure a committee's reviewers.

        `distilled_samples` has no committee: its teacher only enriches the seeds.
        """
        return self.needs_committee or self.writes_rounds


ARMS: dict[str, ArmSpec] = {
    "vanilla": ArmSpec("vanilla", keeps_seed_instructions=True),
    "distilled": ArmSpec("distilled", keeps_seed_instructions=True, asks_teacher=True),
    "refined": ArmSpec("refined", keeps_seed_instructions=True, needs_committee=True, reviews=True),
    "gra": ArmSpec("gra", needs_committee=True, writes_rounds=True, reviews=True, deduplicates=True),
    "integrated": ArmSpec(
        "integrated",
        keeps_seed_instructions=True,
        needs_committee=True,
        writes_rounds=True,
        reviews=True,
        deduplicates=True,
    ),
    "self_guide": ArmSpec(
        "self_guide", needs_committee=True, writes_rounds=True, reviews=True, deduplicates=True, single_member=True
    ),
}
# `distilled` with `teacher.writes: samples`: the teacher writes new instructions too.
DISTILLED_SAMPLES = ArmSpec("distilled_samples", asks_teacher=True, writes_rounds=True, deduplicates=True)


def find_arm(name: str, teacher_writes: str | None = None) -> ArmSpec:
    """Return the specification of a recipe's arm.

    Args:
        name: the recipe's `arm`.
        teacher_writes: the recipe's `teacher.writes`, where it has a teacher.
    """
    spec = ARMS[name]
    return DISTILLED_SAMPLES if spec.asks_teacher and teacher_writes == "samples" else spec


def _known(name: str) -> str:
    if name not in ARMS:
        *first, last = (f"'{arm}'" for arm in ARMS)
        expected = f"{', '.join(first)} or {last}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return name


ArmName = Annotated[str, AfterValidator(_known)]
