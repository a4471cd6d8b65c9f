"""The `gra` arm: a committee writes new samples in rounds, reviews and adjudicates them. This is the paper's method."""

from __future__ import annotations

from collections.abc import Sequence

from gra.core.types import Seed
from gra.synthesis.arms import ArmCandidates
from gra.synthesis.context import SynthesisContext
from gra.synthesis.rounds.write_samples import write_samples
from gra.synthesis.setup import prepared_committee


async def make_candidates(context: SynthesisContext, seeds: Sequence[Seed], first: int | None = None) -> ArmCandidates:
    """Prepare the committee and run all rounds."""
    async with prepared_committee(context, seeds) as committee:
        if committee is None:
            return ArmCandidates([])
        samples = await write_samples(context, committee.settings, committee.seeds)
        return ArmCandidates(samples, await committee.facts())
