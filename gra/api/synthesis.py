"""Make datasets from Python: a whole run at once, or its rows as they are accepted."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from gra.api.failures import raising_gra_errors
from gra.api.paths import given_path
from gra.api.recipes import RecipeLike, as_loaded
from gra.api.rows import rows_file
from gra.api.runs import PathLike, Run
from gra.config.loader import Loaded
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError
from gra.core.processes.background import BackgroundCall
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.core.types import Candidate, State
from gra.data.export import training_row
from gra.evaluation.suite import suite_items
from gra.sandbox.permission import Permission
from gra.synthesis.job import Job
from gra.synthesis.run import make_job, run_jobs, run_stop

Row = dict[str, Any]


def permission(allowed: bool) -> Permission | None:
    """Return the permission to run programs of models, if the caller gave it."""
    return Permission("allow_code_execution=True") if allowed else None


def synthesize(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    seeds: Any = None,
    runs: PathLike = "runs",
    allow_code_execution: bool = False,
    quiet: bool = False,
) -> Run:
    """Make a dataset: generate, review, adjudicate, deduplicate, export.

    The same call goes on where an interrupted one stopped. It computes nothing when the dataset is there already.

    Args:
        recipe: the path of a recipe, a recipe made in Python, or a mapping of its keys.
        overrides: texts `key.sub=value`, for a path.
        seeds: a path, rows, a data frame, a dataset or a `Run`, in place of the recipe's own seeds.
        runs: the folder that holds the run folders.
        allow_code_execution: run programs in answers, in a sandbox (docs/evaluation.md).
        quiet: show no progress.

    Returns:
        The finished run.

    Raises:
        GraError: for a mistake or failure that the user can act on; same message as the command line.
            `BudgetExhausted` leaves a valid dataset in the folder.
    """
    with raising_gra_errors():
        job = prepare_job(recipe, overrides, seeds, runs, allow_code_execution)
        return _make(job, View(job.folder / "log.jsonl", quiet=quiet))


def stream(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    seeds: Any = None,
    runs: PathLike = "runs",
    allow_code_execution: bool = False,
    quiet: bool = False,
) -> RowStream:
    """Make a dataset and yield its rows as they are accepted; the arguments are those of `synthesize`.

    A row is yielded as soon as its candidate has passed the gate. Deduplication and the round's size are decided when
    the round is full. So a yielded row can still be left out of the dataset: as a duplicate, or as surplus.
    `RowStream.run` holds the dataset itself after the last row. Every row of the dataset is yielded, each id once. A
    finished run yields exactly its dataset.

    Returns:
        An iterator of rows with the columns of `dataset/train.parquet`.

    Raises:
        GraError: for a mistake or failure that the user can act on; same message as the command line.
            This function raises it, or the iterator does.
    """
    with raising_gra_errors():
        job = prepare_job(recipe, overrides, seeds, runs, allow_code_execution)
    return RowStream(job, View(job.folder / "log.jsonl", quiet=quiet))


class _Feed:
    """A run in a thread of its own, and the rows it has accepted so far; None stands for its end."""

    def __init__(self, job: Job, view: View) -> None:
        self.events: SimpleQueue[Row | None] = SimpleQueue()
        self._job = replace(job, on_candidate=self._take)
        self._view = view
        self._call: BackgroundCall[Run] | None = None

    def start(self) -> None:
        """Start the run, once."""
        if self._call is None:
            self._call = BackgroundCall(self._make)

    def result(self) -> Run:
        """Wait for the end of the run and return it."""
        assert self._call is not None
        return self._call.result()

    def stop(self) -> None:
        """End the run if it has begun, and wait until it has ended."""
        if self._call is not None:
            self._call.stop()

    def _take(self, candidate: Candidate) -> None:
        if candidate.state is State.ACCEPTED:
            self.events.put(training_row(candidate))

    def _make(self) -> Run:
        try:
            return _make(self._job, self._view)
        finally:
            self.events.put(None)


class RowStream(Iterator[Row]):
    """The rows of a run while it is made.

    The run starts with the first row that is asked for and goes on in a thread of its own. Leaving the loop ends it
    when nothing else refers to the stream. `close`, or the end of a `with` block, ends it at once. The same call goes
    on from there.
    """

    def __init__(self, job: Job, view: View) -> None:
        self._folder = job.folder.path
        self._feed = _Feed(job, view)
        self._seen: set[str] = set()
        self._rest: Iterator[Row] | None = None
        self._run: Run | None = None
        self._closed = False
        # The thread refers to the feed and never to the stream. So a dropped stream is finalized at once.
        weakref.finalize(self, self._feed.stop)

    @property
    def run(self) -> Run:
        """The finished run, after the last row.

        Raises:
            DataError: before that.
        """
        if self._run is None:
            raise DataError(f"{self._folder} is not finished; take all rows of the stream first")
        return self._run

    def __next__(self) -> Row:
        while self._rest is None and not self._closed:
            self._feed.start()
            try:
                row = self._feed.events.get()
            except KeyboardInterrupt:
                self.close()
                raise
            if row is None:
                self._finish()
            elif row["id"] not in self._seen:
                self._seen.add(row["id"])
                return row
        if self._rest is None:
            raise StopIteration
        return next(self._rest)

    def close(self) -> None:
        """End the run, so that the same call goes on from there; nothing happens when it has ended."""
        self._closed = True
        self._feed.stop()

    def _finish(self) -> None:
        """Take the run's result; rows that were never announced, such as copied seeds, are still to be yielded."""
        self._closed = True
        with raising_gra_errors():
            self._run = self._feed.result()
        self._rest = (row for row in self._run.rows() if row["id"] not in self._seen)

    def __enter__(self) -> RowStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make(job: Job, view: View) -> Run:
    name, folder = job.recipe.name, job.folder
    with folder.lock():
        content = run_jobs([job], view, folder / "logs")[name]
    if stop := run_stop({name: content}):
        raise stop
    return Run(folder.path)


def prepare_job(
    recipe: RecipeLike, overrides: Sequence[str], seeds: Any, runs: PathLike, allow_code_execution: bool
) -> Job:
    """Check a recipe and its seeds as far as that costs nothing, and return the job.

    Raises:
        GraError: when the recipe, the seeds or the ledger cannot be used.
    """
    loaded = load_with_seeds(recipe, overrides, seeds, runs)
    folder = RunFolder(given_path(runs, "runs") / loaded.recipe.name)
    return make_job(loaded, folder, read_suite=suite_items, permission=permission(allow_code_execution))


def load_with_seeds(
    recipe: RecipeLike, overrides: Sequence[str], seeds: Any, runs: PathLike
) -> Loaded[SynthesisRecipe]:
    """Return a checked recipe whose seeds are those given, if there are any.

    Raises:
        RecipeError, DataError: when the recipe or the seeds are wrong.
    """
    if seeds is None:
        return as_loaded(recipe, SynthesisRecipe, overrides)
    if isinstance(recipe, dict) and "seeds" not in recipe:
        recipe = {**recipe, "seeds": {"source": "given in Python"}}
    loaded = as_loaded(recipe, SynthesisRecipe, overrides)
    own = loaded.recipe.seeds
    file = rows_file(seeds, given_path(runs, "runs") / loaded.recipe.name, "seeds")
    given = own.model_copy(update={"source": str(file), "format": "auto", "config": None, "revision": None})
    changed = loaded.recipe.model_copy(update={"seeds": given})
    return Loaded(changed, loaded.path, {**loaded.origins, ("seeds", "source"): "Python"})
