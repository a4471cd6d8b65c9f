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
from collections.abc import Sequence
from typing import Any

from gra.core.console import View
from gra.core.errors import writing
from gra.core.ledger import Ledger
from gra.core.records import Seed
from gra.core.schema import SynthesisRecipe
from gra.core.tracking import start_tracking
from gra.data.export import export
from gra.engines.broker import Broker, EnginePool
from gra.synthesis.growth import write_samples
from gra.synthesis.seating import prepare
from gra.synthesis.seedwise import answer_seeds, copy_seeds, refine_seeds
from gra.synthesis.summary import card_facts, summarize
from gra.synthesis.told import Candidates, Joined
from gra.synthesis.workbench import Job, Workbench
from gra.synthesis.workshop import Workshop


async def synthesize(
    job: Job, workshop: Workshop, pool: EnginePool, view: View, group: str | None = None
) -> dict[str, Any]:
    """Make one arm's dataset and return its section of the manifest.

    Raises:
        GraError: for wrong input, a spent disk, or an engine that is lost for good. What was answered is recorded.
    """
    with writing(job.folder.path):
        return await _synthesize(job, workshop, pool, view, group)


async def _synthesize(job: Job, workshop: Workshop, pool: EnginePool, view: View, group: str | None) -> dict[str, Any]:
    recipe = job.recipe
    (job.folder / "recipe.resolved.yaml").write_text(job.loaded.show() + "\n", encoding="utf-8")
    seeds = job.seeds()
    if seeds.set_aside:
        view.note(seeds.note(), rows=seeds.set_aside)
    ledger = Ledger(job.ledger, run=recipe.name)
    tracker = start_tracking(
        recipe.tracking,
        stage="synthesis",
        name=recipe.name,
        group=group,
        config=recipe.model_dump(),
        folder=job.folder.path,
    )
    begun = time.time()
    try:
        broker = Broker(
            ledger,
            pool,
            max_attempts=recipe.engine.max_attempts,
            call_timeout_s=recipe.engine.call_timeout_s,
            token_budget=recipe.budget.tokens,
        )
        bench = Workbench(job, workshop, broker, ledger, view, tracker)
        candidates, facts = await make(bench, seeds.rows)
        facts |= {"stopped": bench.stopped, "beyond": bench.beyond}
        facts |= {"seeds": {"used": len(seeds.rows), "set_aside": seeds.set_aside}}
        content = summarize(job, workshop, ledger, candidates, facts) | {"seconds": round(time.time() - begun, 1)}
        files = export(job.folder.path, candidates, card_facts(job, workshop, content))
        job.folder.record("synthesis", content, [*files, job.folder / "recipe.resolved.yaml"])
        tracker.summary({f"synthesis/{state}": count for state, count in content["states"].items()})
        tracker.artifact(job.folder / "dataset", f"{recipe.name}-dataset", "dataset")
    finally:
        tracker.finish()
        ledger.close()
    return content


def has_stories(recipe: SynthesisRecipe) -> bool:
    """Whether the arm tells stories, for which members are measured and seeds enriched first."""
    if recipe.arm == "distilled":
        return recipe.teacher is not None and recipe.teacher.writes == "samples"
    return recipe.arm != "vanilla"


async def make(bench: Workbench, seeds: Sequence[Seed]) -> tuple[Candidates, dict[str, Any]]:
    """The arm's candidates in their final states, and what the report should know beside them."""
    recipe = bench.recipe
    if recipe.arm == "vanilla":
        return copy_seeds(recipe, seeds), {}
    if not has_stories(recipe):
        return await answer_seeds(bench, seeds), {}
    parts: list[Candidates] = []
    seated = await prepare(bench, seeds)
    try:
        if recipe.arm in ("refined", "integrated"):
            parts.append(await refine_seeds(bench, seated.setting, seated.seeds))
        if recipe.arm != "refined":
            parts.append(await write_samples(bench, seated.setting, seated.seeds))
        return Joined(parts), await seated.facts()
    finally:
        bench.workshop.prepared.set()  # also when no candidate ever ended
        await seated.dismiss()
