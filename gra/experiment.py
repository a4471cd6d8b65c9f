"""Order the stages of the whole job, `gra run RECIPE`: datasets, students, evaluations, comparison, report.

Each stage hands files to the next, and is skipped when it is already done for the same inputs. So the same command goes
on after an interruption. Each stage also runs alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gra.config.experiment import UNTUNED, ExperimentRecipe
from gra.config.loader import Loaded, find_file, load_recipe
from gra.config.suite import SuiteConfig
from gra.config.synthesis import SynthesisRecipe, reviews_responses
from gra.config.training import TrainRecipe, require_answers
from gra.core.errors import GraError, RecipeError
from gra.core.files import write_text
from gra.core.hardware import gpu_count
from gra.core.processes.secrets import child_environment
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import RESOLVED
from gra.core.text.plain_text import printable_line
from gra.sandbox.permission import KEY, Permission, require

if TYPE_CHECKING:
    from gra.synthesis.job import Job


class StageFailed(GraError):
    """A stage that runs in its own process ended with an error of its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class ExperimentPlan:
    """A checked experiment, with every recipe that it names.

    Attributes:
        arms: the arms that are synthesized, without those of unreviewed candidates.
    """

    loaded: Loaded[ExperimentRecipe]
    overrides: list[str]
    folder: RunFolder
    arms: dict[str, Loaded[SynthesisRecipe]]
    student: Loaded[TrainRecipe]
    suite: Loaded[SuiteConfig]

    @property
    def recipe(self) -> ExperimentRecipe:
        """The experiment's own recipe."""
        return self.loaded.recipe

    @property
    def command(self) -> str:
        """The command that reproduces the run."""
        return " ".join(["gra run", str(self.loaded.path), *self.overrides])

    def students(self) -> list[tuple[str, str, int]]:
        """Return (key, arm, training seed) of every student to train."""
        return [(f"{arm}-seed{seed}", arm, seed) for arm in self.recipe.arms for seed in self.recipe.training_seeds]

    def dataset(self, arm: str) -> Path:
        """Return the file of an arm's training rows."""
        file = "unreviewed.parquet" if arm in self.recipe.derived else "train.parquet"
        return self.folder / "arms" / self.recipe.derived.get(arm, arm) / "dataset" / file

    def describe(self) -> str:
        """Describe in a few lines what the run would do."""
        lines = [f"{self.loaded.path}: valid; nothing was spent", f"run folder: {self.folder.path}"]
        lines += [f"arm {name}: {arm.recipe.arm}, {arm.path}" for name, arm in self.arms.items()]
        lines += [f"arm {name}: unreviewed candidates of {of}" for name, of in self.recipe.derived.items()]
        lines.append(f"students: {len(self.students())} of {self.student.recipe.model.name}, {self.student.path}")
        tasks = ", ".join(task.name for task in self.suite.recipe.tasks)
        lines.append(f"suite: {tasks}, {self.suite.path}; baseline {self.recipe.baseline}")
        if missing := missing_models(self):
            lines.append(f"not on this machine yet, the run fetches them first: {', '.join(missing)}")
        planned = planned_rows(self)
        counts = training_steps(self, planned)
        lines += [f"optimizer steps of {arm}: {counts[arm]} for at most {rows} rows" for arm, rows in planned.items()]
        return "\n".join([*lines, *unequal_steps(counts)])


def load_experiment(given: Path | Loaded[ExperimentRecipe], overrides: Sequence[str], runs: Path) -> ExperimentPlan:
    """Read an experiment and every recipe it names.

    Args:
        given: the file, or what was read from it.
        overrides: the texts `key.sub=value` that were given; read with the file.
        runs: the folder that holds the run folders.

    Raises:
        RecipeError: for the first file that has problems, naming all of that file's.
    """
    from gra.evaluation.scorers.kinds import TASK_KINDS
    from gra.evaluation.suite import load_suite

    loaded = load_recipe(given, ExperimentRecipe, overrides) if isinstance(given, Path) else given
    recipe, path = loaded.recipe, loaded.path
    arms = {name: load_recipe(find_file(file, path), SynthesisRecipe) for name, file in recipe.recipes.items()}
    for name, of in recipe.derived.items():
        if not reviews_responses(arms[of].recipe):
            raise RecipeError(f"`arms.{name}.of: {of}` has no reviews, so it has no unreviewed candidates", path)
    names = [arm.recipe.name for arm in arms.values()]
    if len(set(names)) < len(names):
        shared = ", ".join(names)
        raise RecipeError(f"two arms have the same `name` ({shared}); the ledger distinguishes arms by it", path)
    changes = [f"train.{key}={json.dumps(value)}" for key, value in recipe.train.items()]
    student = load_recipe(find_file(recipe.student, path), TrainRecipe, changes)
    require_answers(student.recipe, student.path)
    suite = load_recipe(find_file(recipe.suite, path), SuiteConfig)
    suite = replace(suite, recipe=load_suite(suite.path))  # with its data files found
    for task in suite.recipe.tasks:
        if TASK_KINDS[task.kind].needs_sandbox:
            require(permission_of(recipe, path), f"the task `{task.name}` of {suite.path}")
    for arm in arms.values():
        if arm.recipe.contamination is not None:
            load_suite(find_file(arm.recipe.contamination.suite, arm.path))
        if any(verifier.kind == "tests" for verifier in arm.recipe.review.verifiers):
            require(permission_of(recipe, path), f"`kind: tests` of `review.verifiers` in {arm.path}")
    return ExperimentPlan(loaded, list(overrides), RunFolder(runs / recipe.name), arms, student, suite)


def permission_of(recipe: ExperimentRecipe, path: Path) -> Permission | None:
    """Return the experiment's permission to run programs of models, if it gives one."""
    return Permission(f"{KEY} in {path}") if recipe.allow_code_execution else None


def missing_models(plan: ExperimentPlan) -> list[str]:
    """Return the models of all stages that the run would download first.

    Raises:
        RecipeError, ModelUnavailable: for a model that is not complete, or a name that does not exist.
    """
    from gra.models.catalog import is_downloaded
    from gra.synthesis.run import missing_models as missing_for_arm

    named = [name for arm in plan.arms.values() for name in missing_for_arm(arm.recipe)]
    return list(dict.fromkeys([*named, *(name for name in _trained(plan) if not is_downloaded(name))]))


def _trained(plan: ExperimentPlan) -> list[str]:
    """Return the names of the student, and of its teacher where it has one."""
    from gra.training.plan import model_name

    recipe = plan.student.recipe
    return [model_name(section) for section in (recipe.model, recipe.teacher) if section is not None]


def _licenses(plan: ExperimentPlan) -> list[str]:
    return [*plan.recipe.accept_licenses, *plan.student.recipe.accept_licenses]


def planned_rows(plan: ExperimentPlan) -> dict[str, int]:
    """Return the most rows of each arm's dataset.

    Raises:
        DataError: a seed file is wrong.
    """
    from gra.data.seeds.hub import find_seeds
    from gra.data.seeds.load import load_seeds

    rows = {}
    for name, arm in plan.arms.items():
        recipe = arm.recipe
        new = recipe.rounds.count * recipe.rounds.accept
        seeds = load_seeds(find_seeds(recipe.seeds, arm.path), recipe.domains, recipe.seeds, seed=recipe.seed)
        spec = recipe.arm_spec
        rows[name] = len(seeds.rows) * spec.keeps_seed_instructions + new * spec.writes_rounds
    return rows | {name: rows[of] for name, of in plan.recipe.derived.items()}


def training_steps(plan: ExperimentPlan, rows: Mapping[str, int]) -> dict[str, int]:
    """Return the optimizer steps of each arm's student on this machine.

    Args:
        plan: the experiment.
        rows: the rows of each arm's dataset.

    Raises:
        RecipeError: the student's `train` section is wrong.
    """
    from gra.training.options.steps import steps
    from gra.training.options.trl_config import check_arguments

    options, processes = check_arguments(plan.student), max(1, gpu_count())
    held = plan.student.recipe.data.holdout.fraction
    return {arm: steps(options, count - round(held * count), processes) for arm, count in rows.items()}


def unequal_steps(counts: Mapping[str, int]) -> list[str]:
    """Return a warning when the arms' students are trained for different numbers of steps."""
    if len(set(counts.values())) <= 1:
        return []
    shown = ", ".join(f"{arm} {count}" for arm, count in counts.items())
    return [
        f"! the arms differ in optimizer steps ({shown}), so a difference between students may come from training "
        "longer; set `train: {max_steps: N}` in the experiment"
    ]


@dataclass(frozen=True)
class ExperimentResult:
    """The comparison and the report of an experiment."""

    plan: ExperimentPlan
    comparison: Any
    report: Path

    def summary(self) -> dict[str, Any]:
        """Return plain values, for `--json`."""
        return {"name": self.plan.recipe.name, "report": str(self.report), "comparison": self.comparison.to_json()}

    def table(self) -> Table:
        """Return the table for a terminal."""
        from rich.text import Text  # light commands need no Rich

        table: Table = self.comparison.table()
        table.caption = Text(printable_line(f"report: {self.report}"))
        return table


def run_experiment(plan: ExperimentPlan) -> ExperimentResult:
    """Do every stage that is not yet done, and write the report."""
    plan.folder.create()
    view = View(plan.folder / "log.jsonl")
    with plan.folder.lock():
        write_text(plan.folder / RESOLVED, plan.loaded.show() + "\n")
        fetch_and_check(plan, view)
        for warning in unequal_steps(training_steps(plan, planned_rows(plan))):
            view.note(warning)
        _synthesize(plan, view)
        for warning in unequal_steps(training_steps(plan, _written_rows(plan))):
            view.note(warning)
        for key, arm, seed in plan.students():
            _train(plan, view, key, arm, seed)
        evaluated = _evaluate(plan, view)
        return _compare(plan, view, evaluated)


def fetch_and_check(plan: ExperimentPlan, view: View) -> None:
    """Fetch models and benchmark files and check the student's recipe, before anything is spent on synthesis.

    Raises:
        GraError: when the installed trainer refuses the student's recipe, or a model or the suite's data is missing.
    """
    from gra.evaluation.suite import load_samples
    from gra.models.catalog import resolve
    from gra.training.options.trl_config import check_arguments

    with view.stage("check", f"{plan.student.path}, {plan.suite.path}"):
        check_arguments(plan.student)
        for name in _trained(plan):
            resolve(name, accept_licenses=_licenses(plan), progress=view.note)
        load_samples(plan.suite.recipe)


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


def _written_rows(plan: ExperimentPlan) -> dict[str, int]:
    import pyarrow.parquet as pq

    return {arm: pq.read_metadata(plan.dataset(arm)).num_rows for arm in plan.recipe.arms}


def _train(plan: ExperimentPlan, view: View, key: str, arm: str, seed: int) -> None:
    """Train one student in a process of its own, unless it is trained already."""
    from gra.training.options.trl_config import load_train_recipe
    from gra.training.run import is_trained

    data = plan.dataset(arm)
    output = plan.folder / "models" / key
    overrides = [f"train.{name}={json.dumps(value)}" for name, value in plan.recipe.train.items()]
    overrides += [
        f"name={plan.recipe.name}-{key}",
        f"train.seed={seed}",
        f"data.train={json.dumps([{'path': str(data)}])}",
        f"tracking.group={plan.recipe.tracking.group or plan.recipe.name}",
        f"tracking.wandb={plan.recipe.tracking.wandb}",
    ]
    if plan.recipe.accept_licenses:
        overrides.append(f"accept_licenses={json.dumps(_licenses(plan))}")
    arguments = ["gra.cli.train", "--config", str(plan.student.path), "--output", str(output), *overrides]
    with view.stage("train", key):
        if is_trained(load_train_recipe(plan.student.path, overrides), output):
            view.note(f"{output} already holds this student")
            return
        done = subprocess.run(
            [sys.executable, "-m", *_launcher(), *arguments],
            check=False,
            env=child_environment("HF_TOKEN", "WANDB_API_KEY"),
        )
    if done.returncode:
        raise StageFailed(
            f"training `{key}` ended with status {done.returncode} (see above); run the same command again to go on",
            done.returncode if done.returncode in (2, 3, 4, 5, 130) else 1,
        )


def _launcher() -> list[str]:
    """Return how the training starts: plain Python on a CPU, else `accelerate launch` over all GPUs."""
    if not (gpus := gpu_count()):
        return []
    counts = ["--num_processes", str(gpus), "--num_machines", "1", *(["--multi_gpu"] if gpus > 1 else [])]
    return ["accelerate.commands.launch", *counts, "--mixed_precision", "no", "--dynamo_backend", "no", "--module"]


def _evaluate(plan: ExperimentPlan, view: View) -> dict[str, Path]:
    """Evaluate the untuned student and every trained one on the same suite."""
    from gra.evaluation.run import ModelUnderTest, evaluate
    from gra.models.catalog import resolve
    from gra.training.plan import model_name

    student = plan.student.recipe
    base = resolve(
        model_name(student.model),
        accept_licenses=_licenses(plan),
        allow_remote_code=student.model.allow_remote_code,
    )
    permission = permission_of(plan.recipe, plan.loaded.path)
    runs: dict[str, Path] = {}
    subjects = [(UNTUNED, None), *((key, plan.folder / "models" / key) for key, _, _ in plan.students())]
    for key, adapter in subjects:
        runs[key] = plan.folder / "eval" / key
        model = ModelUnderTest(
            key, base.path, adapter, student.model.chat_template, identity=base.identity, remote_code=base.remote_code
        )
        with view.stage("evaluate", key), view.bars():
            evaluate(plan.suite.recipe, model, runs[key], progress=_shown(view, key), permission=permission)
    return runs


def _shown(view: View, key: str) -> Callable[[str, int, int], None]:
    return lambda task, done, total: view.progress(f"{key}: {task}", done, total)


def _compare(plan: ExperimentPlan, view: View, evaluated: dict[str, Path]) -> ExperimentResult:
    from gra.evaluation.compare.compare import compare
    from gra.reports.compare_page import write_page
    from gra.reports.html import write_report
    from gra.tracking import start_tracking

    arms = {UNTUNED: [evaluated[UNTUNED]]}
    for key, arm, _ in plan.students():
        arms.setdefault(arm, []).append(evaluated[key])
    with view.stage("compare"):
        comparison = compare(
            arms, plan.recipe.baseline, plan.recipe.margin, plan.folder / "compare", untuned=UNTUNED, page=write_page
        )
        plan.folder.record("experiment", {"command": plan.command, "arms": list(plan.recipe.arms)}, [])
    # After the stage has ended, so that the page's timeline is complete.
    report = write_report(plan.folder.path, title=plan.recipe.name, command=plan.command)
    tracker = start_tracking(
        plan.recipe.tracking, stage="report", name=f"{plan.recipe.name}-report", group=plan.recipe.name,
        config=plan.recipe.model_dump(), folder=plan.folder.path,
    )  # fmt: skip
    tracker.artifact(report.parent, f"{plan.recipe.name}-report", "report")
    tracker.finish()
    return ExperimentResult(plan, comparison, report)
