"""The arms of a comparison through one code path, from the seeds as they are to the whole method.

| arm | instructions | responses | review |
|---|---|---|---|
| `vanilla` | the seeds' | the seeds' | none |
| `distilled` | the seeds', or new | one teacher's | none |
| `refined` | the seeds' | the committee's | of responses |
| `gra` | new | the committee's | of both |
| `integrated` | `refined` and `gra` together | | |
| `self_guide` | new | one model's | none, or its own |

`synthesize` is what `synthesize.py`, `gra synthesize` and `gra run` call. Every arm writes the same run
folder: ledger, lineage, dataset, manifest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from gra.core.errors import BudgetExhausted, writing
from gra.core.files import write_text
from gra.core.progress import View
from gra.core.stored.resolved_recipe import RESOLVED
from gra.core.types import Seed, State
from gra.data.export import export
from gra.engines.broker import Broker, EnginePool
from gra.ledger.budget import BudgetAccount, GpuTime
from gra.ledger.ledger import Ledger
from gra.serving.models import ModelRegistry
from gra.synthesis.arms.from_seeds import answer_seeds, copy_seeds, refine_seeds
from gra.synthesis.arms.in_rounds import write_samples
from gra.synthesis.context import SynthesisContext
from gra.synthesis.job import Job
from gra.synthesis.monitor import Monitor
from gra.synthesis.records import CandidateSequence, ConcatenatedCandidates
from gra.synthesis.setup import prepare
from gra.synthesis.summary import card_facts, summarize
from gra.tracking import start_tracking


@contextmanager
def open_context(
    job: Job, registry: ModelRegistry, pool: EnginePool, view: View, group: str | None, monitor: Monitor | None
) -> Iterator[SynthesisContext]:
    """Everything that making an arm needs, for the time of the block."""
    recipe = job.recipe
    with ExitStack() as at_the_end:
        ledger = Ledger(job.ledger, run=recipe.name)
        at_the_end.callback(ledger.close)
        held = GpuTime(job.ledger, recipe.name)
        at_the_end.callback(held.close)
        tracker = start_tracking(
            recipe.tracking,
            stage="synthesis",
            name=recipe.name,
            group=group,
            config=recipe.model_dump(),
            folder=job.folder.path,
        )
        at_the_end.callback(tracker.finish)
        broker = Broker(
            ledger,
            pool,
            max_attempts=recipe.engine.max_attempts,
            call_timeout_s=recipe.engine.call_timeout_s,
            account=BudgetAccount(ledger, recipe.budget, recipe.prices, held.before()),
        )
        context = SynthesisContext(job, registry, broker, ledger, view, tracker)
        if monitor is not None:
            at_the_end.enter_context(monitor.arm(context, held))
        yield context


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
        GraError: for wrong input, a spent disk, or an engine that is lost for good. What was answered is recorded.
    """
    with writing(job.folder.path):
        return await _synthesize(job, registry, pool, view, group, monitor)


async def _synthesize(
    job: Job, registry: ModelRegistry, pool: EnginePool, view: View, group: str | None, monitor: Monitor | None
) -> dict[str, Any]:
    recipe = job.recipe
    resolved = job.folder / RESOLVED
    if "synthesis" not in job.folder.manifest():  # a dataset that is there keeps its recipe until the next is whole
        write_text(resolved, job.loaded.show() + "\n")
    seeds = job.seeds
    if seeds.set_aside:
        view.note(seeds.note(), rows=seeds.set_aside)
    begun = time.monotonic()
    for note in job.decontaminator.notes() if job.decontaminator else ():
        view.note(note)
    with open_context(job, registry, pool, view, group, monitor) as context:
        candidates, facts = await make_candidates(context, seeds.rows)
        facts |= {
            "stopped": context.stopped,
            "beyond": context.beyond,
            "spent": context.broker.account.to_json(),
            "seeds": {"used": len(seeds.rows), "set_aside": seeds.set_aside},
        }
        content = summarize(job, registry, context.ledger, candidates, facts) | {
            "seconds": round(time.monotonic() - begun, 1)
        }
        files = export(job.folder.path, candidates, card_facts(job, registry, content))
        write_text(resolved, job.loaded.show() + "\n")
        job.folder.record("synthesis", content, [*files, resolved])
        context.tracker.summary({f"synthesis/{state}": count for state, count in content["states"].items()})
        context.tracker.artifact(job.folder / "dataset", f"{recipe.name}-dataset", "dataset")
    return content


async def synthesize_sample(
    job: Job, registry: ModelRegistry, pool: EnginePool, view: View, count: int, monitor: Monitor
) -> list[str]:
    """The first candidates of an arm, or answers to its first seeds, into its ledger, and nothing else.

    It is the beginning of the arm itself: making it later asks none of this again. Returns the ids of duplicates.
    """
    recipe = job.recipe
    # Else `rounds` is left alone: what answers to seeds are known by holds all of the recipe.
    if recipe.writes_samples:
        rounds = {"count": 1, "max_candidates": min(count, recipe.rounds.max_candidates)}
        recipe = recipe.model_copy(update={"rounds": recipe.rounds.model_copy(update=rounds)})
        job = replace(job, loaded=replace(job.loaded, recipe=recipe))
    with writing(job.folder.path), open_context(job, registry, pool, view, None, monitor) as context:
        candidates, _ = await make_candidates(context, job.seeds.rows, count)
        return [candidate.id for candidate in candidates if candidate.state is State.DUPLICATE]


async def make_candidates(
    context: SynthesisContext, seeds: Sequence[Seed], first: int | None = None
) -> tuple[CandidateSequence, dict[str, Any]]:
    """The arm's candidates in their final states, and what the report should know beside them.

    With `first`, of arms that go seed by seed only so many.
    """
    recipe = context.recipe
    if recipe.arm == "vanilla":
        return await copy_seeds(context, seeds), {}
    if not recipe.has_stories:
        return await answer_seeds(context, seeds[:first]), {}
    parts: list[CandidateSequence] = []
    try:
        with context.broker.account.strictly():
            prepared = await prepare(context, seeds)
    except BudgetExhausted as spent:
        context.registry.prepared.set()  # those that wait for this committee's first candidate go on
        context.view.note(f"! before the first candidate: {spent}")
        context.stopped.append("budget")
        return ConcatenatedCandidates(parts), {}
    try:
        if recipe.arm in ("refined", "integrated"):
            parts.append(await refine_seeds(context, prepared.settings, prepared.seeds[:first]))
        if recipe.arm != "refined":
            parts.append(await write_samples(context, prepared.settings, prepared.seeds))
        return ConcatenatedCandidates(parts), await prepared.facts()
    finally:
        context.registry.prepared.set()  # also when no candidate ever ended
        await prepared.dismiss()
