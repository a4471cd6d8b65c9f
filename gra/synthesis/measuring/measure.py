"""Measure reviewers before the first candidate, and adjudicators at their first dispute."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from gra.config.committee import CompetenceConfig
from gra.config.synthesis import committee_of, reviews_responses
from gra.core.processes.concurrency import at_once
from gra.core.types import Seed
from gra.data.questions import Question
from gra.models.entries import entry_of
from gra.runs.panel import competence_sentences, panel_sentences
from gra.synthesis.call_names import control_item_name
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.reviewer import Calibration, draw_answers
from gra.synthesis.context import SynthesisContext
from gra.synthesis.measuring.calibration import (
    ControlAnswers,
    ReviewerMeasurement,
    ask_control_items,
    make_control_items,
    measure_reviewer,
    measured_on,
)
from gra.synthesis.measuring.competence import CommitteeCompetence, measure_competence
from gra.synthesis.measuring.controls import MIN_PER_KIND, ControlItem, planned_controls
from gra.synthesis.measuring.critic import critic_rows
from gra.synthesis.measuring.instruction_checks import InstructionGates, check_rates, fit_gates
from gra.synthesis.measuring.natural import NaturalAnswers, drawn_questions, natural_controls, sharing_answers
from gra.synthesis.measuring.panel import (
    FittedPanel,
    OpenPanel,
    asked_in,
    calibrated_on,
    calibrating,
    fit_panel,
    items_for,
)


class MeasuredCommittee:
    """Hold the control items of a run, and measure reviewers and adjudicators on them.

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
            self._questions = drawn_questions(context.job.control_questions, review.control_items, recipe.seed)

    def __bool__(self) -> bool:
        return bool(self._pairs or self._faulty or self._questions)

    async def measure_all(self) -> list[ReviewerMeasurement]:
        """Measure all reviewers, and fit the panel where there are control items of several kinds."""
        reviewers = [m for m in self.members.values() if self and "reviewer" in m.roles]
        if self._pairs or not reviewers:
            return await at_once(*map(self.measure, reviewers))
        opened = self._review.open_domains
        answers = dict(zip((m.name for m in reviewers), await at_once(*map(self._ask, reviewers)), strict=True))
        items = await self._all_items()
        by_member = {m.name: self._items_for(m, items) for m in reviewers}
        raw = {name: given.raw for name, given in answers.items()}
        self.context.control_rows[:] = critic_rows(items, raw)
        closed = [item for item in items if item.domain not in opened]
        self.fitted = fitted = self._fit(closed, asked_in(opened, "", reviewers), answers)
        panels = [fitted, *([self._fit_open(items, reviewers, answers)] if opened else [])]
        calibrations = {name: scale for panel in reversed(panels) for name, scale in panel.calibrations.items()}
        self._measure_competence(closed, fitted)
        checks = {name: given.checks for name, given in answers.items() if given.checks}
        gates, combine = InstructionGates(), self._review.combine_checks == "fitted"
        if self._instructions and checks:
            gates = fit_gates(checks, self._instructions, combine=combine)
            rates = check_rates(checks, self._instructions, self.context.recipe.seed, combine=combine)
            fitted.facts["instruction_checks"] = rates
        measured = [
            measured_on(
                m,
                by_member[m.name],
                answers[m.name],
                calibrations[m.name],
                gates.thresholds.get(m.name, {}),
                gates.combined.get(m.name),
            )
            for m in reviewers
        ]
        for each in measured:
            self._note(each, len(by_member[each.member]))
        for sentence in panel_sentences(fitted.facts):
            self.context.view.note(f"  {sentence}")
        for note in dict.fromkeys(note for panel in panels for note in panel.notes):
            self.context.view.note(note)
        return measured

    async def _ask(self, reviewer: Member) -> ControlAnswers:
        """Have a reviewer score its control items; those that members write are scored once they are written.

        What it answers itself to control questions is drawn meanwhile.
        """
        broker = self.context.broker

        async def natural() -> list[ControlItem]:
            items = await self._all_items()
            return self._items_for(reviewer, items[len(self._faulty) :])

        asking = asyncio.ensure_future(
            ask_control_items(broker, reviewer, self._items_for(reviewer, self._faulty), self._instructions, natural)
        )
        drawing = (
            draw_answers(CallRecorder(broker, control_item_name("answer", question.id)), reviewer, question.instruction)
            for question in self._questions
            if asked_in(self._review.open_domains, "", [reviewer])  # others review no answer to a question
        )
        await at_once(asking, *drawing)
        return asking.result()

    def _items_for(self, reviewer: Member, items: Sequence[ControlItem]) -> list[ControlItem]:
        return items_for(reviewer, items, self._review.open_domains, natural=bool(self._questions))

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
            sharing=sharing_answers(reviewers),
        )

    def _billions(self, member: Member) -> float:
        """Return a member's parameters in billions; 1 where they are not known."""
        found, entry = self.context.registry.models.get(member.model.name), entry_of(member.model.name)
        return ((found and found.parameters) or (entry and entry.parameters) or 1_000_000_000) / 1e9

    def _fit_open(
        self, items: Sequence[ControlItem], reviewers: Sequence[Member], answers: Mapping[str, ControlAnswers]
    ) -> FittedPanel:
        """Fit the panel of open domains on the items of their seeds; on those of all seeds where they are few."""
        opened = self._review.open_domains
        own = [item for item in items if item.domain in opened]
        if min(sum(item.is_good is verdict for item in own) for verdict in (True, False)) < MIN_PER_KIND:
            own = [item for item in items if item.domain]
        fitted = self._fit(own, asked_in(opened, opened[0], reviewers), answers)
        assert self.fitted is not None
        self.fitted.facts["open"] = {"domains": list(opened), **fitted.facts}
        self.open_panel = OpenPanel(frozenset(opened), fitted.panel, fitted.calibrations)
        return fitted

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
            items = calibrating(await self._all_items())  # an adjudicator is measured for its calibration alone
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
            everyone=committee is not None and committee.assignment == "competence",
        )
        return [*self._faulty, *self._natural.items]


async def pending_calibration(
    controls: MeasuredCommittee, member: Member, pending: dict[str, asyncio.Task[ReviewerMeasurement]]
) -> Calibration:
    """Return the calibration of a member that is measured when it is first needed.

    Args:
        controls: what it is measured on.
        member: an adjudicator.
        pending: measurements that have begun, by member; this one is added.
    """
    if member.name not in pending:
        pending[member.name] = asyncio.create_task(controls.measure(member))
    # A canceled candidate must not cancel the measurement that others wait for.
    return (await asyncio.shield(pending[member.name])).calibration
