"""Read an experiment and every recipe that it names, and say what a run of it would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gra.config.experiment import ExperimentRecipe
from gra.config.loader import Loaded, as_overrides, find_file, load_recipe
from gra.config.review import RUN_CODE
from gra.config.suite import SuiteConfig
from gra.config.synthesis import SynthesisRecipe, reviews_responses
from gra.config.training import TrainRecipe, require_answers
from gra.core.errors import RecipeError
from gra.core.hardware import gpu_count
from gra.core.run_folder import RunFolder
from gra.core.types import Seed
from gra.sandbox.permission import KEY, Permission, require


@dataclass(frozen=True)
class ExperimentPlan:
    """A checked experiment, with every recipe that it names.

    Attributes:
        arms: the arms that are synthesized, without those that share another arm's rows.
        report: the suite of the figures that are reported; None where the experiment names none.
    """

    loaded: Loaded[ExperimentRecipe]
    overrides: list[str]
    folder: RunFolder
    arms: dict[str, Loaded[SynthesisRecipe]]
    student: Loaded[TrainRecipe]
    suite: Loaded[SuiteConfig]
    report: Loaded[SuiteConfig] | None = None

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

    def source(self, arm: str) -> Path:
        """Return the folder of the synthesis that makes an arm's rows."""
        return self.folder / "arms" / self.recipe.derived.get(arm, arm)

    def dataset(self, arm: str) -> Path:
        """Return the file of all rows that an arm's students can be trained on."""
        return self.source(arm) / "dataset" / f"{self.recipe.part(arm)}.parquet"

    def training_file(self, arm: str) -> Path:
        """Return the file that an arm's students are trained on: its dataset, or the rows drawn from it."""
        drawn = self.recipe.wanted_rows(arm) is not None
        return self.folder / "rows" / f"{arm}.parquet" if drawn else self.dataset(arm)

    def suites(self) -> list[Loaded[SuiteConfig]]:
        """Return the suites that the students answer."""
        return [self.suite, *([self.report] if self.report is not None else [])]

    def describe(self) -> str:
        """Describe in a few lines what the run would do."""
        lines = [f"{self.loaded.path}: valid; nothing was spent", f"run folder: {self.folder.path}"]
        for name, arm in self.arms.items():
            lines.append(", ".join([f"arm {name}: {arm.recipe.arm}", str(arm.path), *_changes(self.recipe, name)]))
        what = {"train": "rows", "unreviewed": "unreviewed candidates"}
        lines += [f"arm {name}: {what[self.recipe.part(name)]} of {of}" for name, of in self.recipe.derived.items()]
        drawn = {"best": "its rows with the highest scores", "seeds": "its rows drawn in the proportions of its seeds"}
        lines += [
            f"arm {name}: {drawn[draw]}" for name in self.recipe.arms if (draw := self.recipe.draw(name)) in drawn
        ]
        lines.append(f"students: {len(self.students())} of {self.student.recipe.model.name}, {self.student.path}")
        for suite, use in zip(self.suites(), ("suite", "suite of the reported figures"), strict=False):
            tasks = ", ".join(task.name for task in suite.recipe.tasks)
            lines.append(f"{use}: {tasks}, {suite.path}; baseline {self.recipe.baseline}")
        if missing := missing_models(self):
            lines.append(f"not on this machine yet, the run fetches them first: {', '.join(missing)}")
        planned = trained_rows(self, planned_rows(self))
        counts = training_steps(self, planned)
        lines += [f"optimizer steps of {arm}: {counts[arm]} for at most {rows} rows" for arm, rows in planned.items()]
        return "\n".join([*lines, *unequal_steps(counts)])


def _changes(recipe: ExperimentRecipe, arm: str) -> list[str]:
    """Return what an experiment changes in an arm's recipe; a changed recipe gets a name of its own."""
    changes = recipe.arm(arm).changes
    return as_overrides({"name": f"{recipe.name}-{arm}"} | _flat(changes)) if changes else []


def _flat(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes by dotted keys. A section is merged with that of the recipe, as with `extends`."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        inner = _flat(value) if isinstance(value, dict) and value else {}
        found |= {f"{key}.{name}": each for name, each in inner.items()} if inner else {key: value}
    return found


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
    arms = {
        name: load_recipe(
            find_file(file, path), SynthesisRecipe, _changes(recipe, name), overridden_by=f"`arms.{name}.changes`"
        )
        for name, file in recipe.recipes.items()
    }
    for name, of in recipe.derived.items():
        if recipe.part(name) == "unreviewed" and not reviews_responses(arms[of].recipe):
            raise RecipeError(f"`arms.{name}.of: {of}` has no reviews, so it has no unreviewed candidates", path)
    for name in recipe.arms:
        source = recipe.derived.get(name, name)
        if recipe.draw(name) == "best" and not reviews_responses(arms[source].recipe):
            raise RecipeError(f"`arms.{name}.draw: best` needs scores, and {source} has no reviews; leave it out", path)
    names = [arm.recipe.name for arm in arms.values()]
    if len(set(names)) < len(names):
        shared = ", ".join(names)
        raise RecipeError(
            f"two arms have the same `name` ({shared}); the ledger distinguishes arms by it. An arm that trains on "
            "rows of another one is written `{of: ARM, part: train}`",
            path,
        )
    changes = as_overrides({f"train.{key}": value for key, value in recipe.train.items()})
    student = load_recipe(find_file(recipe.student, path), TrainRecipe, changes)
    require_answers(student.recipe, student.path)
    suites = []
    for file in filter(None, (recipe.suite, recipe.report_suite)):
        suite = load_recipe(find_file(file, path), SuiteConfig)
        suites.append(replace(suite, recipe=load_suite(suite.path)))  # with its data files found
        for task in suites[-1].recipe.tasks:
            if TASK_KINDS[task.kind].needs_sandbox:
                require(permission_of(recipe, path), f"the task `{task.name}` of {suite.path}")
    for arm in arms.values():
        if arm.recipe.contamination is not None:
            load_suite(find_file(arm.recipe.contamination.suite, arm.path))
        for verifier in arm.recipe.review.verifiers:
            if verifier.kind in RUN_CODE:
                require(permission_of(recipe, path), f"`kind: {verifier.kind}` of `review.verifiers` in {arm.path}")
    return ExperimentPlan(loaded, list(overrides), RunFolder(runs / recipe.name), arms, student, *suites)


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
    return list(dict.fromkeys([*named, *(name for name in trained_models(plan) if not is_downloaded(name))]))


def trained_models(plan: ExperimentPlan) -> list[str]:
    """Return the names of the student, and of its teacher where it has one."""
    from gra.training.plan import model_name

    recipe = plan.student.recipe
    return [model_name(section) for section in (recipe.model, recipe.teacher) if section is not None]


def licenses(plan: ExperimentPlan) -> list[str]:
    """Return the licenses that the experiment and its student's recipe accept."""
    return list(dict.fromkeys([*plan.recipe.accept_licenses, *plan.student.recipe.accept_licenses]))


def seeds_of(arm: Loaded[SynthesisRecipe]) -> Sequence[Seed]:
    """Return the seeds of an arm's recipe.

    Raises:
        DataError: the seed file is wrong.
    """
    from gra.data.seeds.hub import find_seeds
    from gra.data.seeds.load import load_seeds

    recipe = arm.recipe
    return load_seeds(find_seeds(recipe.seeds, arm.path), recipe.domains, recipe.seeds, seed=recipe.seed).rows


def planned_rows(plan: ExperimentPlan) -> dict[str, int]:
    """Return the most rows of each arm's dataset.

    Raises:
        RecipeError: an arm is to train on more rows than its synthesis can make.
        DataError: a seed file is wrong.
    """
    from gra.synthesis.annotation.asking import plan_work

    rows = {}
    for name, arm in plan.arms.items():
        recipe = arm.recipe
        new = recipe.rounds.count * recipe.rounds.accept
        seeds = seeds_of(arm)
        spec = recipe.arm_spec
        kept = seeds if recipe.annotate is None else plan_work(recipe, seeds).texts
        rows[name] = len(kept) * spec.keeps_seed_instructions + new * spec.writes_rounds
    rows = {name: rows[plan.recipe.derived.get(name, name)] for name in plan.recipe.arms}
    for name, most in rows.items():
        wanted = plan.recipe.wanted_rows(name) or 0
        if wanted > most:
            of = plan.recipe.derived.get(name, name)
            changed = f" or in `arms.{of}.changes`" if plan.recipe.arm(of).changes else ""
            raise RecipeError(
                f"the arm `{name}` is to train on {wanted} rows, and {plan.arms[of].path} makes at most {most}; lower "
                f"`{'rows' if plan.recipe.arm(name).rows is None else f'arms.{name}.rows'}`, raise `rounds.accept` or "
                f"`rounds.count` there{changed}, or give it more seeds",
                plan.loaded.path,
            )
    return rows


def trained_rows(plan: ExperimentPlan, rows: Mapping[str, int]) -> dict[str, int]:
    """Return the rows that each arm's students are trained on.

    Args:
        plan: the experiment.
        rows: the rows of each arm's dataset.
    """
    return {arm: min(count, plan.recipe.wanted_rows(arm) or count) for arm, count in rows.items()}


def training_steps(plan: ExperimentPlan, rows: Mapping[str, int]) -> dict[str, int]:
    """Return the optimizer steps of each arm's student on this machine.

    Args:
        plan: the experiment.
        rows: the rows that each arm's students are trained on.

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
