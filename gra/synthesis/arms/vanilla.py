"""The `vanilla` arm: the seeds as they are. No model is asked."""

from __future__ import annotations

from collections.abc import Sequence

from gra.core.types import Seed
from gra.synthesis.arms import ArmCandidates
from gra.synthesis.call_names import answer_id
from gra.synthesis.context import SynthesisContext
from gra.synthesis.decontamination import decontaminate
from gra.synthesis.from_seeds import copy_seed, reject_special_tokens


async def make_candidates(context: SynthesisContext, seeds: Sequence[Seed], first: int | None = None) -> ArmCandidates:
    """Copy the seeds."""
    recipe = context.recipe
    copies = [
        reject_special_tokens(context, copy_seed(recipe, answer_id(recipe.arm, seed.id), index, seed, "seed"))
        for index, seed in enumerate(seeds)
    ]
    return ArmCandidates(await decontaminate(context.job.decontaminator, copies))
