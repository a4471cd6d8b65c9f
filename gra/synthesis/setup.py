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

from gra.config.synthesis import SynthesisRecipe, committee_of
from gra.core.errors import BudgetExhausted, RecipeError
from gra.core.processes.concurrency import at_once
from gra.core.progress import View
from gra.core.types import Seed
from gra.core.vocabulary import StopReason
from gra.serving.models import ModelRegistry
from gra.synthesis.candidate import CandidateSettings
from gra.synthesis.committee.members import Member, make_member, shared_weights
from gra.synthesis.committee.roles import adjudicates, check_assignment
from gra.synthesis.committee.verifiers import FunctionsVerifier, UnitTestVerifier, Verifier, make_verifiers
from gra.synthesis.context import SynthesisContext
from gra.synthesis.measuring.calibration import ReviewerMeasurement, committee_auc
from gra.synthesis.measuring.functions import prepare_functions
from gra.synthesis.measuring.measure import MeasuredCommittee, pending_calibration
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
        functions: the manifest's facts of functions that members wrote, where a verifier runs some.
    """

    settings: CandidateSettings
    seeds: list[Seed]
    measured: list[ReviewerMeasurement]
    pending: dict[str, asyncio.Task[ReviewerMeasurement]]
    panel: dict[str, Any] | None = None
    competence: dict[str, Any] | None = None
    functions: dict[str, Any] | None = None

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
            **({"functions": self.functions} if self.functions is not None else {}),
            "shared_weights": shared_weights(members),
            "code_execution": next((t.sandbox.facts() for t in _run_code(self.settings.verifiers)), None),
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
    context.registry.candidates_began.set()
    if committee is None:
        yield None
        return
    try:
        yield committee
    finally:
        await committee.cancel()


async def prepare(context: SynthesisContext, seeds: Sequence[Seed]) -> PreparedCommittee:
    """Measure the reviewers and enrich the seeds.

    Members that only adjudicate are measured at their first dispute, because no other candidate waits for them.
    """
    recipe, members = assemble_committee(context.registry, context.recipe, context.view)
    named = await name_domains(context, members, seeds)
    controls = MeasuredCommittee(context, members, named)
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
    _note_sandbox(context, verifiers, named)
    functions = await prepare_functions(context, verifiers, named)
    pending: dict[str, asyncio.Task[ReviewerMeasurement]] = {}
    adjudicators = [m for m in members.values() if "adjudicator" in m.roles and "reviewer" not in m.roles]
    settings = CandidateSettings(
        recipe,
        members,
        {m.member: m.calibration for m in measured},
        {m.member: m.thresholds for m in measured},
        {m.member: m.combined for m in measured if m.combined},
        {
            m.name: partial(pending_calibration, controls, m, pending)
            for m in adjudicators
            if controls and adjudicates(recipe)
        },
        controls.fitted.panel if controls.fitted else None,
        controls.open_panel,
        controls.competence,
        verifiers,
        context.job.fingerprint(context.registry, "rounds", "budget", "prices", "dedup"),
        context.job.decontaminator,
        context.special_tokens,
    )
    facts = controls.fitted.facts if controls.fitted else None
    return PreparedCommittee(settings, parents, measured, pending, facts, controls.competence_facts, functions)


def _run_code(verifiers: Sequence[Verifier]) -> list[UnitTestVerifier | FunctionsVerifier]:
    return [verifier for verifier in verifiers if isinstance(verifier, UnitTestVerifier | FunctionsVerifier)]


def _note_sandbox(context: SynthesisContext, verifiers: Sequence[Verifier], seeds: Sequence[Seed]) -> None:
    """Say which protections the sandbox lacks here, and when no response will have tests."""
    for verifier in _run_code(verifiers):
        for gap in verifier.sandbox.isolation.gaps():
            context.view.note(f"! where the members' programs run, {gap}; see docs/evaluation.md")
        if not isinstance(verifier, UnitTestVerifier):
            continue
        if not context.recipe.arm_spec.keeps_seed_instructions:
            context.view.note(
                f"! `kind: tests` will abstain: `arm: {context.recipe.arm}` writes new instructions, which have no "
                "tests; `refined` and `integrated` answer the seeds'"
            )
        elif not any(seed.tests for seed in seeds):
            context.view.note("! `kind: tests` will abstain: no seed has `tests`")


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
