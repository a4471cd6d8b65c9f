"""`gra synthesize`, `gra run` and `gra symbiosis`: one dataset, or a whole job."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gra.cli.options import (
    RUNS,
    AllowCode,
    AllowKeys,
    AsJson,
    DryRun,
    Overrides,
    Plugin,
    Public,
    Recipe,
    RunsDir,
    ShowConfig,
    accept_keys,
    load_plugins,
    permission,
    show_line,
    show_summary,
)
from gra.core.progress import View

if TYPE_CHECKING:
    from gra.experiment import ExperimentPlan
    from gra.experiment.symbiosis.plan import SymbiosisPlan


def synthesize(
    recipe: Recipe,
    overrides: Overrides = None,
    runs: RunsDir = RUNS,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    push_to_hub: Annotated[str | None, typer.Option(help="OWNER/NAME: then push the dataset there")] = None,
    public: Public = False,
    allow_code_execution: AllowCode = False,
    allow_key: AllowKeys = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Make one dataset: generate, review, adjudicate, deduplicate, export."""
    from gra.config.loader import load_recipe
    from gra.config.synthesis import SynthesisRecipe
    from gra.core.run_folder import RunFolder
    from gra.evaluation.suite import suite_items
    from gra.runs.push import check_hub, push
    from gra.synthesis.run import make_job, run_jobs, run_stop

    load_plugins(plugin)
    accept_keys(allow_key)
    loaded = load_recipe(recipe, SynthesisRecipe, overrides or [])
    if show_config:
        show_line(loaded.show())
        return
    destination = check_hub(push_to_hub, public=public) if push_to_hub else None
    folder = RunFolder(runs / loaded.recipe.name)
    job = make_job(
        loaded, folder, read_suite=suite_items, create=not dry_run, permission=permission(allow_code_execution)
    )
    if dry_run:
        _check_only(recipe, job)
        return
    view = View(folder / "log.jsonl")
    with folder.lock(), contextlib.redirect_stdout(sys.stderr):  # Ray and others print there; it is for --json
        content = run_jobs([job], view, folder / "logs")[loaded.recipe.name]
    summary = {key: content[key] for key in ("name", "arm", "states", "funnel", "tokens_by_role")}
    show_summary(summary, _funnel(content), as_json=as_json)
    view.note(f"dataset: {folder / 'dataset'}")
    if destination:
        view.note(f"pushed: {push(folder.path, destination)}")
    if stop := run_stop({content["name"]: content}):
        raise stop


def _check_only(recipe: Path, job: Any) -> None:
    """Say what a run would need, and that nothing was spent."""
    from gra.synthesis.run import missing_models

    view = View()
    if job.seeds.set_aside:
        view.note(job.seeds.note())
    if missing := missing_models(job.recipe):
        view.note(f"not on this machine yet, the run fetches them first: {', '.join(missing)}")
    for note in job.decontaminator.notes() if job.decontaminator else ():
        view.note(note)
    view.note(f"{recipe}: valid, {len(job.seeds.rows)} seeds; nothing was spent")


def _funnel(content: dict[str, Any]) -> Table:
    table = Table("step", "candidates")
    for step, count in content["funnel"].items():
        table.add_row(step, str(count))
    return table


def run(
    recipe: Recipe,
    overrides: Overrides = None,
    runs: RunsDir = RUNS,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    allow_key: AllowKeys = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Do the whole job: a dataset for each arm, students, evaluations, comparison, report."""
    from gra.experiment import load_experiment, run_experiment

    load_plugins(plugin)
    accept_keys(allow_key)
    plan = load_experiment(recipe, overrides or [], runs)
    if not _shown(plan, show_config, dry_run):
        with contextlib.redirect_stdout(sys.stderr):
            result = run_experiment(plan)
        show_summary(result.summary(), result.table(), as_json=as_json)


def symbiosis(
    recipe: Recipe,
    overrides: Overrides = None,
    runs: RunsDir = RUNS,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    allow_key: AllowKeys = None,
    as_json: AsJson = False,
) -> None:
    """Let a teacher and a student make training rows for each other in rounds, and measure both."""
    from gra.experiment.symbiosis.plan import load_symbiosis
    from gra.experiment.symbiosis.run import run_symbiosis

    accept_keys(allow_key)
    plan = load_symbiosis(recipe, overrides or [], runs)
    if not _shown(plan, show_config, dry_run):
        with contextlib.redirect_stdout(sys.stderr):
            result = run_symbiosis(plan)
        show_summary(result.summary(), result.table(), as_json=as_json)


def _shown(plan: ExperimentPlan | SymbiosisPlan, show_config: bool, dry_run: bool) -> bool:
    """Show the recipe or what a run would do, where one of them is asked for."""
    if show_config:
        show_line(plan.loaded.show())
    elif dry_run:
        show_line(plan.describe(), error=True)
    return show_config or dry_run
