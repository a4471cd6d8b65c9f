"""The `distilled` arm: one teacher answers every seed's instruction. Answers are not reviewed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gra.core.types import Candidate, Seed
from gra.core.vocabulary import CallPurpose
from gra.engines.types import calls_at_once
from gra.synthesis.arms import ArmCandidates
from gra.synthesis.candidate import fail
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.generator import write_response
from gra.synthesis.committee.members import make_member
from gra.synthesis.context import SynthesisContext
from gra.synthesis.decontamination import decontaminate
from gra.synthesis.from_seeds import copy_seed, one_per_seed, reject_special_tokens


async def make_candidates(context: SynthesisContext, seeds: Sequence[Seed], first: int | None = None) -> ArmCandidates:
    """Have the teacher answer the seeds."""
    recipe = context.recipe
    assert recipe.teacher is not None
    served = context.registry.served(recipe.teacher)
    assert served is not None
    model = context.registry.model_id(served, recipe.teacher.adapter)
    teacher = make_member("teacher", recipe.teacher, recipe.review, model)

    async def answer(name: str, index: int, seed: Seed) -> Candidate:
        recorder = CallRecorder(context.broker, name, shorten=recipe.on_cutoff == "shorter")
        begun = replace(copy_seed(recipe, name, index, seed, "teacher's answer"), response="", generator=teacher.name)
        try:
            response = await write_response(recorder, teacher, seed.instruction, role=CallPurpose.TEACHER)
            ended = replace(begun, response=response.text, thinking=response.thinking)
            ended = reject_special_tokens(context, ended)
        except Unanswered as gap:
            ended = fail(begun, gap)
        ended = replace(ended, usage=dict(recorder.usage), calls=tuple(recorder.calls))
        return (await decontaminate(context.job.decontaminator, [ended]))[0]

    # A committee prepares for long, so the committees of an experiment go first on shared engines.
    await context.registry.candidates_began.wait()
    scope = context.job.fingerprint(context.registry, "budget", "prices")
    in_flight = calls_at_once(context.broker.pool.engines[model.name])
    return ArmCandidates(await one_per_seed(context, seeds[:first], recipe.arm, scope, in_flight, answer))
