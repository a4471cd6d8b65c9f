"""Run synthesis jobs on shared engines, for `gra synthesize` (one arm) and `gra run` (several)."""

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
from gra.core.errors import BudgetExhausted, DataError, GraError, NoRows, RecipeError, user_path
from gra.core.processes.background import run
from gra.core.processes.concurrency import at_once
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.vocabulary import StopReason
from gra.engines.broker import EnginePool
from gra.engines.types import ModelId
from gra.ledger.reader import LedgerReader
from gra.models.adapters import find_adapter
from gra.models.catalog import is_downloaded
from gra.sandbox.permission import Permission
from gra.serving.labels import colliding_labels
from gra.serving.memory import check_weights
from gra.serving.models import ModelRegistry, find_models, running
from gra.synthesis.annotation.asking import plan_work
from gra.synthesis.committee.calls import MissingAnswers
from gra.synthesis.committee.members import make_members
from gra.synthesis.committee.pairwise import LETTERS, comparing
from gra.synthesis.committee.reviewer import LABELS_ASKED, YES_NO
from gra.synthesis.committee.roles import check_assignment
from gra.synthesis.committee.verifiers import make_verifiers
from gra.synthesis.decontamination import ReadSuite, open_decontaminator
from gra.synthesis.job import Job
from gra.synthesis.monitor import Monitor
from gra.synthesis.rounds.write_samples import check_parents
from gra.synthesis.run_arm import synthesize, synthesize_sample


def run_jobs(jobs: Sequence[Job], view: View, logs: Path, group: str | None = None) -> dict[str, dict[str, Any]]:
    """Make several arms on shared engines; an arm already made from the same inputs is not made again.

    Returns:
        Each arm's section of the manifest, by recipe name.
    """
    registry = find_models([job.recipe for job in jobs], view)
    finished: dict[str, dict[str, Any]] = {}
    open_jobs: list[Job] = []
    for job in jobs:
        done = job.folder.completed("synthesis", job.fingerprint(registry))
        if done is None or done.get("unanswered") or StopReason.INFRASTRUCTURE in done["stopped"]:
            open_jobs.append(job)
        else:
            view.note(f"  {job.recipe.name}: already made, {done['states']['accepted']} rows")
            finished[job.recipe.name] = done
    if open_jobs:
        check_labels([job.recipe for job in open_jobs], registry)
        run(_run(open_jobs, registry, view, logs, group, finished))
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
    """Make the first candidates of each arm; a later run asks none of them again.

    Returns:
        The ids of duplicates, by recipe name.
    """

    async def sample() -> dict[str, list[str]]:
        async with _engines(jobs, registry, view, logs) as (pool, monitor):
            with view.stage("sample", ", ".join(job.recipe.name for job in jobs)), view.bars():
                async with monitor.over():
                    found = await at_once(
                        *(synthesize_sample(job, registry, pool, view, count, monitor) for job in jobs)
                    )
        return {job.recipe.name: duplicates for job, duplicates in zip(jobs, found, strict=True)}

    registry = find_models([job.recipe for job in jobs], view)
    check_labels([job.recipe for job in jobs], registry)
    return run(sample())


def check_labels(recipes: Sequence[SynthesisRecipe], registry: ModelRegistry) -> None:
    """Check that labels differ in their first token for every member that is asked for their probabilities.

    A server shows no tokenizer here; its engine checks when it first asks.

    Raises:
        RecipeError: when two labels begin with the same token; no engine has been started yet.
    """
    for recipe in recipes:
        committee = committee_of(recipe)
        for name, member in committee.models.items() if committee else ():
            ask, model = member.ask or recipe.review.ask, registry.served(member)
            if not {"reviewer", "adjudicator"} & set(member.roles) or model is None or model in registry.servers:
                continue
            asked = list(LABELS_ASKED.get(ask, ()))
            if "reviewer" in member.roles and recipe.best_by == "pairwise" and comparing(ask):
                asked.append(LETTERS)
            if "reviewer" not in member.roles and ask == "expected":
                asked.remove(YES_NO)  # of the checks of instructions, which only reviewers make
            for choice in asked:
                if alike := colliding_labels(registry.models[model].path, choice.labels):
                    raise RecipeError(
                        f"`committee.models.{name}` is asked by `{ask}`, and the tokenizer of {model} begins "
                        f"`{alike[0]}` and `{alike[1]}` with the same token; "
                        + ("set `best_by: scores`" if choice is LETTERS else "set `ask: integers` for it")
                        + ", or take another model"
                    )


@asynccontextmanager
async def _engines(
    jobs: Sequence[Job], registry: ModelRegistry, view: View, logs: Path
) -> AsyncIterator[tuple[EnginePool, Monitor]]:
    """Start the engines that the arms share, and their monitor."""
    if not any(job.recipe.arm_spec.prepares_committee for job in jobs):
        registry.candidates_began.set()
    monitor = Monitor(view, len(jobs), registry.gpus, frozenset(registry.servers | registry.clusters))
    if note := registry.speed_note():
        view.note(note)
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
    """Return the job of one recipe in one run folder, checked as far as possible without spending anything.

    Raises:
        GraError: when something that the recipe names is missing or does not fit.
    """
    check_keys(loaded.recipe)
    check_weights(loaded.recipe)
    shared = loaded.recipe.ledger
    place = user_path(shared, "`ledger`") if shared else ledger or folder / "ledger.sqlite"
    _check_ledger(place)
    if shared and create:
        RunFolder(place.parent).create()
    decontaminator = open_decontaminator(loaded, read_suite)
    job = Job(loaded, folder.create() if create else folder, place, permission, decontaminator)
    seeds, _, _ = job.seeds.rows, job.control_questions, job.preparation  # all are read now, before anything is spent
    if job.recipe.arm_spec.writes_rounds and all(seed.domain for seed in seeds):  # else a model names domains first
        check_parents(job, seeds)
    if job.recipe.annotate is not None:
        plan_work(job.recipe, seeds)
    committee = committee_of(job.recipe)
    if committee is not None:
        named = {name: ModelId(member.model, member.model, "") for name, member in committee.models.items()}
        members = make_members(committee, job.recipe.review, named)
        check_assignment(job.recipe, members)
        make_verifiers(job.recipe.review.verifiers, members, permission)
    return job


def _check_ledger(place: Path) -> None:
    """Check that an existing ledger can be continued, before any engine starts."""
    if not place.exists():
        return
    if not place.is_file():
        raise DataError(f"the ledger {place} is not a file; let `ledger` name a file; a missing one is made")
    if not os.access(place, os.W_OK):
        raise DataError(
            f"the ledger {place} cannot be written; check its rights, or choose another with `ledger` or --runs"
        )
    reader = LedgerReader(place)
    try:
        reader.check_usable()
    finally:
        reader.close()


def missing_models(recipe: SynthesisRecipe) -> list[str]:
    """Return the models that a run would download first; local ones are checked by file headers and sizes.

    Raises:
        RecipeError: when a model or adapter does not exist, or its folder is incomplete.
        ModelUnavailable: when the cache is damaged.
    """
    embeds = recipe.arm_spec.deduplicates or (recipe.annotate is not None and recipe.annotate.needs_embedder)
    wanted: list[list[str]] = [[recipe.dedup.embedder]] if embeds else []
    for member in members_of(recipe):
        if member.adapter is not None:
            folder = Path(member.model).expanduser()
            find_adapter(member.adapter, folder if folder.is_dir() else None)
        if (member.engine or recipe.engine).kind != "openai":
            wanted.append([name for name in (member.model, member.fallback) if name])
    return list(dict.fromkeys(names[0] for names in wanted if not any([is_downloaded(name) for name in names])))


def run_stop(finished: Mapping[str, Mapping[str, Any]]) -> GraError | None:
    """Return what to report when arms did not end as asked; None when every arm has what it can have.

    Args:
        finished: each arm's section of the manifest, by recipe name.

    Returns:
        `BudgetExhausted` when an arm stopped at its budget. Else `MissingAnswers` when rows are missing because models
        or servers failed to answer. Else `NoRows` when an arm accepted no row.
    """
    return budget_stop(finished) or _infrastructure_stop(finished) or _empty_stop(finished)


def budget_stop(finished: Mapping[str, Mapping[str, Any]]) -> BudgetExhausted | None:
    """Return what to report when arms stopped at their budget."""
    stopped = _stopped_by(finished, StopReason.BUDGET)
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


def _infrastructure_stop(finished: Mapping[str, Mapping[str, Any]]) -> MissingAnswers | None:
    stopped = _stopped_by(finished, StopReason.INFRASTRUCTURE)
    if not stopped:
        return None
    count = sum(content["unanswered"] for content in stopped.values())
    rows = ", ".join(f"{name}: {content['states']['accepted']} rows" for name, content in stopped.items())
    last = next((content["last_failure"] for content in stopped.values() if content["last_failure"]), "")
    return MissingAnswers(count, f"candidates ({rows})", last)


def _empty_stop(finished: Mapping[str, Mapping[str, Any]]) -> NoRows | None:
    empty = {name: content for name, content in finished.items() if not content["states"]["accepted"]}
    if not empty:
        return None
    name, content = next(iter(empty.items()))
    most = max(content["reasons"].items(), key=lambda item: item[1], default=("no candidate was begun", 0))
    return NoRows(
        f"{', '.join(empty)}: no row was accepted ({name}: most often because of: {most[0]}, {most[1]} times); see "
        "`gra report` and `gra explain`, then change the recipe's `review`, its models or its seeds"
    )


def _stopped_by(finished: Mapping[str, Mapping[str, Any]], reason: StopReason) -> dict[str, Mapping[str, Any]]:
    return {name: content for name, content in finished.items() if reason in content.get("stopped", [])}
