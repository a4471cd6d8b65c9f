"""Run a whole experiment from Python."""

from __future__ import annotations

from collections.abc import Sequence

from gra.api.failures import raising_gra_errors
from gra.api.paths import given_path
from gra.api.recipes import RecipeLike, as_loaded
from gra.api.runs import PathLike, Run
from gra.config.experiment import ExperimentRecipe
from gra.experiment import load_experiment
from gra.experiment import run_experiment as run


def run_experiment(recipe: RecipeLike, overrides: Sequence[str] = (), *, runs: PathLike = "runs") -> Run:
    """Do the whole job: a dataset for each arm, students, evaluations, the comparison and the report.

    The same call goes on where an interrupted one stopped. Each student is trained in a process of its own.

    Args:
        recipe: the path of an experiment, an experiment made in Python, or a mapping of its keys.
        overrides: texts `key.sub=value`, for a path.
        runs: the folder that holds the run folders.

    Returns:
        The finished run, with its `arms`, `students`, `evaluations` and `comparison`.

    Raises:
        GraError: for a mistake or failure that the user can act on; same message as the command line.
    """
    with raising_gra_errors():
        plan = load_experiment(as_loaded(recipe, ExperimentRecipe, overrides), overrides, given_path(runs, "runs"))
        run(plan)
        return Run(plan.folder.path)
