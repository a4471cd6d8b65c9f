"""The `integrated` arm: the refined seeds and the new samples of the `gra` arm together."""

from __future__ import annotations

from collections.abc import Sequence

from gra.core.types import Seed
from gra.synthesis.arms import ArmCandidates
from gra.synthesis.arms.refined import refine_seeds
from gra.synthesis.context import SynthesisContext
from gra.synthesis.records import ConcatenatedCandidates
from gra.synthesis.rounds.write_samples import write_samples
from gra.synthesis.setup import prepared_committee


async def make_candidates(context: SynthesisContext, seeds: Sequence[Seed], first: int | None = None) -> ArmCandidates:
    """Prepare the committee, refine the seeds and run all rounds."""
    async with prepared_committee(context, seeds) as committee:
        if committee is None:
            return ArmCandidates([])
        refined = await refine_seeds(context, committee.settings, committee.seeds[:first])
        samples = await write_samples(context, committee.settings, committee.seeds)
        return ArmCandidates(ConcatenatedCandidates([refined, samples]), await committee.facts())
