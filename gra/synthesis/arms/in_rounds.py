"""Arms that write new samples, round after round, from a pool that grows with what was accepted (paper section 3.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import BudgetExhausted, DataError
from gra.core.processes.concurrency import at_once
from gra.core.rng import rng
from gra.core.types import Candidate, Seed, State
from gra.data.embedder import Embedder
from gra.models.catalog import resolve
from gra.synthesis.candidate import CandidateSettings, eligible
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.generator import enrich, name_domain
from gra.synthesis.committee.members import Member
from gra.synthesis.context import SynthesisContext
from gra.synthesis.funnel import plain_reason
from gra.synthesis.job import Job
from gra.synthesis.quotas import rows_by_domain
from gra.synthesis.records import ConcatenatedCandidates, RecordedCandidates
from gra.synthesis.rounds import Round, RoundResult, grow

_ENDINGS = 3  # of candidates that are no rows, told where a round ends short


async def write_samples(
    context: SynthesisContext, settings: CandidateSettings, parents: Sequence[Seed]
) -> ConcatenatedCandidates:
    """All rounds: every candidate in its final state, in candidate order.

    Raises:
        DataError: when a domain with a quota has no two parents although it had two seeds.
    """
    recipe, rounds = settings.recipe, settings.recipe.rounds
    pool = grow({domain: [] for domain in recipe.domains}, parents)
    for domain, rows in (rows_by_domain(recipe) or {}).items():
        if rows and len(eligible(pool)[domain]) < 2:
            raise DataError(
                f"`rounds.quotas` asks for {rows} rows of {domain}, but fewer than two of its seeds got keywords and a "
                "summary (see the notes above); give them in the seed file"
            )
    embedder = Embedder(resolve(recipe.dedup.embedder, accept_licenses=recipe.accept_licenses).path)
    told: list[RecordedCandidates] = []
    context.goal.rows += rounds.count * rounds.accept
    context.goal.candidates += rounds.count * rounds.max_candidates
    for number in range(1, rounds.count + 1):
        context.ended.clear()
        this_round = Round(settings, context.broker, context.ledger, pool, embedder, number, context.in_flight)
        result = await this_round.run(lambda ended, recorded: context.note(ended, rounds.accept, quietly=recorded))
        told.append(result.candidates)
        context.stopped.append(result.stopped)
        context.beyond.append(result.beyond)
        _say_how_it_ended(context, number, result)
        if result.stopped == "budget":
            break
        if number < rounds.count:
            fresh = [_as_seed(candidate, recipe) for candidate in result.candidates.accepted()]
            try:
                with context.broker.account.strictly():
                    grown = await enrich_all(context, settings.members, fresh)
            except BudgetExhausted as spent:
                context.view.note(f"! before round {number + 1}: {spent}")
                context.stopped.append("budget")
                break
            pool = grow(pool, grown)
    return ConcatenatedCandidates(told)


def _say_how_it_ended(context: SynthesisContext, number: int, result: RoundResult) -> None:
    rounds, have = context.recipe.rounds, result.rows
    beyond = f"; {result.beyond} more had been begun" if result.beyond else ""
    context.view.note(f"  round {number}: {have.total()} rows of {len(result.candidates)} ({result.stopped}{beyond})")
    if have.total() == rounds.accept or result.stopped == "budget":
        return
    wanted = rows_by_domain(context.recipe) or {}
    short = ", ".join(f"{domain} {have[domain]} of {rows}" for domain, rows in wanted.items() if have[domain] < rows)
    context.view.note(
        f"! round {number} ends with {have.total()} of {rounds.accept} rows: {len(result.candidates)} candidates "
        f"are all that `rounds.max_candidates` allows{f' ({short})' if short else ''}"
    )
    others = Counter(f"{c.state}, {plain_reason(c)}" for c in result.candidates if c.state is not State.ACCEPTED)
    for ending, count in others.most_common(_ENDINGS):
        context.view.note(f"!   {count} {ending}")


def check_parents(job: Job, seeds: Sequence[Seed]) -> list[str]:
    """There must be two parents for a candidate, in every domain that has a quota; the domains that have not two.

    Raises:
        DataError: when there are not.
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
    """A domain for the seeds that come without one, chosen by a member drawn at random."""

    async def one(seed: Seed) -> Seed:
        if seed.domain:
            return seed
        member = rng(context.recipe.seed, seed.id, "namer").choice(_writers(members))
        try:
            return await name_domain(
                CallRecorder(context.broker, f"domain-{seed.id}"), member, seed, context.recipe.domains
            )
        except Unanswered as gap:
            context.view.note(f"! {seed.id} has no domain and will not be a parent: {gap}")
            return seed

    return await at_once(*(one(seed) for seed in seeds))


async def enrich_all(context: SynthesisContext, members: Mapping[str, Member], samples: Sequence[Seed]) -> list[Seed]:
    """Keywords and summary for the samples that lack them, by a member drawn at random (paper: M_P)."""

    async def one(sample: Seed) -> Seed:
        if sample.enriched or not sample.domain:
            return sample
        member = rng(context.recipe.seed, sample.id, "enricher").choice(_writers(members))
        try:
            return await enrich(CallRecorder(context.broker, f"enrich-{sample.id}"), member, sample)
        except Unanswered as gap:
            context.view.note(f"! {sample.id} has no metadata and will not be a parent: {gap}")
            return sample

    return await at_once(*(one(sample) for sample in samples))


def _writers(members: Mapping[str, Member]) -> list[Member]:
    writers = [member for member in members.values() if "enricher" in member.roles]
    return writers or [member for member in members.values() if "generator" in member.roles]


def _as_seed(candidate: Candidate, recipe: SynthesisRecipe) -> Seed:
    """An accepted row as a parent to be; its summary is yet to be written."""
    keywords = candidate.keywords if recipe.enrichment.keywords == "keep" else ()
    return Seed(candidate.id, candidate.domain, candidate.instruction, candidate.response, keywords, "")
