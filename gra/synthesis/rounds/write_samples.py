"""Write new samples round after round, from a pool that grows with the accepted rows (section 3.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import BudgetExhausted, DataError
from gra.core.processes.concurrency import at_once
from gra.core.rng import rng
from gra.core.types import Candidate, Seed, State
from gra.core.vocabulary import FailureCause, StopReason
from gra.data.embedder import Embedder
from gra.models.catalog import resolve
from gra.synthesis.call_names import domain_name, enrichment_name
from gra.synthesis.candidate import CandidateSettings
from gra.synthesis.committee.calls import CallRecorder, MissingAnswers, Unanswered
from gra.synthesis.committee.generator import enrich, name_domain
from gra.synthesis.committee.members import Member
from gra.synthesis.context import SynthesisContext
from gra.synthesis.funnel import plain_reason
from gra.synthesis.job import Job
from gra.synthesis.records import ConcatenatedCandidates, RecordedCandidates
from gra.synthesis.rounds.parents import eligible
from gra.synthesis.rounds.quotas import rows_by_domain
from gra.synthesis.rounds.round import Round, RoundResult, grow

_REASONS = 3  # the most frequent reasons that a note on a short round lists


async def write_samples(
    context: SynthesisContext, settings: CandidateSettings, parents: Sequence[Seed]
) -> ConcatenatedCandidates:
    """Run all rounds.

    Args:
        context: what the arm needs.
        settings: what all candidates share.
        parents: the seeds, with keywords and summaries where they have them.

    Returns:
        Every candidate in its final state, in candidate order.

    Raises:
        DataError: when a domain with a quota has fewer than two parents although it had two seeds.
    """
    recipe, rounds = settings.recipe, settings.recipe.rounds
    pool = grow({domain: [] for domain in recipe.domains}, parents)
    for domain, rows in (rows_by_domain(recipe) or {}).items():
        if rows and len(eligible(pool, recipe)[domain]) < 2:
            raise DataError(
                f"`rounds.quotas` asks for {rows} rows of {domain}, but fewer than two of its seeds got keywords and a "
                "summary (see the notes above); give them in the seed file"
            )
    embedder = Embedder(resolve(recipe.dedup.embedder, accept_licenses=recipe.accept_licenses).path)
    finished: list[RecordedCandidates] = []
    context.goal.rows += rounds.count * rounds.accept
    context.goal.candidates += rounds.count * rounds.max_candidates
    for number in range(1, rounds.count + 1):
        context.ended.clear()
        this_round = Round(settings, context.broker, context.ledger, pool, embedder, number, context.in_flight)
        result = await this_round.run(lambda ended, recorded: context.note(ended, rounds.accept, quietly=recorded))
        finished.append(result.candidates)
        context.stopped.append(result.stopped)
        context.beyond.append(result.beyond)
        _note_result(context, number, result)
        if result.unanswered or result.stopped is StopReason.INFRASTRUCTURE:
            context.note_unanswered(result.unanswered, this_round.last_failure)
        if result.stopped in (StopReason.BUDGET, StopReason.INFRASTRUCTURE):
            break
        if number < rounds.count:
            accepted = [_as_seed(candidate, recipe) for candidate in result.candidates.accepted()]
            try:
                with context.broker.account.strictly():
                    pool = grow(pool, await enrich_all(context, settings.members, accepted))
            except (BudgetExhausted, MissingAnswers) as error:
                context.view.note(f"! before round {number + 1}: {error}")
                missing = isinstance(error, MissingAnswers)
                context.stopped.append(StopReason.INFRASTRUCTURE if missing else StopReason.BUDGET)
                context.last_failure = str(error) if missing else context.last_failure
                break
    return ConcatenatedCandidates(finished)


def _note_result(context: SynthesisContext, number: int, result: RoundResult) -> None:
    rounds, have = context.recipe.rounds, result.rows
    beyond = f"; {result.beyond} more had been begun" if result.beyond else ""
    context.view.note(f"  round {number}: {have.total()} rows of {len(result.candidates)} ({result.stopped}{beyond})")
    if have.total() == rounds.accept or result.stopped in (StopReason.BUDGET, StopReason.INFRASTRUCTURE):
        return
    wanted = rows_by_domain(context.recipe) or {}
    short = ", ".join(f"{domain} {have[domain]} of {rows}" for domain, rows in wanted.items() if have[domain] < rows)
    context.view.note(
        f"! round {number} ends with {have.total()} of {rounds.accept} rows: {len(result.candidates)} candidates "
        f"are all that `rounds.max_candidates` allows{f' ({short})' if short else ''}"
    )
    others = Counter(f"{c.state}, {plain_reason(c)}" for c in result.candidates if c.state is not State.ACCEPTED)
    for reason, count in others.most_common(_REASONS):
        context.view.note(f"!   {count} {reason}")


def check_parents(job: Job, seeds: Sequence[Seed]) -> list[str]:
    """Return the domains with fewer than two seeds: a candidate needs two parents.

    Raises:
        DataError: when no domain has two seeds, or a domain with a quota has not.
    """
    recipe, count = job.recipe, Counter(seed.domain for seed in seeds)
    lone = [domain for domain in recipe.domains if count[domain] < 2]
    if len(lone) == len(recipe.domains):
        raise DataError(f"{job.seed_file()}: a candidate needs two parents, and no domain has two seeds")
    wanted = rows_by_domain(recipe) or {}
    if barren := [domain for domain in lone if wanted.get(domain)]:
        raise DataError(
            f"`rounds.quotas` asks for rows of {', '.join(barren)}, but a candidate needs two parents and there are "
            "not two seeds; add seeds, or take the domain out of `domains`"
        )
    return lone


async def name_domains(context: SynthesisContext, members: Mapping[str, Member], seeds: Sequence[Seed]) -> list[Seed]:
    """Give seeds without a domain the one that a random member chooses.

    Raises:
        MissingAnswers: when infrastructure left a seed without a domain.
    """

    async def one(seed: Seed) -> Seed:
        member = rng(context.recipe.seed, seed.id, "namer").choice(_enrichers(members))
        recorder = CallRecorder(context.broker, domain_name(seed.id))
        return await name_domain(recorder, member, seed, context.recipe.domains)

    lacking = [seed for seed in seeds if not seed.domain]
    return await _complete(context, seeds, lacking, one, "domain")


async def enrich_all(context: SynthesisContext, members: Mapping[str, Member], samples: Sequence[Seed]) -> list[Seed]:
    """Give samples without keywords or a summary both, by a random member (the paper's M_P).

    Raises:
        MissingAnswers: when infrastructure left a sample without them.
    """

    async def one(sample: Seed) -> Seed:
        member = rng(context.recipe.seed, sample.id, "enricher").choice(_enrichers(members))
        return await enrich(CallRecorder(context.broker, enrichment_name(sample.id)), member, sample)

    if context.recipe.self_guide is not None:
        return list(samples)
    lacking = [sample for sample in samples if sample.domain and not sample.enriched]
    return await _complete(context, samples, lacking, one, "metadata")


async def _complete(
    context: SynthesisContext,
    samples: Sequence[Seed],
    lacking: Sequence[Seed],
    one: Callable[[Seed], Awaitable[Seed]],
    part: str,
) -> list[Seed]:
    """Return the samples, with those that lack a part completed by `one`; unusable answers leave a sample as it is."""
    completed: dict[str, Seed] = {}
    unanswered: list[tuple[Seed, Unanswered]] = []

    async def attempt(sample: Seed) -> None:
        try:
            completed[sample.id] = await one(sample)
        except Unanswered as gap:
            if gap.cause is FailureCause.INFRASTRUCTURE:
                unanswered.append((sample, gap))
            else:
                context.view.note(f"! {sample.id} has no {part} and will not be a parent: {gap}")

    await at_once(*map(attempt, lacking))
    again = [sample for sample, _ in unanswered]
    unanswered.clear()
    await at_once(*map(attempt, again))
    if unanswered:
        raise MissingAnswers(len(unanswered), f"seeds or rows without {part}", str(unanswered[-1][1]))
    return [completed.get(sample.id, sample) for sample in samples]


def _enrichers(members: Mapping[str, Member]) -> list[Member]:
    enrichers = [member for member in members.values() if "enricher" in member.roles]
    return enrichers or [member for member in members.values() if "generator" in member.roles]


def _as_seed(candidate: Candidate, recipe: SynthesisRecipe) -> Seed:
    """Return an accepted row as a future parent, which still lacks a summary."""
    keywords = candidate.keywords if recipe.enrichment.keywords == "keep" else ()
    return Seed(candidate.id, candidate.domain, candidate.instruction, candidate.response, keywords, "")
