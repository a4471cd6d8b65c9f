"""Generate, review and decide one candidate, in the order of the paper's method section.

1. Generation (section 3.1): draw parents, write keywords, then an instruction, perhaps with a format constraint.
2. Review of the instruction (section 3.2): every reviewer checks it.
3. Generation (section 3.1): write the response.
4. Review of the response (section 3.2): filtering verifiers, then reviewers and scoring verifiers, then the gate.
5. Adjudication (section 3.3), where the reviewers disagree.
6. A search for test items, where the recipe names a suite.

A refined seed keeps its instruction and starts at step 3. The result depends only on the run's seed, the round and
index, the pool, and the recorded answers. Batching, retries and restarts cannot change it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from gra.config.arms import SelfGuideConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.processes.concurrency import together
from gra.core.rng import rng
from gra.core.text.characters import letters
from gra.core.text.special_tokens import SpecialTokens
from gra.core.types import Candidate, Review, Seed, State, Verified, VerifierMode
from gra.core.vocabulary import FailureCause, RejectedAt
from gra.data.lineage import REVIEWERS_AGREE
from gra.engines.broker import Broker
from gra.synthesis.best_of_n import best_by_comparison, mark_versions, pick_best, taken_number
from gra.synthesis.call_names import answer_id, candidate_id
from gra.synthesis.committee.adjudicator import adjudicate
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.gate import Gate, decide
from gra.synthesis.committee.generator import (
    Response,
    new_keywords,
    response_words,
    rewrite_response,
    write_instruction,
    write_response,
)
from gra.synthesis.committee.instruction_checks import CombinedChecks
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.no_instruction import why_no_instruction
from gra.synthesis.committee.pairwise import compare_responses, comparing
from gra.synthesis.committee.reviewer import Calibration, add_comments, check_by_all, score_response, uncalibrated
from gra.synthesis.committee.revision import criticize, revise_response
from gra.synthesis.committee.roles import ChoosesMembers, RoleAssignment, assign_roles
from gra.synthesis.committee.self_guide import write_input, write_output
from gra.synthesis.committee.verifiers import Verifier, VerifierInput, in_mode, verifier_reviews
from gra.synthesis.decontamination import Decontaminator, decontaminate
from gra.synthesis.format_constraints import add_format_constraint, repaired_responses
from gra.synthesis.measuring.panel import OpenPanel, Panel, ask_panel, asked_in, panel_score
from gra.synthesis.rounds.parents import Pool, domain_in_turn, draw_parents, first_sibling


@dataclass(frozen=True)
class CandidateSettings:
    """What all candidates of a run share.

    Attributes:
        recipe: the arm's recipe.
        members: the committee by member name.
        calibrations: maps from raw to calibrated score (0-10), by reviewer.
        thresholds: by reviewer, the probability below which each instruction check fails.
        combined_checks: by reviewer, what decides in place of thresholds, where the recipe has checks combined.
        pending_calibrations: calibrations that are measured when first needed, by adjudicator.
        panel: turns the reviewers' scores into one; None takes their mean.
        open_panel: takes its place in open domains, where the recipe names some.
        competence: chooses members by what they were right on, where the recipe asks for it.
        verifiers: in the recipe's order.
        fingerprint: changes with everything but the pool that a verdict depends on.
        decontaminator: searches for test items, where the recipe names a suite.
        special_tokens: the chat-template tokens that no text may hold.
    """

    recipe: SynthesisRecipe
    members: Mapping[str, Member]
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    combined_checks: Mapping[str, CombinedChecks] = field(default_factory=dict)
    pending_calibrations: Mapping[str, Callable[[], Awaitable[Calibration]]] = field(default_factory=dict)
    panel: Panel | None = None
    open_panel: OpenPanel | None = None
    competence: ChoosesMembers | None = None
    verifiers: Sequence[Verifier] = ()
    fingerprint: str = ""
    decontaminator: Decontaminator | None = None
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)

    def panel_of(self, domain: str) -> Panel | None:
        """Return the panel of a domain."""
        return self.open_panel.panel if self.open_panel and domain in self.open_panel.domains else self.panel

    def calibration(self, member: Member, domain: str = "") -> Calibration:
        """Return the member's map from raw to calibrated score in a domain."""
        opened = self.open_panel is not None and domain in self.open_panel.domains
        known = self.open_panel.calibrations if self.open_panel is not None and opened else self.calibrations
        return known.get(member.name, uncalibrated)

    async def measured_calibration(self, member: Member) -> Calibration:
        """Return the member's calibration; measure the member first where that is pending."""
        if member.name in self.pending_calibrations:
            return await self.pending_calibrations[member.name]()
        return self.calibration(member)


async def generate_candidate(
    settings: CandidateSettings,
    broker: Broker,
    parents: Pool,
    round_: int,
    index: int,
    domain: str | None = None,
    weights: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> Candidate:
    """Generate one new sample and decide it.

    Args:
        settings: what all candidates of the run share.
        broker: answers the calls.
        parents: the samples of each domain that can be parents (see `eligible`).
        round_: the round's number, from 1.
        index: the candidate's index within the round, from 0.
        domain: the candidate's domain; None takes the domains in turn.
        weights: by domain, how often each of the samples is drawn; a domain without weights draws evenly.

    Returns:
        The candidate in a terminal state, with a reason.
    """
    recipe = settings.recipe
    domain = domain or domain_in_turn(recipe, parents, round_, index)
    first = first_sibling(recipe, parents, round_, index)
    drawn = draw_parents(recipe, parents[domain], round_, first, weights.get(domain))
    run = _start(settings, broker, candidate_id(round_, index), round_, index, domain, drawn)
    if recipe.self_guide is not None:
        return await _finish(run, run.guide(parents[domain], recipe.self_guide))
    return await _finish(run, run.generate(drawn, sibling=index - first))


async def refine_seed(settings: CandidateSettings, broker: Broker, index: int, seed: Seed) -> Candidate:
    """Write a new response to a seed's instruction and review it.

    Returns:
        The candidate in a terminal state, with a reason.
    """
    run = _start(settings, broker, answer_id("refined", seed.id), 0, index, seed.domain, [seed])
    return await _finish(run, run.refine(seed))


def _start(
    settings: CandidateSettings, broker: Broker, key: str, round_: int, index: int, domain: str, parents: Sequence[Seed]
) -> _CandidateRun:
    roles = assign_roles(settings.recipe, settings.members, round_, index, settings.competence, domain, parents)
    begun = Candidate(
        id=key,
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
    recorder = CallRecorder(broker, key, shorten=settings.recipe.on_cutoff == "shorter")
    return _CandidateRun(settings, roles, recorder, begun)


async def _finish(run: _CandidateRun, steps: Awaitable[Candidate]) -> Candidate:
    try:
        ended = await steps
    except Unanswered as gap:
        ended = fail(run.candidate, gap)
    # Reviewers answer in any order; sorted keys keep the lineage the same.
    ended = replace(ended, usage=dict(run.recorder.usage), calls=tuple(sorted(run.recorder.calls)))
    return (await decontaminate(run.settings.decontaminator, [ended]))[0]


def fail(candidate: Candidate, gap: Unanswered) -> Candidate:
    """Return the candidate as failed, with what was not answered and why."""
    return replace(candidate, state=State.FAILED, reason=str(gap), failed_by=gap.cause)


def reject(candidate: Candidate, step: RejectedAt, reason: str) -> Candidate:
    """Return the candidate as rejected by a step of the method."""
    return replace(candidate, state=State.REJECTED, rejected_at=step, reason=reason)


class _CandidateRun:
    """The steps of one candidate.

    Attributes:
        candidate: everything known of the candidate so far.
    """

    def __init__(
        self, settings: CandidateSettings, roles: RoleAssignment, recorder: CallRecorder, begun: Candidate
    ) -> None:
        self.settings = settings
        self.roles = roles
        self.recorder = recorder
        self.candidate = begun

    async def generate(self, parents: Sequence[Seed], *, sibling: int = 0) -> Candidate:
        """Write keywords, an instruction and a response (section 3.1); each number `sibling` is a draw of its own."""
        generator, domain, recipe = self.roles.generator, self.candidate.domain, self.settings.recipe
        # A small pool often gives the same two parents; the draw number then makes the keywords differ.
        keywords = await new_keywords(self.recorder, generator, domain, parents, drawn=self.candidate.index)
        self.candidate = replace(self.candidate, keywords=keywords)
        show = recipe.rounds.parents
        written = await write_instruction(self.recorder, generator, domain, keywords, parents, show, drawn=sibling)
        random = rng(recipe.seed, self.candidate.round, self.candidate.index, "form")
        instruction = add_format_constraint(written, domain, recipe.format_constraints, random)
        self.candidate = replace(self.candidate, instruction=instruction)
        if refused := self._refuse_special_token("instruction", instruction):
            return refused
        shown = [parent.instruction for parent in parents]
        if failed := why_no_instruction(written, shown) or await self._failed_checks():
            return reject(self.candidate, RejectedAt.INSTRUCTION_CHECK, f"instruction: {failed}")
        words = response_words(parents, recipe.rounds.response_length)
        examples = parents if recipe.rounds.response_length == "examples" else ()
        write = partial(write_response, self.recorder, generator, instruction, words=words, examples=examples)
        return await self._best_response(lambda number: write(number=number))

    async def guide(self, pool: Sequence[Seed], config: SelfGuideConfig) -> Candidate:
        """Write an input, and the output that most draws agree on (SELF-GUIDE); reviewers judge the output only."""
        written = await write_input(self.recorder, self.roles.generator, pool, self.settings.recipe, self.candidate)
        self.candidate = replace(self.candidate, instruction=written.text, parents=written.parents)
        if written.fault:
            return reject(self.candidate, RejectedAt.UNUSUAL_INPUT, f"input: {written.fault}")
        if refused := self._refuse_special_token("instruction", written.text):
            return refused
        response = await write_output(self.recorder, self.roles.generator, self.candidate.domain, written, config)
        if response is None:
            return reject(self.candidate, RejectedAt.NO_AGREEMENT, "output: too few draws agree")
        return await self._decide_response(response)

    async def refine(self, seed: Seed) -> Candidate:
        """Write a new response to a seed's instruction, which is not checked."""
        self.candidate = replace(self.candidate, keywords=seed.keywords, instruction=seed.instruction, tests=seed.tests)
        generator = self.roles.generator
        write = partial(rewrite_response, self.recorder, generator, seed)
        if self.settings.recipe.refine.writes == "answer":
            write = partial(write_response, self.recorder, generator, seed.instruction)
        return await self._best_response(lambda number: write(number=number))

    async def _best_response(self, write: Callable[[int], Awaitable[Response]]) -> Candidate:
        """Write and review every response of best of n, keep the best, and revise it where none passed."""
        decided = await together(*(self._one_response(n, write) for n in range(self.settings.recipe.best_of)))
        repaired = repaired_responses(decided, self.settings.recipe.format_constraints)
        decided = [*decided, *await together(*(self._one_response(len(decided), give) for give in repaired))]
        taken = await self._keep_best(decided)
        return await self._revise(decided, taken) if self.settings.recipe.revise else taken

    async def _keep_best(self, decided: Sequence[Candidate]) -> Candidate:
        recipe, reviewers = self.settings.recipe, [r for r in self.roles.reviewers if comparing(r.ask)]
        if recipe.best_by == "scores" or not reviewers:
            return pick_best(decided)
        instruction = self.candidate.instruction
        return await best_by_comparison(decided, partial(compare_responses, self.recorder, reviewers, instruction))

    async def _revise(self, decided: Sequence[Candidate], taken: Candidate) -> Candidate:
        """Have a response that did not pass revised once, review the revision, and keep the better version."""
        number, ask = taken_number(taken), self.settings.recipe.review.comments != "never"
        first, remarks = await criticize(self.recorder, self.roles.reviewers, decided[number], ask=ask)
        if not remarks:
            return taken
        revise = partial(revise_response, self.recorder, self.roles.generator, first, remarks)
        revised = await self._one_response(len(decided), lambda _: revise())
        both = [*decided[:number], first, *decided[number + 1 :], revised]
        return mark_versions(pick_best(both), {number: "first", len(decided): "revised"})

    async def _one_response(self, number: int, write: Callable[[int], Awaitable[Response]]) -> Candidate:
        """Return the candidate with one response and its verdict.

        Raises:
            Unanswered: when infrastructure failed: the candidate as a whole is asked again at the next start.
        """
        attempt = copy(self)
        try:
            return await attempt._decide_response(await write(number))
        except Unanswered as gap:
            if gap.cause is FailureCause.INFRASTRUCTURE:
                self.candidate = attempt.candidate
                raise
            return fail(attempt.candidate, gap)

    async def _decide_response(self, response: Response) -> Candidate:
        """Decide one response: verifiers that filter, then reviews, then the gate."""
        self.candidate = replace(self.candidate, response=response.text, thinking=response.thinking)
        if refused := self._refuse_special_token("response", response.text):
            return refused
        if letters(response.text) == letters(self.candidate.instruction):  # which scores high by likelihood
            return reject(self.candidate, RejectedAt.REPEATS_INSTRUCTION, "response: repeats the instruction")
        if fault := await self._filter():
            return reject(self.candidate, RejectedAt.VERIFIER, fault)
        return await self._apply_gate(await self._review())

    def _refuse_special_token(self, place: str, text: str) -> Candidate | None:
        """Return the candidate as rejected, where a text holds a token of a chat template."""
        if not (token := self.settings.special_tokens.find(text)):
            return None
        return reject(self.candidate, RejectedAt.SPECIAL_TOKEN, f"{place}: holds {token}, a chat template's token")

    async def _failed_checks(self) -> str:
        """Have every reviewer check the instruction (section 3.2); return the failed criteria, comma-separated."""
        asked = (self.recorder, self.roles.reviewers, self.candidate.instruction)
        checks = await check_by_all(*asked, self.settings.thresholds, self.settings.combined_checks)
        self.candidate = replace(self.candidate, checks=tuple(checks))
        return ", ".join(sorted({name for check in checks for name in check.failed}))

    async def _filter(self) -> str:
        """Run the verifiers with `mode: filter` in the recipe's order; return why the first one rejects, or ""."""
        for verifier in self._verifiers("filter"):
            await self._verify([verifier])
            verdict = self.candidate.verifications[-1]
            if isinstance(verdict, Verified) and verdict.broken:
                return f"program {verifier.kind}: {verifier.fault}"
        return ""

    def _verifiers(self, mode: VerifierMode) -> list[Verifier]:
        return in_mode(self.settings.verifiers, mode, self.candidate.domain)

    async def _verify(self, verifiers: Sequence[Verifier]) -> None:
        candidate = self.candidate
        sample = VerifierInput(
            candidate.domain, candidate.instruction, candidate.response, candidate.generator, candidate.tests
        )
        verdicts = await together(*(verifier.judge(sample, self.recorder) for verifier in verifiers))
        self.candidate = replace(self.candidate, verifications=(*self.candidate.verifications, *verdicts))

    async def _review(self) -> tuple[Review, ...]:
        """Have reviewers and scoring verifiers score the response (section 3.2, equation 3)."""
        domain, review = self.candidate.domain, self.settings.recipe.review
        asked = asked_in(review.open_domains, domain, self.roles.reviewers)
        reviews = await ask_panel(self.settings.panel_of(domain), asked, self._ask_reviewer, self.candidate.id)
        self.candidate = replace(self.candidate, reviews=tuple(reviews))
        await self._verify(self._verifiers("score"))
        return tuple(reviews)

    async def _ask_reviewer(self, reviewer: Member) -> Review:
        return await score_response(
            self.recorder,
            reviewer,
            self.candidate.instruction,
            self.candidate.response,
            comment=self.settings.recipe.review.comments == "always",
            calibrate=self.settings.calibration(reviewer, self.candidate.domain),
        )

    async def _apply_gate(self, reviews: Sequence[Review]) -> Candidate:
        """Accept, reject or dispute the response by mean and spread of its scores (section 3.2, equations 4-6)."""
        review = self.settings.recipe.review
        verified = verifier_reviews(self.candidate.verifications)
        scores = [r.score for r in (*reviews, *verified)]
        if not scores:
            return replace(self.candidate, state=State.ACCEPTED, reason="no reviewers")
        panel = self.settings.panel_of(self.candidate.domain)
        consensus = decide(scores, review, panel_score(panel, reviews, verified, self.roles.reviewers))
        self.candidate = replace(self.candidate, mean=consensus.mean, std=consensus.std)
        match consensus.gate:
            case Gate.REJECT:
                return reject(self.candidate, RejectedAt.MEAN_SCORE, "response: mean score too low")
            case Gate.ACCEPT:
                return replace(self.candidate, state=State.ACCEPTED, reason=REVIEWERS_AGREE)
            case Gate.ADJUDICATE:
                self.candidate = replace(self.candidate, disputed=True)
                return await self._resolve_dispute(reviews)

    async def _resolve_dispute(self, reviews: Sequence[Review]) -> Candidate:
        """Adjudicate (section 3.3), or decide as the recipe says where no member adjudicates."""
        recipe, adjudicator = self.settings.recipe, self.roles.adjudicator
        if adjudicator is None:
            if recipe.review.disputed == "accept":
                return replace(self.candidate, state=State.ACCEPTED, reason="disputed: accepted without an adjudicator")
            return reject(self.candidate, RejectedAt.DISPUTE, "disputed: rejected without an adjudicator")
        if recipe.review.comments == "disputed":
            reviews = await add_comments(self.recorder, self.roles.reviewers, self.candidate)
            self.candidate = replace(self.candidate, reviews=reviews)
        ruling = await adjudicate(
            self.recorder,
            adjudicator,
            self.candidate.instruction,
            self.candidate.response,
            (*reviews, *verifier_reviews(self.candidate.verifications)),
            accept_score=recipe.review.accept_mean,
            calibrate=await self.settings.measured_calibration(adjudicator),
        )
        self.candidate = replace(self.candidate, ruling=ruling)
        if ruling.kept:
            return replace(self.candidate, state=State.ACCEPTED, reason="adjudicator kept it")
        return reject(self.candidate, RejectedAt.ADJUDICATOR, "adjudicator rejected it")
