"""Make one candidate a seed, in the seeds' order, for arms that keep the seeds' instructions.

Such arms are not deduplicated: a seed file's own repetitions are the same in each of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import BudgetExhausted
from gra.core.processes.concurrency import in_turn
from gra.core.types import Candidate, Seed, State
from gra.core.vocabulary import RejectedAt, StopReason
from gra.synthesis.call_names import answer_id
from gra.synthesis.candidate import reject
from gra.synthesis.context import SynthesisContext
from gra.synthesis.records import RecordedCandidates
from gra.synthesis.rounds.round import is_unanswered

Make = Callable[[str, int, Seed], Awaitable[Candidate]]  # from id, index and seed


async def one_per_seed(
    context: SynthesisContext,
    seeds: Sequence[Seed],
    prefix: str,
    scope: str,
    in_flight: int,
    make: Make,
    *,
    admitted: bool = False,
) -> RecordedCandidates:
    """Make one candidate a seed; recorded verdicts count, and no more are begun once the budget is spent.

    Args:
        context: what the arm needs.
        seeds: in the order of the candidates.
        prefix: what the candidates' ids begin with.
        scope: what verdicts depend on; a verdict recorded under another scope does not count.
        in_flight: how many candidates may run at once.
        make: makes one candidate.
        admitted: whether the candidates' calls were made already, under the budget's caps.
    """
    names = [answer_id(prefix, seed.id) for seed in seeds]
    begun: set[int] = set()
    unanswered: dict[int, Candidate] = {}

    async def one(index: int) -> None:
        name = names[index]
        recorded = context.ledger.candidate_record(name, scope)
        if recorded is not None and not is_unanswered(candidate := Candidate.from_json(recorded)):
            begun.add(index)
            context.note(candidate, len(seeds), quietly=True)
            return
        try:
            if not admitted:
                await context.broker.account.admit(name)
        except BudgetExhausted:
            return
        begun.add(index)
        ended = await make(name, index, seeds[index])
        context.broker.account.end(name)
        await context.ledger.conclude(name, ended.to_json(), scope)
        if is_unanswered(ended):
            unanswered[index] = ended
        else:
            context.note(ended, len(seeds))

    context.ended.clear()
    context.goal.rows += len(seeds)
    context.goal.candidates += len(seeds)
    await in_turn(range(len(seeds)), one, in_flight)
    left = len(seeds) + 1
    while 0 < len(unanswered) < left:  # asked again as long as that leaves fewer
        again, left = sorted(unanswered), len(unanswered)
        unanswered.clear()
        await in_turn(again, one, in_flight)
    if len(begun) < len(seeds):
        context.stopped.append(StopReason.BUDGET)
        context.view.note(f"! the budget is spent: {len(seeds) - len(begun)} of {len(seeds)} seeds were not begun")
    for candidate in unanswered.values():
        context.note(candidate, len(seeds))
    if unanswered:
        context.stopped.append(StopReason.INFRASTRUCTURE)
        context.note_unanswered(len(unanswered), unanswered[max(unanswered)].reason)
    return RecordedCandidates(context.ledger, scope, [names[index] for index in sorted(begun)])


def copy_seed(recipe: SynthesisRecipe, name: str, index: int, seed: Seed, reason: str) -> Candidate:
    """Return an accepted candidate with the seed's instruction and response."""
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
        response=seed.response,
    )


def reject_special_tokens(context: SynthesisContext, candidate: Candidate) -> Candidate:
    """Reject a candidate whose texts hold a chat template's token; training refuses such a row."""
    for place, text in (("instruction", candidate.instruction), ("response", candidate.response)):
        if token := context.special_tokens.find(text):
            return reject(candidate, RejectedAt.SPECIAL_TOKEN, f"{place}: holds {token}, a chat template's token")
    return candidate
