"""Run synthesis jobs on shared engines: what `gra synthesize` (one arm) and `gra run` (several) call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gra.core.console import View
from gra.core.manifest import RunFolder
from gra.core.recipe import Loaded
from gra.core.schema import SynthesisRecipe
from gra.engines.protocol import ModelId
from gra.synthesis.arms import has_stories, synthesize
from gra.synthesis.assignment import check_cast
from gra.synthesis.committee import committee_of, make_members
from gra.synthesis.programs import make_programs
from gra.synthesis.workbench import Job
from gra.synthesis.workshop import Workshop, find_models, running


def run_jobs(jobs: Sequence[Job], view: View, logs: Path, group: str | None = None) -> dict[str, dict[str, Any]]:
    """Make several arms on shared engines; arms already made from the same inputs are not made again.

    Returns each arm's manifest section by recipe name.
    """
    workshop = find_models([job.recipe for job in jobs], view)
    finished: dict[str, dict[str, Any]] = {}
    open_jobs: list[Job] = []
    for job in jobs:
        done = job.folder.completed("synthesis", job.fingerprint(workshop))
        if done is None:
            open_jobs.append(job)
        else:
            view.note(f"  {job.recipe.name}: already made, {done['states']['accepted']} rows")
            finished[job.recipe.name] = done
    if open_jobs:
        asyncio.run(_run(open_jobs, workshop, view, logs, group, finished))
    return finished


async def _run(
    jobs: Sequence[Job],
    workshop: Workshop,
    view: View,
    logs: Path,
    group: str | None,
    finished: dict[str, dict[str, Any]],
) -> None:
    if not any(has_stories(job.recipe) for job in jobs):
        workshop.prepared.set()
    async with running(workshop.pool(logs), view) as pool:
        with view.stage("synthesis", ", ".join(job.recipe.name for job in jobs)), view.bars():
            async with asyncio.TaskGroup() as group_of_arms:
                tasks = [group_of_arms.create_task(synthesize(job, workshop, pool, view, group)) for job in jobs]
        for name, engine in pool.engines.items():
            s = engine.stats
            for note in s.notes:
                view.note(f"! {note}")
            view.event(
                "engine", name=name, started_in=s.started_in, starts=s.starts, wakes=s.wakes, calls=s.calls,
                prompt_tokens=s.prompt_tokens, cached_tokens=s.cached_tokens, completion_tokens=s.completion_tokens,
            )  # fmt: skip
    for job, task in zip(jobs, tasks, strict=True):
        finished[job.recipe.name] = task.result()


def job_for(
    loaded: Loaded[SynthesisRecipe], folder: RunFolder, ledger: Path | None = None, *, create: bool = True
) -> Job:
    """The job of one recipe in one run folder, checked as far as it can be without spending anything."""
    shared = loaded.recipe.ledger
    place = Path(shared).expanduser() if shared else ledger or folder / "ledger.sqlite"
    if shared and create:
        RunFolder(place.parent).create()
    job = Job(loaded, folder.create() if create else folder, place)
    job.seed_file()
    committee = committee_of(job.recipe)
    if committee is not None:
        named = {name: ModelId(member.model, member.model, "") for name, member in committee.models.items()}
        members = make_members(committee, job.recipe.review, named)
        check_cast(job.recipe, members)
        make_programs(job.recipe.review.programs, members)
    return job
