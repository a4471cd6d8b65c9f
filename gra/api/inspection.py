"""Look at the rows of a run from Python: `gra.inspect(run)`."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from gra.api.display import Displayed
from gra.api.failures import raising_gra_errors
from gra.api.paths import given_path
from gra.api.runs import PathLike, Run
from gra.runs.inspection.inspect import RunInspection, ThinFinding, inspect_run
from gra.runs.inspection.profile import ColumnProfile
from gra.runs.inspection.screen import inspection_screen


class InspectionResult(Displayed):
    """Hold what the rows of a run look like, beside its seeds."""

    def __init__(self, found: RunInspection) -> None:
        self._found = found

    @property
    def columns(self) -> dict[str, ColumnProfile]:
        """The figures of the arms by name, and of the seeds as "seeds"."""
        return {column.name: column for column in self._found.columns}

    @property
    def thin(self) -> list[ThinFinding]:
        """What is much rarer in an arm than in the seeds."""
        return self._found.thin

    @property
    def notes(self) -> list[str]:
        """What was left out, and why."""
        return self._found.notes

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain JSON values, those of `gra inspect --json`."""
        return self._found.to_json()

    def __repr__(self) -> str:
        return f"InspectionResult({str(self._found.run)!r})"

    def __rich__(self) -> RenderableType:
        """Return the tables of `gra inspect`."""
        return inspection_screen(self._found)


def inspect(run: Run | PathLike, *, embedder: str | None = None) -> InspectionResult:
    """Show the seeds of a run beside the rows of each arm, and what is thin.

    Args:
        run: a `Run`, or the folder of a synthesis or an experiment.
        embedder: the model that compares instructions, which may be downloaded. None takes the one of the run's
            deduplication where it is in the cache.

    Raises:
        DataError: the folder is no run, has no rows, or a file of it cannot be read.
        RecipeError: there is no such embedder.
        ModelUnavailable: the embedder cannot be had.
    """
    with raising_gra_errors():
        return InspectionResult(inspect_run(run.path if isinstance(run, Run) else given_path(run, "run"), embedder))
