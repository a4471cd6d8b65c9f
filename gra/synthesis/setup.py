"""Before the first story: the members whose models are here take their seats, and the reviewers are measured.

Who only adjudicates is measured when the first dispute comes to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gra.config.synthesis import SynthesisRecipe, committee_of
from gra.core.errors import RecipeError
from gra.core.processes.concurrency import at_once
from gra.core.progress import View
from gra.core.types import Seed
from gra.serving.models import ModelRegistry
from gra.synthesis.arms.in_rounds import check_parents, enrich_all, name_domains
from gra.synthesis.candidate import CandidateSettings
from gra.synthesis.committee.calibration import ReviewerMeasurement, committee_auc, make_control_items, measure_reviewer
from gra.synthesis.committee.members import Member, make_member, shared_weights
from gra.synthesis.committee.reviewer import Calibration
from gra.synthesis.committee.roles import adjudicates, check_assignment
from gra.synthesis.committee.verifiers import UnitTestVerifier, Verifier, make_verifiers
from gra.synthesis.context import SynthesisContext

ControlItems = Sequence[tuple[Seed, str]]


@dataclass
class PreparedCommittee:
    """What all stories share, the seeds with the metadata the arm needs, and what was measured."""

    settings: CandidateSettings
    seeds: list[Seed]
    measured: list[ReviewerMeasurement]
    late: dict[str, asyncio.Task[ReviewerMeasurement]]

    async def facts(self) -> dict[str, Any]:
        """What the report should know; adjudicators who were never asked were never measured."""
        members, recipe = self.settings.members, self.settings.recipe
        committee = committee_of(recipe)
        assert committee is not None
        measured = {m.member: m for m in (*self.measured, *await asyncio.gather(*self.late.values()))}
        return {
            "committee": {
                "assignment": committee.assignment,
                "reviewers": committee.reviewers,
                "adjudicates": adjudicates(recipe),
            },
            "reviewers": {name: measured[name].to_json() for name in members if name in measured},
            "committee_auc": committee_auc(self.measured) if self.measured else None,
            "shared_weights": shared_weights(members),
            "code_execution": next((t.sandbox.facts() for t in _unit_tests(self.settings.verifiers)), None),
            "members": {
                m.name: {"model": m.model.name, "ask": m.ask, "roles": list(m.roles)}
                | ({"adapter": m.model.adapter} if m.model.adapter else {})
                for m in members.values()
            },
        }

    async def dismiss(self) -> None:
        """Measure nobody any more; nothing happens when all have been measured."""
        for task in self.late.values():
            task.cancel()
        await asyncio.gather(*self.late.values(), return_exceptions=True)


async def prepare(context: SynthesisContext, seeds: Sequence[Seed]) -> PreparedCommittee:
    """Measure the reviewers and give the seeds their metadata.

    Those who only adjudicate are measured at the first dispute: no other story needs to wait for them.
    """
    recipe, members = assemble_committee(context.registry, context.recipe, context.view)
    named = await name_domains(context, members, seeds)
    control_items = _planted(recipe, named)
    reviewers = [m for m in members.values() if control_items and "reviewer" in m.roles]
    if recipe.arm == "refined":
        measured, parents = await _measure_all(context, reviewers, control_items), named
    else:
        if lone := check_parents(context.job, named):
            context.view.note(f"! no candidates for {', '.join(lone)}: a domain needs two seeds")
        measuring = asyncio.ensure_future(_measure_all(context, reviewers, control_items))
        enriching = asyncio.ensure_future(enrich_all(context, members, named))
        await at_once(measuring, enriching)
        measured, parents = measuring.result(), enriching.result()
    programs = make_verifiers(recipe.review.verifiers, members, context.job.permission)
    _note_what_tests_can_do(context, programs, named)
    late: dict[str, asyncio.Task[ReviewerMeasurement]] = {}
    judges = [m for m in members.values() if "adjudicator" in m.roles and "reviewer" not in m.roles]
    settings = CandidateSettings(
        recipe,
        members,
        {m.member: m.calibration for m in measured},
        {m.member: m.thresholds for m in measured},
        {
            m.name: partial(_calibration, context, m, control_items, late)
            for m in judges
            if control_items and adjudicates(recipe)
        },
        programs,
        context.job.fingerprint(context.registry, "rounds", "budget", "prices", "dedup"),
        context.job.decontaminator,
    )
    return PreparedCommittee(settings, parents, measured, late)


def _unit_tests(programs: Sequence[Verifier]) -> list[UnitTestVerifier]:
    return [program for program in programs if isinstance(program, UnitTestVerifier)]


def _note_what_tests_can_do(context: SynthesisContext, programs: Sequence[Verifier], seeds: Sequence[Seed]) -> None:
    """Say what the sandbox cannot keep out here, and when no response will have tests to pass."""
    for program in _unit_tests(programs):
        for gap in program.sandbox.isolation.gaps():
            context.view.note(f"! where the answers' programs run, {gap}; see docs/evaluation.md")
        if context.recipe.arm not in ("refined", "integrated"):
            context.view.note(
                f"! `kind: tests` will abstain: `arm: {context.recipe.arm}` writes new instructions, which come without "
                "tests; `refined` and `integrated` answer the seeds'"
            )
        elif not any(seed.tests for seed in seeds):
            context.view.note("! `kind: tests` will abstain: no seed has `tests`")


def _planted(recipe: SynthesisRecipe, seeds: Sequence[Seed]) -> ControlItems:
    """The pairs by which reviewers are measured; none when nobody reviews, or scores are taken as they stand."""
    committee = committee_of(recipe)
    if not recipe.review.control_items or committee is None or not committee.reviewers:
        return []
    return make_control_items(seeds, recipe.review.control_items, recipe.seed)


async def _measure_all(
    context: SynthesisContext, judges: Sequence[Member], control_items: ControlItems
) -> list[ReviewerMeasurement]:
    return await at_once(*(_measure(context, judge, control_items) for judge in judges))


async def _measure(context: SynthesisContext, judge: Member, control_items: ControlItems) -> ReviewerMeasurement:
    measured = await measure_reviewer(context.broker, judge, control_items)
    unanswered = f", {measured.unanswered} answers unusable" if measured.unanswered else ""
    context.view.note(
        f"  reviewer {judge.name}: AUC {measured.auc:.2f} on {len(control_items)} planted pairs{unanswered}"
    )
    context.tracker.summary({f"reviewers/{judge.name}/auc": measured.auc})
    return measured


async def _calibration(
    context: SynthesisContext,
    judge: Member,
    control_items: ControlItems,
    late: dict[str, asyncio.Task[ReviewerMeasurement]],
) -> Calibration:
    if judge.name not in late:
        late[judge.name] = asyncio.create_task(_measure(context, judge, control_items))
    # Shielded: a story that is cancelled while it waits leaves the measurement to the others.
    return (await asyncio.shield(late[judge.name])).calibration


def assemble_committee(
    registry: ModelRegistry, recipe: SynthesisRecipe, view: View
) -> tuple[SynthesisRecipe, dict[str, Member]]:
    """The members whose models are here, and the recipe with fewer reviewers when there are fewer members.

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
