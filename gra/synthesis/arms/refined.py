"""The `refined` arm: the committee rewrites or answers every seed, and reviews its own responses."""

from __future__ import annotations

from collections.abc import Sequence

from gra.core.types import Candidate, Seed, State
from gra.synthesis.arms import ArmCandidates
from gra.synthesis.candidate import CandidateSettings, refine_seed
from gra.synthesis.context import SynthesisContext
from gra.synthesis.decontamination import decontaminate
from gra.synthesis.from_seeds import copy_seed, one_per_seed
from gra.synthesis.records import CandidateSequence, ConcatenatedCandidates
from gra.synthesis.rounds.round import is_unanswered
from gra.synthesis.setup import prepared_committee


async def make_candidates(context: SynthesisContext, seeds: Sequence[Seed], first: int | None = None) -> ArmCandidates:
    """Prepare the committee and refine the seeds."""
    async with prepared_committee(context, seeds) as committee:
        if committee is None:
            return ArmCandidates([])
        refined = await refine_seeds(context, committee.settings, committee.seeds[:first])
        return ArmCandidates(refined, await committee.facts())


async def refine_seeds(
    context: SynthesisContext, settings: CandidateSettings, seeds: Sequence[Seed]
) -> CandidateSequence:
    """Refine each seed; with `refine.rejected: keep`, the seed's own response takes the place of a rejected one."""

    async def refine(_: str, index: int, seed: Seed) -> Candidate:
        return await refine_seed(settings, context.broker, index, seed)

    refined = await one_per_seed(context, seeds, "refined", settings.fingerprint, context.in_flight, refine)
    if context.recipe.refine.rejected == "drop":
        return refined
    kept = [(c.index, seeds[c.index]) for c in refined if c.state is not State.ACCEPTED and not is_unanswered(c)]
    reason = "seed, its rewriting was not accepted"
    copies = [copy_seed(context.recipe, f"seed-{seed.id}", index, seed, reason) for index, seed in kept]
    return ConcatenatedCandidates([refined, await decontaminate(context.job.decontaminator, copies)])
