"""Run synthesis jobs on shared engines: what `gra synthesize` (one arm) and `gra run` (several) call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gra.config.keys import check_keys
from gra.config.loader import Loaded
from gra.config.synthesis import SynthesisRecipe, committee_of, members_of
from gra.core.errors import BudgetExhausted, DataError, user_path
from gra.core.processes.concurrency import at_once
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.engines.broker import EnginePool
from gra.engines.types import ModelId
from gra.ledger.reader import LedgerReader
from gra.models.adapters import find_adapter
from gra.models.catalog import here
from gra.sandbox.permission import Permission
from gra.serving.models import ModelRegistry, find_models, running
from gra.synthesis.arms.in_rounds import check_parents
from gra.synthesis.arms.run_arm import synthesize, synthesize_sample
from gra.synthesis.committee.members import make_members
from gra.synthesis.committee.roles import check_assignment
from gra.synthesis.committee.verifiers import make_verifiers
from gra.synthesis.decontamination import ReadSuite, open_decontaminator
from gra.synthesis.job import Job
from gra.synthesis.monitor import Monitor


def run_jobs(jobs: Sequence[Job], view: View, logs: Path, group: str | None = None) -> dict[str, dict[str, Any]]:
    """Make several arms on shared engines; arms already made from the same inputs are not made again.

    Returns each arm's manifest section by recipe name.
    """
    registry = find_models([job.recipe for job in jobs], view)
    finished: dict[str, dict[str, Any]] = {}
    open_jobs: list[Job] = []
    for job in jobs:
        done = job.folder.completed("synthesis", job.fingerprint(registry))
        if done is None:
            open_jobs.append(job)
        else:
            view.note(f"  {job.recipe.name}: already made, {done['states']['accepted']} rows")
            finished[job.recipe.name] = done
    if open_jobs:
        asyncio.run(_run(open_jobs, registry, view, logs, group, finished))
    return finished


async def _run(
    jobs: Sequence[Job],
    registry: ModelRegistry,
    view: View,
    logs: Path,
    group: str | None,
    finished: dict[str, dict[str, Any]],
) -> None:
    async with _engines(jobs, registry, view, logs) as (pool, monitor):
        with view.stage("synthesis", ", ".join(job.recipe.name for job in jobs)), view.bars():
            async with monitor.over(), asyncio.TaskGroup() as group_of_arms:
                tasks = [
                    group_of_arms.create_task(synthesize(job, registry, pool, view, group, monitor)) for job in jobs
                ]
    for job, task in zip(jobs, tasks, strict=True):
        finished[job.recipe.name] = task.result()


def run_sample(jobs: Sequence[Job], count: int, view: View, logs: Path) -> dict[str, list[str]]:
    """Make the first candidates of each arm, as the beginning of the arm itself; duplicates by recipe name."""

    async def sample() -> dict[str, list[str]]:
        async with _engines(jobs, registry, view, logs) as (pool, monitor):
            with view.stage("sample", ", ".join(job.recipe.name for job in jobs)), view.bars():
                async with monitor.over():
                    found = await at_once(
                        *(synthesize_sample(job, registry, pool, view, count, monitor) for job in jobs)
                    )
        return {job.recipe.name: duplicates for job, duplicates in zip(jobs, found, strict=True)}

    registry = find_models([job.recipe for job in jobs], view)
    return asyncio.run(sample())


@asynccontextmanager
async def _engines(
    jobs: Sequence[Job], registry: ModelRegistry, view: View, logs: Path
) -> AsyncIterator[tuple[EnginePool, Monitor]]:
    """The engines that some arms share, and who watches them."""
    if not any(job.recipe.has_stories for job in jobs):
        registry.prepared.set()
    monitor = Monitor(view, len(jobs), registry.gpus, frozenset(registry.servers | registry.clusters))
    async with running(registry.pool(logs), view) as pool:
        yield pool, monitor
        for name, engine in pool.engines.items():
            s = engine.stats
            for note in s.notes:
                view.note(f"! {note}")
            view.event(
                "engine", name=name, started_in=s.started_in, starts=s.starts, wakes=s.wakes, calls=s.calls,
                prompt_tokens=s.prompt_tokens, cached_tokens=s.cached_tokens, completion_tokens=s.completion_tokens,
            )  # fmt: skip


def make_job(
    loaded: Loaded[SynthesisRecipe],
    folder: RunFolder,
    ledger: Path | None = None,
    *,
    read_suite: ReadSuite,
    create: bool = True,
    permission: Permission | None = None,
) -> Job:
    """The job of one recipe in one run folder, checked as far as it can be without spending anything.

    Raises:
        GraError: when something that the recipe names is not there, or does not fit.
    """
    check_keys(loaded.recipe)
    shared = loaded.recipe.ledger
    place = user_path(shared, "`ledger`") if shared else ledger or folder / "ledger.sqlite"
    _check_ledger(place)
    if shared and create:
        RunFolder(place.parent).create()
    decontaminator = open_decontaminator(loaded, read_suite)
    job = Job(loaded, folder.create() if create else folder, place, permission, decontaminator)
    seeds = job.seeds.rows
    if job.recipe.writes_samples and all(seed.domain for seed in seeds):  # else they are named by a model first
        check_parents(job, seeds)
    committee = committee_of(job.recipe)
    if committee is not None:
        named = {name: ModelId(member.model, member.model, "") for name, member in committee.models.items()}
        members = make_members(committee, job.recipe.review, named)
        check_assignment(job.recipe, members)
        make_verifiers(job.recipe.review.verifiers, members, permission)
    return job


def _check_ledger(place: Path) -> None:
    """A ledger that is there must be one to go on with: known here, engines need not start for it."""
    if not place.exists():
        return
    if not place.is_file():
        raise DataError(f"the ledger {place} is not a file; let `ledger` name a file, which is made if it is not there")
    if not os.access(place, os.W_OK):
        raise DataError(
            f"the ledger {place} cannot be written; check its rights, or choose another with `ledger` or --runs"
        )
    reader = LedgerReader(place)
    try:
        reader.check_usable()
    finally:
        reader.close()


def absent_models(recipe: SynthesisRecipe) -> list[str]:
    """The models that a run would fetch first; those that are here are looked at by their files' headers and sizes.

    Raises:
        RecipeError: when there is no such model or adapter, or its folder is not whole.
        ModelUnavailable: when what the cache holds is damaged.
    """
    wanted: list[list[str]] = [[recipe.dedup.embedder]] if recipe.writes_samples else []
    for member in members_of(recipe):
        if member.adapter is not None:
            find_adapter(member.adapter)
        if (member.engine or recipe.engine).kind != "openai":
            wanted.append([name for name in (member.model, member.fallback) if name])
    return list(dict.fromkeys(names[0] for names in wanted if not any([here(name) for name in names])))


def budget_stop(finished: Mapping[str, Mapping[str, Any]]) -> BudgetExhausted | None:
    """What to tell the user when arms stopped at their budget."""
    stopped = {name: content for name, content in finished.items() if "budget" in content.get("stopped", [])}
    if not stopped:
        return None
    rows = ", ".join(f"{name} with {content['states']['accepted']} rows" for name, content in stopped.items())
    spent = "; ".join(
        f"{name}: {s['tokens']:,} tokens, {s['gpu_hours']:.3f} GPU-hours, {s['usd']:.4f} US dollars over all resumes"
        for name, content in stopped.items()
        if (s := content.get("spent"))
    )
    return BudgetExhausted(
        f"stopped at the budget: {rows}; what was finished is a valid dataset ({spent}). Raise the cap in `budget` and "
        "run the same command to go on"
    )
