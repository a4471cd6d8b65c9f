"""Read an experiment of a teacher and a student and all that it names, and check it before spending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.config.committee import CommitteeConfig, MemberConfig
from gra.config.experiment import SymbiosisRecipe
from gra.config.keys import check_keys
from gra.config.loader import Loaded, as_overrides, find_file, load_recipe
from gra.config.synthesis import DOMAINS, SeedsConfig, SynthesisRecipe
from gra.config.training import TrainRecipe
from gra.core.errors import RecipeError
from gra.core.run_folder import RunFolder
from gra.data.seeds.hub import find_seeds
from gra.data.seeds.load import load_seeds
from gra.experiment.symbiosis.problems import WordProblem, read_problems, refuse_shared
from gra.experiment.symbiosis.store import SolutionStore, StoredSolution, read_store


@dataclass(frozen=True)
class SymbiosisPlan:
    """A checked experiment with its problems.

    Attributes:
        problems: those of the rounds.
        held_out: those that measure.
        given: solutions that the store begins with.
        notes: what the files hold that is not used.
    """

    loaded: Loaded[SymbiosisRecipe]
    folder: RunFolder
    student: Loaded[TrainRecipe]
    problems: list[WordProblem]
    held_out: list[WordProblem]
    given: list[StoredSolution]
    notes: list[str]

    @property
    def recipe(self) -> SymbiosisRecipe:
        """The experiment's own recipe."""
        return self.loaded.recipe

    def most_calls(self) -> dict[str, int]:
        """Return the most calls of the rounds and of the measurement; likelihoods of lines count."""
        r, likelihoods = self.recipe, 2 * (self.recipe.tolerance is not None)
        walk = r.lines * (1 + r.choices + likelihoods)
        return {
            "rounds": r.rounds * len(self.problems) * (3 * r.draws + r.draws * r.lines + walk + r.lines),
            "held-out problems": len(self.held_out) * (3 + r.lines * (1 + 3 * len(r.training_seeds)) + walk),
        }

    def describe(self) -> str:
        """Describe in a few lines what the run would do."""
        calls = ", ".join(f"{name} {count:,}" for name, count in self.most_calls().items())
        return "\n".join(
            [
                f"{self.loaded.path}: valid; nothing was spent",
                f"run folder: {self.folder.path}",
                f"{self.recipe.rounds} rounds on {len(self.problems)} problems; {len(self.held_out)} held out",
                f"teacher {self.recipe.teacher.model}, student {self.recipe.student.model} ({self.student.path})",
                f"calls at most: {calls}",
                *self.notes,
            ]
        )


def load_symbiosis(path: Path, overrides: Sequence[str], runs: Path) -> SymbiosisPlan:
    """Read an experiment and every file that it names.

    Args:
        path: the recipe.
        overrides: the texts `key.sub=value` that were given.
        runs: the folder that holds the run folders.

    Raises:
        RecipeError: when a recipe is wrong, or the student's training does not fit.
        DataError: when problems cannot be checked, or one of them is held out too.
    """
    loaded = load_recipe(path, SymbiosisRecipe, overrides)
    recipe = loaded.recipe
    changes = {f"train.{key}": value for key, value in recipe.train.items()} | {"model.name": recipe.student.model}
    student = load_recipe(find_file(recipe.training, path), TrainRecipe, as_overrides(changes))
    _check_training(student.recipe, student.path)
    check_keys(asked_as(recipe, {"teacher": recipe.teacher, "student": recipe.student}))
    problems, notes = _problems(recipe, recipe.problems, "problems", path)
    held_out, more = _problems(recipe, recipe.held_out, "held_out", path)
    refuse_shared(problems, held_out)
    given = read_store(find_file(recipe.store, path)) if recipe.store is not None else []
    SolutionStore(held_out, given)  # refuses one that holds a held-out problem
    folder = RunFolder(runs / recipe.name)
    return SymbiosisPlan(loaded, folder, student, problems, held_out, given, notes + more)


def _problems(
    recipe: SymbiosisRecipe, source: SeedsConfig, key: str, path: Path
) -> tuple[list[WordProblem], list[str]]:
    seeds = load_seeds(find_seeds(source, path), DOMAINS, source, seed=recipe.seed)
    found, left_out = read_problems(seeds.rows, key)
    notes = [seeds.note()] if seeds.set_aside else []
    if left_out:
        notes.append(f"! `{key}`: {left_out} of {len(seeds.rows)} responses end in no number and are left out")
    return found, notes


def _check_training(training: TrainRecipe, path: Path) -> None:
    """Check that the trained student is asked as it was trained, with an adapter.

    Raises:
        RecipeError: with what to change.
    """
    if training.lora is None or training.method != "sft":
        raise RecipeError(
            "the student is served with adapters, so its training needs `method: sft` and a `lora` section", path
        )
    for key in ("chat_template", "adapter", "identity", "revision"):
        if getattr(training.model, key) is not None:
            raise RecipeError(f"the student is asked without `model.{key}`; leave it out", path)


def asked_as(recipe: SymbiosisRecipe, members: Mapping[str, MemberConfig]) -> SynthesisRecipe:
    """Return a synthesis recipe with these members, which is how models are found and served."""
    values: dict[str, Any] = {
        "name": recipe.name,
        "arm": "refined",
        "seeds": recipe.problems,
        "committee": CommitteeConfig(models=dict(members), reviewers=0),
        "engine": recipe.engine,
        "accept_licenses": recipe.accept_licenses,
    }
    return SynthesisRecipe.model_validate(values)
