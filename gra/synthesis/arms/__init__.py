"""The arms of a comparison: one module an arm, listed in gra/config/arms.py.

| arm | instructions | responses | review |
|---|---|---|---|
| `vanilla` | the seeds' | the seeds' | none |
| `distilled` | the seeds', or new | one teacher's | none |
| `refined` | the seeds' | the committee's | of responses |
| `gra` | new | the committee's | of both |
| `integrated` | `refined` and `gra` together | | |
| `self_guide` | new | one model's | none, or its own |
| `annotate` | the seeds' texts | labels | members' votes |

An arm's module defines `make_candidates(context, seeds, first)`. All arms write the same run folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gra.config.arms import ArmSpec
from gra.core.types import Seed
from gra.synthesis.context import SynthesisContext
from gra.synthesis.records import CandidateSequence


@dataclass(frozen=True)
class ArmCandidates:
    """Hold what an arm made.

    Attributes:
        candidates: every candidate in its final state.
        facts: further entries of the manifest's section.
    """

    candidates: CandidateSequence
    facts: dict[str, Any] = field(default_factory=dict)


class MakeCandidates(Protocol):
    """Make the candidates of one arm."""

    def __call__(self, context: SynthesisContext, seeds: Sequence[Seed], first: int | None) -> Awaitable[ArmCandidates]:
        """Make the candidates.

        Args:
            context: what the arm needs.
            seeds: all seeds of the recipe.
            first: how many seeds to answer, in arms that go seed by seed; None for all.
        """
        ...


def find_runner(spec: ArmSpec) -> MakeCandidates:
    """Return the function that makes an arm's candidates."""
    module = importlib.import_module(f"gra.synthesis.arms.{spec.module}")
    runner: MakeCandidates = module.make_candidates
    return runner
