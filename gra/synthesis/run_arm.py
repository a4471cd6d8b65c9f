"""Run one arm: make its candidates and write its run folder (ledger, lineage, dataset, manifest).

`synthesize.py`, `gra synthesize` and `gra run` all call `synthesize`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from gra.config.synthesis import reviews_responses
from gra.core.errors import writing
from gra.core.files import write_text
from gra.core.hashing import file_digest
from gra.core.progress import View
from gra.core.stored.resolved_recipe import RESOLVED
from gra.core.types import Seed, State
from gra.data.control_items import export_control_items
from gra.data.export import export, export_unreviewed
from gra.engines.broker import Broker, EnginePool
from gra.ledger.budget import BudgetAccount, GpuTime
from gra.ledger.ledger import Ledger
from gra.serving.models import ModelRegistry
from gra.synthesis.arms import ArmCandidates, find_runner
from gra.synthesis.context import SynthesisContext
from gra.synthesis.format_constraints import repair_form
from gra.synthesis.job import Job
from gra.synthesis.measuring.preparation import of_models
from gra.synthesis.monitor import Monitor
from gra.synthesis.summary import card_facts, summarize
from gra.tracking import start_tracking


@contextmanager
def open_context(
    job: Job, registry: ModelRegistry, pool: EnginePool, view: View, group: str | None, monitor: Monitor | None
) -> Iterator[SynthesisContext]:
    """Open what the synthesis of an arm needs, and close it after the block."""
    recipe = job.recipe
    with ExitStack() as stack:
        ledger = Ledger(job.ledger, run=recipe.name)
        stack.callback(ledger.close)
        held = GpuTime(job.ledger, recipe.name)
        stack.callback(held.close)
        tracker = start_tracking(
            recipe.tracking,
            stage="synthesis",
            name=recipe.name,
            group=group,
            config=recipe.model_dump(),
            folder=job.folder.path,
        )
        stack.callback(tracker.finish)
        broker = Broker(
            ledger,
            pool,
            max_attempts=recipe.engine.max_attempts,
            call_timeout_s=recipe.engine.call_timeout_s,
            account=BudgetAccount(ledger, recipe.budget, recipe.prices, held.before()),
        )
        context = SynthesisContext(job, registry, broker, ledger, view, tracker)
        _take_over_preparation(context)
        if monitor is not None:
            stack.enter_context(monitor.arm(context, held))
        yield context


def _take_over_preparation(context: SynthesisContext) -> None:
    """Put the recorded answers that the recipe names into the ledger, those of this run's models."""
    if not (recorded := context.job.preparation):
        return
    name, registry = context.recipe.name, context.registry
    fitting = of_models(recorded, {registry.model_id(model).identity: model for model in registry.models})
    new = context.ledger.adopt(fitting, str(context.recipe.preparation))
    context.view.note(
        f"  {name}: {len(fitting):,} answers that prepare the committee are recorded ({new:,} of them new here)"
        if fitting
        else f"! {name}: `preparation` holds no answers of these models, so the members answer all control items"
    )


def _preparation_facts(context: SynthesisContext) -> dict[str, Any]:
    """Return the manifest's facts of recorded answers: their file, and how many of them the arm used."""
    if (file := context.job.preparation_file()) is None:
        return {}
    used = sum(answer.key in context.broker.used for answer in context.job.preparation)
    return {"preparation": {"file": file.name, "sha256": file_digest(file), "used": used}}


async def synthesize(
    job: Job,
    registry: ModelRegistry,
    pool: EnginePool,
    view: View,
    group: str | None = None,
    monitor: Monitor | None = None,
) -> dict[str, Any]:
    """Make one arm's dataset and return its section of the manifest.

    Raises:
        GraError: for wrong input, a full disk, or an engine that is lost for good. Answers so far are recorded.
    """
    with writing(job.folder.path):
        return await _synthesize(job, registry, pool, view, group, monitor)


async def _synthesize(
    job: Job, registry: ModelRegistry, pool: EnginePool, view: View, group: str | None, monitor: Monitor | None
) -> dict[str, Any]:
    recipe = job.recipe
    resolved = job.folder / RESOLVED
    if "synthesis" not in job.folder.manifest():  # an existing dataset keeps its recipe until the new one is written
        write_text(resolved, job.loaded.show() + "\n")
    seeds = job.seeds
    if seeds.set_aside:
        view.note(seeds.note(), rows=seeds.set_aside)
    begun = time.monotonic()
    for note in job.decontaminator.notes() if job.decontaminator else ():
        view.note(note)
    with open_context(job, registry, pool, view, group, monitor) as context:
        made = await make_candidates(context, seeds.rows)
        facts = made.facts | {
            "stopped": context.stopped,
            "last_failure": context.last_failure,
            "beyond": context.beyond,
            "spent": context.broker.account.to_json(),
            **_preparation_facts(context),
            "seeds": {"used": len(seeds.rows), "set_aside": seeds.set_aside},
        }
        content = summarize(job, registry, context.broker, made.candidates, facts) | {
            "seconds": round(time.monotonic() - begun, 1)
        }
        shown = card_facts(job, registry, content)
        if reviews_responses(recipe):
            accepted = content["states"][State.ACCEPTED]
            drawn = (job.folder.path, made.candidates, accepted, recipe.seed)
            repaired = (repair_form,) if recipe.format_constraints.repair else ()
            file, shown["unreviewed"] = export_unreviewed(*drawn, *repaired)
            files = [*export(job.folder.path, made.candidates, shown), file]
        else:
            files = export(job.folder.path, made.candidates, shown)
        if context.control_rows:
            files.append(export_control_items(job.folder.path, context.control_rows))
        write_text(resolved, job.loaded.show() + "\n")
        job.folder.record("synthesis", content, [*files, resolved])
        context.tracker.summary({f"synthesis/{state}": count for state, count in content["states"].items()})
        context.tracker.artifact(job.folder / "dataset", f"{recipe.name}-dataset", "dataset")
    return content


async def synthesize_sample(
    job: Job, registry: ModelRegistry, pool: EnginePool, view: View, count: int, monitor: Monitor
) -> list[str]:
    """Make the first candidates of an arm, or answers to its first seeds, and write only its ledger.

    The sample is the beginning of the arm: a later run asks none of it again.

    Returns:
        The ids of duplicates.
    """
    recipe = job.recipe
    # Other arms keep `rounds`: the scope of their verdicts holds the whole recipe.
    if recipe.arm_spec.writes_rounds:
        rounds = {"count": 1, "max_candidates": min(count, recipe.rounds.max_candidates)}
        recipe = recipe.model_copy(update={"rounds": recipe.rounds.model_copy(update=rounds)})
        job = replace(job, loaded=replace(job.loaded, recipe=recipe))
    with writing(job.folder.path), open_context(job, registry, pool, view, None, monitor) as context:
        made = await make_candidates(context, job.seeds.rows, count)
        return [candidate.id for candidate in made.candidates if candidate.state is State.DUPLICATE]


async def make_candidates(context: SynthesisContext, seeds: Sequence[Seed], first: int | None = None) -> ArmCandidates:
    """Make the arm's candidates.

    Args:
        context: what the arm needs.
        seeds: all seeds of the recipe.
        first: how many seeds to answer, in arms that go seed by seed; None for all.
    """
    return await find_runner(context.recipe.arm_spec)(context, seeds, first)
