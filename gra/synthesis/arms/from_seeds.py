"""Arms that keep the seeds' instructions: `vanilla` copies, `distilled` answers, `refined` answers and reviews.

One candidate a seed, in the seeds' order. Nothing is deduplicated: a seed set's own repetitions are the
same in each of these arms.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import BudgetExhausted
from gra.core.processes.concurrency import at_once
from gra.core.types import Candidate, Seed, State
from gra.engines.types import calls_at_once
from gra.synthesis.candidate import CandidateSettings, refine_seed
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.generator import write_response
from gra.synthesis.committee.members import make_member
from gra.synthesis.context import SynthesisContext
from gra.synthesis.decontamination import decontaminate
from gra.synthesis.records import CandidateSequence, ConcatenatedCandidates, RecordedCandidates


async def copy_seeds(context: SynthesisContext, seeds: Sequence[Seed]) -> list[Candidate]:
    """The seeds as they are."""
    recipe = context.recipe
    copies = [
        _from_seed(recipe, f"{recipe.arm}-{seed.id}", index, seed, seed.response, "seed")
        for index, seed in enumerate(seeds)
    ]
    return await decontaminate(context.job.decontaminator, copies)


async def answer_seeds(context: SynthesisContext, seeds: Sequence[Seed]) -> RecordedCandidates:
    """The teacher answers every seed instruction."""
    recipe = context.recipe
    assert recipe.teacher is not None
    served = context.registry.served(recipe.teacher)
    assert served is not None
    known = context.registry.model_id(served, recipe.teacher.adapter)
    teacher = make_member("teacher", recipe.teacher, recipe.review, known)

    async def answer(name: str, index: int, seed: Seed) -> Candidate:
        recorder = CallRecorder(context.broker, name)
        begun = _from_seed(recipe, name, index, seed, "", "teacher's answer")
        try:
            response = await write_response(recorder, teacher, seed.instruction, role="teacher")
            ended = replace(begun, response=response, generator=teacher.name)
        except Unanswered as gap:
            ended = replace(begun, state=State.FAILED, reason=str(gap), generator=teacher.name)
        ended = replace(ended, usage=dict(recorder.usage), calls=tuple(recorder.calls))
        return (await decontaminate(context.job.decontaminator, [ended]))[0]

    await context.registry.prepared.wait()
    scope = context.job.fingerprint(context.registry, "budget", "prices")
    return await _each(
        context, seeds, recipe.arm, scope, calls_at_once(context.broker.pool.engines[known.name]), answer
    )


async def refine_seeds(
    context: SynthesisContext, settings: CandidateSettings, seeds: Sequence[Seed]
) -> CandidateSequence:
    """The committee rewrites each seed's response and reviews it; `refine_seed.rejected` says what becomes of the rest."""

    async def told(_: str, index: int, seed: Seed) -> Candidate:
        return await refine_seed(settings, context.broker, index, seed)

    refined = await _each(context, seeds, "refined", settings.fingerprint, context.in_flight, told)
    if context.recipe.refine.rejected == "drop":
        return refined
    own = [(c.index, seeds[c.index]) for c in refined if c.state is not State.ACCEPTED]
    reason = "seed, its rewriting was not accepted"
    copies = [_from_seed(context.recipe, f"seed-{s.id}", i, s, s.response, reason) for i, s in own]
    return ConcatenatedCandidates([refined, await decontaminate(context.job.decontaminator, copies)])


async def _each(
    context: SynthesisContext,
    seeds: Sequence[Seed],
    prefix: str,
    scope: str,
    in_flight: int,
    tell: Callable[[str, int, Seed], Awaitable[Candidate]],
) -> RecordedCandidates:
    """One candidate a seed: as recorded, or told now. When the budget is spent, no more are begun."""
    names: list[str | None] = [None] * len(seeds)
    waiting = iter(enumerate(seeds))

    async def one_after_another() -> None:
        for index, seed in waiting:
            names[index] = await one(index, seed)

    async def one(index: int, seed: Seed) -> str | None:
        name = f"{prefix}-{seed.id}"
        recorded = context.ledger.candidate_record(name, scope)
        if recorded is not None:
            context.note(Candidate.from_json(recorded), len(seeds), quietly=True)
            return name
        try:
            await context.broker.account.admit(name)
        except BudgetExhausted:
            return None
        ended = await tell(name, index, seed)
        context.broker.account.end(name)
        await context.ledger.conclude(name, ended.to_json(), scope)
        context.note(ended, len(seeds))
        return name

    context.ended.clear()
    context.goal.rows += len(seeds)
    context.goal.candidates += len(seeds)
    await at_once(*(one_after_another() for _ in range(in_flight)))
    told = [name for name in names if name is not None]
    if len(told) < len(seeds):
        context.stopped.append("budget")
        context.view.note(f"! the budget is spent: {len(seeds) - len(told)} of {len(seeds)} seeds were not begun")
    return RecordedCandidates(context.ledger, scope, told)


def _from_seed(recipe: SynthesisRecipe, name: str, index: int, seed: Seed, response: str, reason: str) -> Candidate:
    return Candidate(
        id=name,
        round=0,
        index=index,
        domain=seed.domain,
        state=State.ACCEPTED,
        reason=reason,
        arm=recipe.arm,
        parents=(seed.id,),
        keywords=seed.keywords,
        instruction=seed.instruction,
        response=response,
    )
