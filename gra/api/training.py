"""Train a student from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gra.api.failures import raising_gra_errors
from gra.api.paths import given_path
from gra.api.recipes import RecipeLike, as_loaded
from gra.api.rows import rows_file
from gra.api.runs import PathLike, Run, Student
from gra.config.loader import Loaded
from gra.config.training import DataSourceConfig, TrainRecipe
from gra.core.progress import View


def train(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    data: Any = None,
    output: PathLike | None = None,
    runs: PathLike = "runs",
    fresh: bool = False,
    quiet: bool = False,
) -> Student:
    """Train a student in this process; `accelerate launch train.py` trains on several devices.

    The same call goes on from the last checkpoint, and trains nothing when the student is there already.

    Args:
        recipe: the path of a training recipe, a recipe made in Python, or a mapping of its keys.
        overrides: texts `key.sub=value`, for a path.
        data: a `Run`, a path, rows in memory, or a list of runs and paths; the recipe's own data when not given.
            Of a `Run`, preference and reward training take the preference pairs; other methods take its rows.
        output: the model folder; RUNS/NAME/model when not given.
        runs: the folder that holds the run folders.
        fresh: drop what an earlier run left in the folder.
        quiet: show no progress.

    Returns:
        The trained student.

    Raises:
        GraError: for a mistake or failure that the user can act on; same message as the command line.
    """
    with raising_gra_errors():
        loaded = as_loaded(recipe, TrainRecipe, overrides)
        target = (
            given_path(output, "output")
            if output is not None
            else given_path(runs, "runs") / loaded.recipe.name / "model"
        )
        if data is not None:
            loaded = _with_data(loaded, data, target.parent)
        from gra.training.run import train as run

        main = int(os.environ.get("RANK", 0)) == 0
        run(loaded, target, fresh=fresh, view=View(target / "log.jsonl" if main else None, quiet=quiet or not main))
        return Student(target)


def _with_data(loaded: Loaded[TrainRecipe], data: Any, folder: Path) -> Loaded[TrainRecipe]:
    from gra.training.methods import METHODS

    several = isinstance(data, list | tuple) and bool(data) and not isinstance(data[0], Mapping)
    part = METHODS[loaded.recipe.method].part
    sources = [
        DataSourceConfig(
            path=str(each.dataset_file(part) if isinstance(each, Run) else rows_file(each, folder, "rows"))
        )
        for each in (data if several else [data])
    ]
    own = loaded.recipe.data.model_copy(update={"train": sources})
    recipe = loaded.recipe.model_copy(update={"data": own})
    return replace(loaded, recipe=recipe, origins={**loaded.origins, ("data", "train"): "Python"})
