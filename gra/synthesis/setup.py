"""Prepare a committee before the first candidate: find its members' models, measure reviewers, enrich seeds.

A member that only adjudicates is measured when its first dispute comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from gra.config.committee import ANSWER_ASKS, CompetenceConfig
from gra.config.synthesis import SynthesisRecipe, committee_of, reviews_responses
from gra.core.errors import BudgetExhausted, RecipeError
from gra.core.processes.concurrency import at_once
from gra.core.progress import View
from gra.core.types import Seed
from gra.core.vocabulary import StopReason
from gra.data.questions import Question
from gra.models.entries import entry_of
from gra.runs.panel import competence_sentences, panel_sentences
from gra.serving.models import ModelRegistry
from gra.synthesis.candidate import CandidateSettings
from gra.synthesis.committee.calibration import (
    ControlAnswers,
    ReviewerMeasurement,
    ask_control_items,
    check_rates,
    check_thresholds,
    committee_auc,
    make_control_items,
    measure_reviewer,
    measured_on,
)
from gra.synthesis.committee.competence import CommitteeCompetence, measure_competence
from gra.synthesis.committee.controls import MIN_PER_KIND, ControlItem, planned_controls
from gra.synthesis.committee.critic import critic_rows
from gra.synthesis.committee.members import Member, make_member, shared_weights
from gra.synthesis.committee.natural import NaturalAnswers, natural_controls
from gra.synthesis.committee.panel import NATURAL, FittedPanel, OpenPanel, asked_in, calibrated_on, fit_panel
from gra.synthesis.committee.reviewer import Calibration
from gra.synthesis.committee.roles import adjudicates, check_assignment
from gra.synthesis.committee.verifiers import UnitTestVerifier, Verifier, make_verifiers
from gra.synthesis.context import SynthesisContext
from gra.synthesis.rounds.write_samples import check_parents, enrich_all, name_domains


@dataclass
class PreparedCommittee:
    """A committee that is ready for candidates.

    Attributes:
        settings: what all candidates share.
        seeds: with the metadata that the arm needs.
        measured: the reviewers' measurements.
        pending: the measurements of adjudicators that a dispute has come to, by member.
        panel: the manifest's facts of the panel, where it was fitted on control items of many kinds.
        competence: the manifest's facts of the members' competence, where it chooses them.
    """

    settings: CandidateSettings
    seeds: list[Seed]
    measured: list[ReviewerMeasurement]
    pending: dict[str, asyncio.Task[ReviewerMeasurement]]
    panel: dict[str, Any] | None = None
    competence: dict[str, Any] | None = None

    async def facts(self) -> dict[str, Any]:
        """Return the manifest's facts of the committee; adjudicators that were never asked were never measured."""
        members, recipe = self.settings.members, self.settings.recipe
        committee = committee_of(recipe)
        assert committee is not None
        measured = {m.member: m for m in (*self.measured, *await asyncio.gather(*self.pending.values()))}
        return {
            "committee": {
                "assignment": committee.assignment,
                "reviewers": committee.reviewers,
                "adjudicates": adjudicates(recipe),
            },
            "reviewers": {name: measured[name].to_json() for name in members if name in measured},
            "committee_auc": self._committee_auc(),
            **({"panel": self.panel} if self.panel is not None else {}),
            **({"competence": self.competence} if self.competence is not None else {}),
            "shared_weights": shared_weights(members),
            "code_execution": next((t.sandbox.facts() for t in _unit_tests(self.settings.verifiers)), None),
            "members": {
                m.name: {"model": m.model.name, "ask": m.ask, "roles": list(m.roles)}
                | ({"adapter": m.model.adapter} if m.model.adapter else {})
                for m in members.values()
            },
        }

    def _committee_auc(self) -> float | None:
        if self.panel is not None:
            statistics = self.panel["statistics"]
            return float(statistics["auc"]["auc"]) if statistics else None
        return committee_auc(self.measured) if self.measured else None

    async def cancel(self) -> None:
        """Cancel the measurements that still run."""
        for task in self.pending.values():
            task.cancel()
        await asyncio.gather(*self.pending.values(), return_exceptions=True)


@asynccontextmanager
async def prepared_committee(
    context: SynthesisContext, seeds: Sequence[Seed]
) -> AsyncIterator[PreparedCommittee | None]:
    """Prepare the arm's committee for the block; yield None when the budget is spent before the first candidate."""
    committee: PreparedCommittee | None = None
    try:
        with context.broker.account.strictly():
            committee = await prepare(context, seeds)
    except BudgetExhausted as spent:
        context.view.note(f"! before the first candidate: {spent}")
        context.stopped.append(StopReason.BUDGET)
    if committee is None:
        context.registry.first_candidate_ended.set()
        yield None
        return
    try:
        yield committee
    finally:
        context.registry.first_candidate_ended.set()  # teachers wait for it, also when no candidate ever ended
        await committee.cancel()


async def prepare(context: SynthesisContext, seeds: Sequence[Seed]) -> PreparedCommittee:
    """Measure the reviewers and enrich the seeds.

    Members that only adjudicate are measured at their first dispute, because no other candidate waits for them.
    """
    recipe, members = assemble_committee(context.registry, context.recipe, context.view)
    named = await name_domains(context, members, seeds)
    controls = _Controls(context, members, named)
    if not recipe.arm_spec.writes_rounds:
        measured, parents = await controls.measure_all(), named
    else:
        if lone := check_parents(context.job, named):
            context.view.note(f"! no candidates for {', '.join(lone)}: a domain needs two seeds")
        measuring = asyncio.ensure_future(controls.measure_all())
        enriching = asyncio.ensure_future(enrich_all(context, members, named))
        await at_once(measuring, enriching)
        measured, parents = measuring.result(), enriching.result()
    verifiers = make_verifiers(recipe.review.verifiers, members, context.job.permission)
    _note_unit_tests(context, verifiers, named)
    pending: dict[str, asyncio.Task[ReviewerMeasurement]] = {}
    adjudicators = [m for m in members.values() if "adjudicator" in m.roles and "reviewer" not in m.roles]
    settings = CandidateSettings(
        recipe,
        members,
        {m.member: m.calibration for m in measured},
        {m.member: m.thresholds for m in measured},
        {m.name: partial(_calibration, controls, m, pending) for m in adjudicators if controls and adjudicates(recipe)},
        controls.fitted.panel if controls.fitted else None,
        controls.open_panel,
        controls.competence,
        verifiers,
        context.job.fingerprint(context.registry, "rounds", "budget", "prices", "dedup"),
        context.job.decontaminator,
        context.special_tokens,
    )
    facts = controls.fitted.facts if controls.fitted else None
    return PreparedCommittee(settings, parents, measured, pending, facts, controls.competence_facts)


def _unit_tests(verifiers: Sequence[Verifier]) -> list[UnitTestVerifier]:
    return [verifier for verifier in verifiers if isinstance(verifier, UnitTestVerifier)]


def _note_unit_tests(context: SynthesisContext, verifiers: Sequence[Verifier], seeds: Sequence[Seed]) -> None:
    """Say which protections the sandbox lacks here, and when no response will have tests."""
    for verifier in _unit_tests(verifiers):
        for gap in verifier.sandbox.isolation.gaps():
            context.view.note(f"! where the answers' programs run, {gap}; see docs/evaluation.md")
        if not context.recipe.arm_spec.keeps_seed_instructions:
            context.view.note(
                f"! `kind: tests` will abstain: `arm: {context.recipe.arm}` writes new instructions, which have no "
                "tests; `refined` and `integrated` answer the seeds'"
            )
        elif not any(seed.tests for seed in seeds):
            context.view.note("! `kind: tests` will abstain: no seed has `tests`")


class _Controls:
    """The control items of a run: what reviewers and adjudicators are measured and calibrated on.

    Attributes:
        fitted: the panel, once all reviewers are measured on control items of several kinds.
        open_panel: the panel of open domains, where the recipe names some.
        competence: chooses members, once they are measured, where the recipe asks for it.
        competence_facts: the manifest's facts of it.
    """

    def __init__(self, context: SynthesisContext, members: Mapping[str, Member], seeds: Sequence[Seed]) -> None:
        self.context = context
        self.members = members
        self.fitted: FittedPanel | None = None
        self.open_panel: OpenPanel | None = None
        self.competence: CommitteeCompetence | None = None
        self.competence_facts: dict[str, Any] | None = None
        self._places = {seed.id: seed.domain for seed in seeds}
        self._natural: NaturalAnswers | None = None
        recipe = context.recipe
        review = self._review = recipe.review
        wanted = review.control_items if reviews_responses(recipe) else 0
        # Of one kind: pairs, as in the first release.
        self._pairs = make_control_items(seeds, wanted, recipe.seed) if wanted and not review.fits_panel else []
        self._faulty: list[ControlItem] = []
        self._instructions: list[ControlItem] = []
        self._questions: list[Question] = []
        self._items: asyncio.Task[list[ControlItem]] | None = None
        if wanted and review.fits_panel:
            self._faulty, self._instructions = planned_controls(seeds, review, recipe.seed)
            self._questions = context.job.control_questions

    def __bool__(self) -> bool:
        return bool(self._pairs or self._faulty or self._questions)

    async def measure_all(self) -> list[ReviewerMeasurement]:
        """Measure all reviewers, and fit the panel where there are control items of several kinds."""
        reviewers = [m for m in self.members.values() if self and "reviewer" in m.roles]
        if self._pairs or not reviewers:
            return await at_once(*map(self.measure, reviewers))
        items, opened = await self._all_items(), self._review.open_domains
        by_member = {m.name: [item for item in items if self._serves(item, m)] for m in reviewers}
        asking = (ask_control_items(self.context.broker, m, by_member[m.name], self._instructions) for m in reviewers)
        answers = dict(zip((m.name for m in reviewers), await at_once(*asking), strict=True))
        raw = {name: given.raw for name, given in answers.items()}
        self.context.control_rows[:] = critic_rows(items, raw)
        closed = [item for item in items if item.domain not in opened]
        self.fitted = fitted = self._fit(closed, reviewers, answers)
        if opened:
            self._fit_open(items, reviewers, answers)
        self._measure_competence(closed, fitted)
        checks = {name: given.checks for name, given in answers.items() if given.checks}
        thresholds = check_thresholds(checks, self._instructions) if self._instructions else {}
        if self._instructions and checks:
            fitted.facts["instruction_checks"] = check_rates(checks, self._instructions, self.context.recipe.seed)
        measured = [
            measured_on(m, by_member[m.name], answers[m.name], fitted.calibrations[m.name], thresholds.get(m.name, {}))
            for m in reviewers
        ]
        for each in measured:
            self._note(each, len(by_member[each.member]))
        for sentence in panel_sentences(fitted.facts):
            self.context.view.note(f"  {sentence}")
        for note in fitted.notes:
            self.context.view.note(note)
        return measured

    def _serves(self, item: ControlItem, reviewer: Member) -> bool:
        """Return whether a reviewer is asked about an item: in open domains as later, elsewhere where it calibrates."""
        if not self._review.open_domains or reviewer.ask not in ANSWER_ASKS:
            return True
        return item.kind in NATURAL if self._questions else item.domain not in self._review.open_domains

    def _fit(
        self, items: Sequence[ControlItem], reviewers: Sequence[Member], answers: Mapping[str, ControlAnswers]
    ) -> FittedPanel:
        """Fit a panel of some reviewers on some of the items."""
        return fit_panel(
            items,
            {m.name: answers[m.name].raw for m in reviewers},
            self._review,
            costs={m.name: answers[m.name].tokens * self._billions(m) for m in reviewers},
            families={m.name: m.family or m.model.identity for m in reviewers},
            authors={m.name: m.family or m.model.identity for m in self.members.values()},
        )

    def _billions(self, member: Member) -> float:
        """Return a member's parameters in billions; 1 where they are not known."""
        found, entry = self.context.registry.models.get(member.model.name), entry_of(member.model.name)
        return ((found and found.parameters) or (entry and entry.parameters) or 1_000_000_000) / 1e9

    def _fit_open(
        self, items: Sequence[ControlItem], reviewers: Sequence[Member], answers: Mapping[str, ControlAnswers]
    ) -> None:
        """Fit the panel of open domains on the items of their seeds; on those of all seeds where they are few."""
        opened = self._review.open_domains
        own = [item for item in items if item.domain in opened]
        if min(sum(item.is_good is verdict for item in own) for verdict in (True, False)) < MIN_PER_KIND:
            own = [item for item in items if item.domain]
        fitted = self._fit(own, asked_in(opened, opened[0], reviewers), answers)
        assert self.fitted is not None
        self.fitted.facts["open"] = {"domains": list(opened), **fitted.facts}
        self.open_panel = OpenPanel(frozenset(opened), fitted.panel, fitted.calibrations)

    def _measure_competence(self, items: Sequence[ControlItem], fitted: FittedPanel) -> None:
        """Fit who is right on what, where roles are assigned by it; `items` are those that the panel was fitted on."""
        committee = committee_of(self.context.recipe)
        if committee is None or committee.assignment != "competence" or self._natural is None:
            return
        written = {name: tokens * self._billions(self.members[name]) for name, tokens in self._natural.tokens.items()}
        self.competence, facts = measure_competence(
            self.members,
            self.context.recipe.domains,
            self._questions,
            self._natural,
            items,
            fitted.crossed,
            (written, fitted.facts["costs"]),
            self._places,
            committee.competence or CompetenceConfig(),
        )
        self.competence_facts = facts
        for sentence in competence_sentences(facts):
            self.context.view.note(f"  {sentence}")

    async def measure(self, member: Member) -> ReviewerMeasurement:
        """Measure one reviewer or adjudicator."""
        if self._pairs:
            measured, count = await measure_reviewer(self.context.broker, member, self._pairs), len(self._pairs)
        else:
            items = await self._all_items()
            answers = await ask_control_items(self.context.broker, member, items, [])
            measured = measured_on(member, items, answers, calibrated_on(items, answers.raw), {})
            count = len(items)
        self._note(measured, count)
        return measured

    def _note(self, measured: ReviewerMeasurement, count: int) -> None:
        unanswered = f", {measured.unanswered} answers unusable" if measured.unanswered else ""
        name, auc = measured.member, measured.auc
        self.context.view.note(f"  reviewer {name}: AUC {auc:.2f} on {count} control items{unanswered}")
        self.context.tracker.summary({f"reviewers/{name}/auc": auc})

    async def _all_items(self) -> list[ControlItem]:
        """Return faulty and natural control items; members answer the questions once."""
        if self._items is None:
            self._items = asyncio.create_task(self._with_natural())
        return await asyncio.shield(self._items)

    async def _with_natural(self) -> list[ControlItem]:
        if not self._questions:
            return self._faulty
        recipe = self.context.recipe
        committee = committee_of(recipe)
        self._natural = await natural_controls(
            self.context.broker,
            list(self.members.values()),
            self._questions,
            recipe.review.control_items,
            recipe.seed,
            everyone=committee is not None and committee.assignment == "competence",
        )
        return [*self._faulty, *self._natural.items]


async def _calibration(
    controls: _Controls, member: Member, pending: dict[str, asyncio.Task[ReviewerMeasurement]]
) -> Calibration:
    if member.name not in pending:
        pending[member.name] = asyncio.create_task(controls.measure(member))
    # A canceled candidate must not cancel the measurement that others wait for.
    return (await asyncio.shield(pending[member.name])).calibration


def assemble_committee(
    registry: ModelRegistry, recipe: SynthesisRecipe, view: View
) -> tuple[SynthesisRecipe, dict[str, Member]]:
    """Return the members whose models are available, and the recipe with fewer reviewers where members are missing.

    Raises:
        RecipeError: when a role cannot be filled any more.
    """
    committee = committee_of(recipe)
    assert committee is not None
    served = {name: registry.served(member) for name, member in committee.models.items()}
    present = {
        name: make_member(name, member, recipe.review, registry.model_id(model, member.adapter))
        for name, member in committee.models.items()
        if (model := served[name]) is not None
    }
    if len(present) == len(committee.models):
        check_assignment(recipe, present)
        return recipe, present
    gone = ", ".join(name for name, model in served.items() if model is None)
    for reviewers in range(committee.reviewers, min(1, committee.reviewers) - 1, -1):
        smaller = recipe.model_copy(update={"committee": committee.model_copy(update={"reviewers": reviewers})})
        if _feasible(present, smaller):
            view.note(f"! without {gone}: {len(present)} members, {reviewers} reviewers for each candidate")
            return smaller, present
    raise RecipeError(
        f"without {gone} the committee cannot fill all roles; make the models available or change `committee`"
    )


def _feasible(members: Mapping[str, Member], recipe: SynthesisRecipe) -> bool:
    try:
        check_assignment(recipe, members)
    except RecipeError:
        return False
    return True
