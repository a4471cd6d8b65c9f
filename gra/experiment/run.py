"""Order the stages of the whole job, `gra run RECIPE`: datasets, students, evaluations, comparison, report.

Each stage hands files to the next, and is skipped when it is already done for the same inputs. So the same command goes
on after an interruption. Each stage also runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from gra.config.experiment import UNTUNED
from gra.config.suite import SuiteConfig
from gra.core.errors import RecipeError, saving
from gra.core.files import write_text
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import RESOLVED
from gra.core.text.plain_text import printable_line
from gra.experiment.plan import (
    ExperimentPlan,
    licenses,
    permission_of,
    planned_rows,
    trained_models,
    trained_rows,
    training_steps,
    unequal_steps,
)
from gra.experiment.rows import ArmRows, describe_data, draw_arms, fewer_rows, no_choice
from gra.experiment.students import TrainingProcess
from gra.runs.contents import REPORTED

if TYPE_CHECKING:
    from gra.evaluation.compare.compare import Comparison
    from gra.synthesis.job import Job


@dataclass(frozen=True)
class ExperimentResult:
    """The comparison and the report of an experiment; with a `report_suite`, the comparison is on that suite."""

    plan: ExperimentPlan
    comparison: Comparison
    report: Path

    def summary(self) -> dict[str, Any]:
        """Return plain values, for `--json`."""
        return {"name": self.plan.recipe.name, "report": str(self.report), "comparison": self.comparison.to_json()}

    def table(self) -> Table:
        """Return the table for a terminal."""
        table: Table = self.comparison.table()
        table.caption = Text(printable_line(f"report: {self.report}"))
        return table


def run_experiment(plan: ExperimentPlan) -> ExperimentResult:
    """Do every stage that is not yet done, and write the report."""
    plan.folder.create()
    view = View(plan.folder / "log.jsonl")
    with plan.folder.lock(), saving(plan.folder.path):
        write_text(plan.folder / RESOLVED, plan.loaded.show() + "\n")
        planned = trained_rows(plan, planned_rows(plan))
        fetch_and_check(plan, view)
        for warning in unequal_steps(training_steps(plan, planned)):
            view.note(warning)
        _synthesize(plan, view)
        rows = draw_arms(plan)
        warnings = unequal_steps(training_steps(plan, {arm: found.rows for arm, found in rows.items()}))
        for note in [*(f"! {note}" for note in [*fewer_rows(rows), *no_choice(plan, rows)]), *warnings]:
            view.note(note)
        with TrainingProcess(view) as trainer:
            for key, arm, seed in plan.students():
                _train(plan, trainer, key, arm, seed)
        return _evaluate_and_compare(plan, view, rows)


def fetch_and_check(plan: ExperimentPlan, view: View) -> None:
    """Fetch models and benchmark files and check the student's recipe, before anything is spent on synthesis.

    Raises:
        GraError: when the installed trainer refuses the student's recipe, or a model or the suite's data is missing.
    """
    from gra.models.catalog import resolve
    from gra.training.options.trl_config import check_arguments

    with view.stage("check", ", ".join(map(str, [plan.student.path, *(suite.path for suite in plan.suites())]))):
        check_arguments(plan.student)
        for name in trained_models(plan):
            resolve(name, accept_licenses=licenses(plan), progress=view.note)
        _check_suites(plan)


def _check_suites(plan: ExperimentPlan) -> None:
    """Read the items of the suites, and check that the reported figures come from items of their own."""
    from gra.evaluation.suite import load_samples

    asked = [load_samples(suite.recipe).tasks for suite in plan.suites()]
    texts = [{sample.text: task.name for task in tasks for sample in task.samples} for tasks in asked]
    if len(texts) > 1 and (shared := texts[0].keys() & texts[1].keys()):
        tasks = ", ".join(sorted({texts[1][text] for text in shared}))
        raise RecipeError(
            f"`report_suite` asks {len(shared)} items that `suite` asks too (tasks: {tasks}); choices were made on "
            "these, so take other items for the figures that are reported",
            plan.loaded.path,
        )


def arm_jobs(plan: ExperimentPlan, *, create: bool = True) -> list[Job]:
    """Return the synthesis jobs of all arms, on one ledger.

    Raises:
        RecipeError, DataError: for the first arm that cannot work.
    """
    from gra.evaluation.suite import suite_items
    from gra.synthesis.run import make_job

    ledger, permission = plan.folder / "ledger.sqlite", permission_of(plan.recipe, plan.loaded.path)
    return [
        make_job(
            arm,
            RunFolder(plan.folder / "arms" / name),
            ledger,
            read_suite=suite_items,
            create=create,
            permission=permission,
        )
        for name, arm in plan.arms.items()
    ]


def _synthesize(plan: ExperimentPlan, view: View) -> None:
    from gra.synthesis.run import run_jobs, run_stop

    finished = run_jobs(arm_jobs(plan), view, plan.folder / "logs", group=plan.recipe.name)
    if stop := run_stop(finished):
        raise stop


def _train(plan: ExperimentPlan, trainer: TrainingProcess, key: str, arm: str, seed: int) -> None:
    """Train one student, unless it is trained already."""
    recipe = plan.recipe
    changes = {f"train.{name}": value for name, value in recipe.train.items()} | {
        "name": f"{recipe.name}-{key}",
        "train.seed": seed,
        "data.train": [{"path": str(plan.training_file(arm))}],
        "tracking.group": recipe.tracking.group or recipe.name,
        "tracking.wandb": recipe.tracking.wandb,
    }
    if recipe.accept_licenses:
        changes["accept_licenses"] = licenses(plan)
    trainer.train(plan.student.path, plan.folder / "models" / key, changes, key)


def _evaluate_and_compare(plan: ExperimentPlan, view: View, rows: Mapping[str, ArmRows]) -> ExperimentResult:
    """Evaluate and compare on each suite, and write the report."""
    from gra.reports.html import write_report
    from gra.tracking import start_tracking

    data, notes = describe_data(plan, rows)
    comparisons = []
    for suite, ending in zip(plan.suites(), ("", REPORTED), strict=False):
        evaluated = _evaluate(plan, view, suite.recipe, ending)
        comparisons.append(_compare(plan, view, evaluated, ending, data, notes))
    plan.folder.record("experiment", {"command": plan.command, "arms": list(plan.recipe.arms)}, [])
    # After the stages have ended, so that the page's timeline is complete.
    report = write_report(plan.folder.path, title=plan.recipe.name, command=plan.command)
    tracker = start_tracking(
        plan.recipe.tracking, stage="report", name=f"{plan.recipe.name}-report", group=plan.recipe.name,
        config=plan.recipe.model_dump(), folder=plan.folder.path,
    )  # fmt: skip
    tracker.artifact(report.parent, f"{plan.recipe.name}-report", "report")
    tracker.finish()
    return ExperimentResult(plan, comparisons[-1], report)


def _evaluate(plan: ExperimentPlan, view: View, suite: SuiteConfig, ending: str) -> dict[str, Path]:
    """Evaluate the untuned student and every trained one on the same suite."""
    from gra.evaluation.run import ModelUnderTest, evaluate
    from gra.models.catalog import resolve
    from gra.training.plan import model_name

    student = plan.student.recipe
    base = resolve(
        model_name(student.model),
        accept_licenses=licenses(plan),
        allow_remote_code=student.model.allow_remote_code,
    )
    permission = permission_of(plan.recipe, plan.loaded.path)
    runs: dict[str, Path] = {}
    subjects = [(UNTUNED, None), *((key, plan.folder / "models" / key) for key, _, _ in plan.students())]
    for key, adapter in subjects:
        runs[key] = plan.folder / f"eval{ending}" / key
        model = ModelUnderTest(
            key, base.path, adapter, student.model.chat_template, identity=base.identity, remote_code=base.remote_code
        )
        with view.stage("evaluate", f"{key}{ending}"), view.bars():
            evaluate(suite, model, runs[key], progress=_shown(view, key), permission=permission)
    return runs


def _shown(view: View, key: str) -> Callable[[str, int, int], None]:
    return lambda task, done, total: view.progress(f"{key}: {task}", done, total)


def _compare(
    plan: ExperimentPlan,
    view: View,
    evaluated: Mapping[str, Path],
    ending: str,
    data: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
) -> Comparison:
    from gra.evaluation.compare.compare import compare
    from gra.reports.compare_page import write_page

    arms = {UNTUNED: [evaluated[UNTUNED]]}
    for key, arm, _ in plan.students():
        arms.setdefault(arm, []).append(evaluated[key])
    with view.stage("compare", ending.removeprefix("-")):
        return compare(
            arms, plan.recipe.baseline, plan.recipe.margin, plan.folder / f"compare{ending}", untuned=UNTUNED,
            page=write_page, data=data, notes=notes,
        )  # fmt: skip
