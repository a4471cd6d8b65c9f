"""One candidate's life, as the paper's method section tells it.

    draw parents -> keywords -> instruction (-> a demand on form) -> every reviewer checks the instruction
      -> response -> programs check what can be checked -> every reviewer scores the response
      -> the gate -> (adjudicate) -> (the screen against a suite) -> verdict

A refined seed keeps its instruction and enters at the response. A story is a pure function of the run
seed, its round and index, the pool of the round before, and the recorded answers; it knows nothing of
batches, GPUs, retries or restarts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError
from gra.core.processes.concurrency import together
from gra.core.rng import rng
from gra.core.types import Candidate, Review, Seed, State, Verified, VerifierMode
from gra.engines.broker import Broker
from gra.synthesis.best_of_n import pick_best
from gra.synthesis.committee.adjudicator import adjudicate
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.gate import Gate, decide
from gra.synthesis.committee.generator import new_keywords, rewrite_response, write_instruction, write_response
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.reviewer import Calibration, add_comment, check_instruction, score_response
from gra.synthesis.committee.roles import RoleAssignment, assign_roles
from gra.synthesis.committee.verifiers import Verifier, VerifierInput
from gra.synthesis.decontamination import Decontaminator, decontaminate
from gra.synthesis.format_constraints import add_format_constraint

Pool = Mapping[str, Sequence[Seed]]


def uncalibrated(raw: float) -> float:
    """The calibration of a reviewer that was not measured: its score as it stands."""
    return raw


@dataclass(frozen=True)
class CandidateSettings:
    """What all stories of a run share: the recipe, the committee and what the probes taught about it."""

    recipe: SynthesisRecipe
    members: Mapping[str, Member]
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    late: Mapping[str, Callable[[], Awaitable[Calibration]]] = field(
        default_factory=dict
    )  # of those measured meanwhile
    verifiers: Sequence[Verifier] = ()
    fingerprint: str = ""  # of all that a verdict depends on beside the pool
    decontaminator: Decontaminator | None = None

    def calibration(self, member: Member) -> Calibration:
        """The member's map from raw to calibrated score."""
        return self.calibrations.get(member.name, uncalibrated)

    async def measured(self, member: Member) -> Calibration:
        """The same for a member that may still be about to be measured."""
        return await self.late[member.name]() if member.name in self.late else self.calibration(member)


def candidate_id(round_: int, index: int) -> str:
    """The name of a candidate; sorts in candidate order."""
    return f"r{round_}-{index:06d}"


async def generate_candidate(
    settings: CandidateSettings, broker: Broker, parents: Pool, round_: int, index: int, domain: str | None = None
) -> Candidate:
    """Tell one story to its end; every path leads to a terminal state with a reason.

    Args:
        parents: the samples of each domain that can be parents (`eligible`).
        domain: what the candidate is for; without one, domains take turns.
    """
    recipe = settings.recipe
    domain = domain or domain_in_turn(recipe, parents, round_, index)
    drawn = rng(recipe.seed, round_, index, "parents").sample(parents[domain], 2)
    run = _start(settings, broker, candidate_id(round_, index), round_, index, domain, drawn)
    return await _finish(run, run.generate(drawn))


async def refine_seed(settings: CandidateSettings, broker: Broker, index: int, seed: Seed) -> Candidate:
    """The seed's instruction with a response of the committee's, reviewed like any other."""
    run = _start(settings, broker, f"refined-{seed.id}", 0, index, seed.domain, [seed])
    return await _finish(run, run.rewrite(seed))


def _start(
    settings: CandidateSettings,
    broker: Broker,
    name: str,
    round_: int,
    index: int,
    domain: str,
    parents: Sequence[Seed],
) -> _CandidateRun:
    roles = assign_roles(settings.recipe, settings.members, round_, index)
    begun = Candidate(
        id=name,
        round=round_,
        index=index,
        domain=domain,
        state=State.FAILED,
        reason="",
        arm=settings.recipe.arm,
        generator=roles.generator.name,
        reviewers=tuple(reviewer.name for reviewer in roles.reviewers),
        adjudicator=roles.adjudicator.name if roles.adjudicator else "",
        parents=tuple(parent.id for parent in parents),
    )
    return _CandidateRun(settings, roles, CallRecorder(broker, name), begun)


async def _finish(run: _CandidateRun, attempt: Awaitable[Candidate]) -> Candidate:
    try:
        ended = await attempt
    except Unanswered as gap:
        ended = replace(run.candidate, state=State.FAILED, reason=str(gap))
    # Sorted: reviewers answer in any order, and the same story must read the same.
    ended = replace(ended, usage=dict(run.recorder.usage), calls=tuple(sorted(run.recorder.calls)))
    return (await decontaminate(run.settings.decontaminator, [ended]))[0]


def domain_in_turn(recipe: SynthesisRecipe, parents: Pool, round_: int, index: int) -> str:
    """Domains take turns, in an order of their own for every lap, so that no domain is favoured."""
    domains = tuple(domain for domain in recipe.domains if len(parents.get(domain, ())) >= 2)
    if not domains:
        raise DataError("every candidate needs two parents, and no domain has two seeds with keywords and a summary")
    lap, place = divmod(index, len(domains))
    return _lap(recipe.seed, round_, lap, domains)[place]


@lru_cache(maxsize=64)
def _lap(seed: int, round_: int, lap: int, domains: tuple[str, ...]) -> list[str]:
    return rng(seed, round_, lap, "domains").sample(domains, len(domains))


def eligible(pool: Pool) -> dict[str, list[Seed]]:
    """The samples of each domain that can be parents; the pool holds the others too, for deduplication."""
    return {domain: [sample for sample in samples if sample.enriched] for domain, samples in pool.items()}


def _bare(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def _remark(verdict: Verified) -> str:
    """A program's verdict in words, for an adjudicator to read."""
    return f"a program found wrong: {'; '.join(verdict.broken)}" if verdict.broken else "a program found nothing wrong"


class _CandidateRun:
    """The steps of one candidate; `told` is what is known of it so far."""

    def __init__(
        self, settings: CandidateSettings, roles: RoleAssignment, recorder: CallRecorder, begun: Candidate
    ) -> None:
        self.settings = settings
        self.roles = roles
        self.recorder = recorder
        self.candidate = begun

    async def generate(self, parents: Sequence[Seed]) -> Candidate:
        """Keywords, instruction and response, all new."""
        generator, domain = self.roles.generator, self.candidate.domain
        # A small pool gives the same two parents again: the candidates then differ by their draw of keywords.
        keywords = await new_keywords(self.recorder, generator, domain, parents, drawn=self.candidate.index)
        self.candidate = replace(self.candidate, keywords=keywords)
        instruction = await write_instruction(
            self.recorder, generator, domain, keywords, parents, self.settings.recipe.rounds.parents
        )
        luck = rng(self.settings.recipe.seed, self.candidate.round, self.candidate.index, "form")
        instruction = add_format_constraint(instruction, domain, self.settings.recipe.format_constraints, luck)
        self.candidate = replace(self.candidate, instruction=instruction)
        if failed := await self._check():
            return replace(self.candidate, state=State.REJECTED, reason=f"instruction: {failed}")
        return await self._answered(lambda number: write_response(self.recorder, generator, instruction, draft=number))

    async def rewrite(self, seed: Seed) -> Candidate:
        """A new response to a seed's own instruction, which is taken as it is and not checked."""
        self.candidate = replace(self.candidate, keywords=seed.keywords, instruction=seed.instruction, tests=seed.tests)
        generator = self.roles.generator
        if self.settings.recipe.refine.writes == "answer":
            return await self._answered(
                lambda number: write_response(self.recorder, generator, seed.instruction, draft=number)
            )
        return await self._answered(lambda number: rewrite_response(self.recorder, generator, seed, draft=number))

    async def _answered(self, write: Callable[[int], Awaitable[str]]) -> Candidate:
        """Every draft is written and judged; the best is the story's."""
        return pick_best(await together(*(self._draft(n, write) for n in range(self.settings.recipe.best_of))))

    async def _draft(self, number: int, write: Callable[[int], Awaitable[str]]) -> Candidate:
        """The story with one response and its verdict; a question that got no answer ends only this draft."""
        attempt = copy(self)
        try:
            return await attempt._respond(await write(number))
        except Unanswered as gap:
            return replace(attempt.candidate, state=State.FAILED, reason=str(gap))

    async def _respond(self, response: str) -> Candidate:
        """One response: programs with a veto and every reviewer judge it, and the gate decides."""
        self.candidate = replace(self.candidate, response=response)
        if _bare(response) == _bare(self.candidate.instruction):
            # Small models do this, and it looks likely to a reviewer that reads likelihoods.
            return replace(self.candidate, state=State.REJECTED, reason="response: repeats the instruction")
        if fault := await self._filtered():
            return replace(self.candidate, state=State.REJECTED, reason=fault)
        return await self._judge(await self._review())

    async def _check(self) -> str:
        """Every reviewer checks the instruction; the criteria that failed, or an empty text when all passed."""
        checks = await together(
            *(
                check_instruction(
                    self.recorder, reviewer, self.candidate.instruction, self.settings.thresholds.get(reviewer.name, {})
                )
                for reviewer in self.roles.reviewers
            )
        )
        self.candidate = replace(self.candidate, checks=tuple(checks))
        return ", ".join(sorted({name for check in checks for name in check.failed}))

    async def _filtered(self) -> str:
        """The programs with a veto, in the recipe's order; why the first one rejects, or an empty text."""
        for verifier in self._verifiers("filter"):
            await self._consult([verifier])
            verdict = self.candidate.verifications[-1]
            if isinstance(verdict, Verified) and verdict.broken:
                return f"program {verifier.kind}: {verifier.fault}"
        return ""

    def _verifiers(self, mode: VerifierMode) -> list[Verifier]:
        domain = self.candidate.domain
        return [
            verifier
            for verifier in self.settings.verifiers
            if verifier.recipe.mode == mode and domain in (verifier.recipe.domains or [domain])
        ]

    async def _consult(self, verifiers: Sequence[Verifier]) -> None:
        candidate = self.candidate
        sample = VerifierInput(
            candidate.domain, candidate.instruction, candidate.response, candidate.generator, candidate.tests
        )
        verdicts = await together(*(verifier.judge(sample, self.recorder) for verifier in verifiers))
        self.candidate = replace(self.candidate, verifications=(*self.candidate.verifications, *verdicts))

    async def _review(self) -> tuple[Review, ...]:
        reviews = await together(
            *(
                score_response(
                    self.recorder,
                    reviewer,
                    self.candidate.instruction,
                    self.candidate.response,
                    comment=self.settings.recipe.review.comments == "always",
                    calibrate=self.settings.calibration(reviewer),
                )
                for reviewer in self.roles.reviewers
            )
        )
        self.candidate = replace(self.candidate, reviews=tuple(reviews))
        await self._consult(self._verifiers("score"))
        return tuple(reviews)

    def _verifier_reviews(self) -> tuple[Review, ...]:
        """What programs on a reviewer's seat say, as reviews; one that abstains has none."""
        return tuple(
            Review(f"program {verdict.verifier}", {}, verdict.score, verdict.score, _remark(verdict))
            for verdict in self.candidate.verifications
            if isinstance(verdict, Verified) and verdict.mode == "score"
        )

    async def _judge(self, reviews: Sequence[Review]) -> Candidate:
        """The gate, and the adjudicator where the reviewers disagree."""
        review = self.settings.recipe.review
        scores = [r.score for r in (*reviews, *self._verifier_reviews())]
        if not scores:
            return replace(self.candidate, state=State.ACCEPTED, reason="no reviewers")
        consensus = decide(scores, review)
        self.candidate = replace(self.candidate, mean=consensus.mean, std=consensus.std)
        match consensus.gate:
            case Gate.REJECT:
                return replace(self.candidate, state=State.REJECTED, reason="response: mean score too low")
            case Gate.ACCEPT:
                return replace(self.candidate, state=State.ACCEPTED, reason="reviewers agree")
            case Gate.ADJUDICATE:
                self.candidate = replace(self.candidate, disputed=True)
                return await self._settle(reviews)

    async def _settle(self, reviews: Sequence[Review]) -> Candidate:
        """What becomes of a dispute: the adjudicator's word, or in an ablation the recipe's."""
        recipe, adjudicator = self.settings.recipe, self.roles.adjudicator
        if adjudicator is None:
            accepted = recipe.review.disputed == "accept"
            state = State.ACCEPTED if accepted else State.REJECTED
            return replace(self.candidate, state=state, reason=f"disputed: {state}, nobody adjudicates")
        if recipe.review.comments == "disputed":
            reviews = await self._comments(reviews)
        ruling = await adjudicate(
            self.recorder,
            adjudicator,
            self.candidate.instruction,
            self.candidate.response,
            (*reviews, *self._verifier_reviews()),
            accept_score=recipe.review.accept_mean,
            calibrate=await self.settings.measured(adjudicator),
        )
        state = State.ACCEPTED if ruling.kept else State.REJECTED
        reason = "adjudicator kept it" if ruling.kept else "adjudicator rejected it"
        return replace(self.candidate, ruling=ruling, state=state, reason=reason)

    async def _comments(self, reviews: Sequence[Review]) -> tuple[Review, ...]:
        commented = await together(
            *(
                add_comment(self.recorder, reviewer, self.candidate.instruction, self.candidate.response, review)
                for reviewer, review in zip(self.roles.reviewers, reviews, strict=True)
            )
        )
        self.candidate = replace(self.candidate, reviews=tuple(commented))
        return tuple(commented)
