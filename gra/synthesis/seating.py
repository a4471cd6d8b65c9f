"""Before the first story: the members whose models are here take their seats, and the reviewers are measured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from gra.core.console import View
from gra.core.errors import RecipeError
from gra.core.records import Seed
from gra.core.schema import SynthesisRecipe
from gra.synthesis.assignment import adjudicates, check_cast
from gra.synthesis.committee import Member, committee_of, make_member, shared_weights
from gra.synthesis.growth import check_parents, enrich_all, name_domains
from gra.synthesis.probes import Measured, committee_auc, measure, plant
from gra.synthesis.story import Setting
from gra.synthesis.workbench import Workbench
from gra.synthesis.workshop import Workshop


async def prepare(bench: Workbench, seeds: Sequence[Seed]) -> tuple[Setting, list[Seed], dict[str, Any]]:
    """What all stories share, the seeds with the metadata the arm needs, and what the report should know."""
    recipe, members = seat(bench.workshop, bench.recipe, bench.view)
    named = await name_domains(bench, members, seeds)
    if recipe.arm == "refined":
        measured, parents = await _measure(bench, recipe, members, named), named
    else:
        check_parents(bench, named)
        measured, parents = await asyncio.gather(
            _measure(bench, recipe, members, named), enrich_all(bench, members, named)
        )
    setting = Setting(
        recipe,
        members,
        {m.member: m.calibration for m in measured},
        {m.member: m.thresholds for m in measured},
        fingerprint=bench.job.fingerprint(bench.workshop, "rounds", "budget", "dedup"),
    )
    committee = committee_of(recipe)
    assert committee is not None
    facts = {
        "committee": {
            "assignment": committee.assignment,
            "reviewers": committee.reviewers,
            "adjudicates": adjudicates(recipe),
        },
        "reviewers": {m.member: m.to_json() for m in measured},
        "committee_auc": committee_auc(measured) if measured else None,
        "shared_weights": shared_weights(members),
        "members": {m.name: {"model": m.model.name, "ask": m.ask, "roles": list(m.roles)} for m in members.values()},
    }
    return setting, parents, facts


async def _measure(
    bench: Workbench, recipe: SynthesisRecipe, members: Mapping[str, Member], seeds: Sequence[Seed]
) -> list[Measured]:
    """Those who will judge, on planted pairs."""
    committee = committee_of(recipe)
    if not recipe.review.probes or committee is None or not committee.reviewers:
        return []
    planted = plant(seeds, recipe.review.probes, recipe.seed)
    roles = {"reviewer", "adjudicator"} if adjudicates(recipe) else {"reviewer"}
    judges = [m for m in members.values() if roles & set(m.roles)]
    measured = list(await asyncio.gather(*(measure(bench.broker, judge, planted) for judge in judges)))
    for m in measured:
        unanswered = f", {m.unanswered} answers unusable" if m.unanswered else ""
        bench.view.note(f"  reviewer {m.member}: AUC {m.auc:.2f} on {len(planted)} planted pairs{unanswered}")
        bench.tracker.summary({f"reviewers/{m.member}/auc": m.auc})
    return measured


def seat(workshop: Workshop, recipe: SynthesisRecipe, view: View) -> tuple[SynthesisRecipe, dict[str, Member]]:
    """The members whose models are here, and the recipe with fewer reviewers when there are fewer members.

    Raises:
        RecipeError: when a role cannot be filled any more.
    """
    committee = committee_of(recipe)
    assert committee is not None
    served = {name: workshop.served(member) for name, member in committee.models.items()}
    present = {
        name: make_member(name, member, recipe.review, workshop.model_id(model))
        for name, member in committee.models.items()
        if (model := served[name]) is not None
    }
    if len(present) == len(committee.models):
        check_cast(recipe, present)
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
        check_cast(recipe, members)
    except RecipeError:
        return False
    return True
