"""Open what runs wrote: datasets, candidates, students and evaluations.

Each object reads its folder when a value is asked for. A `Run` keeps its candidates in memory after the first access.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow.parquet as pq
from rich.console import RenderableType
from rich.table import Column, Table

from gra.api.display import Displayed, plain
from gra.api.paths import given_path
from gra.config.problems import did_you_mean
from gra.core.errors import DataError, RecipeError
from gra.core.files import atomic_path, refuse_special_files
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import read_resolved_recipe
from gra.core.types import Candidate
from gra.data.export import SCHEMAS, read_candidates
from gra.data.formats.forms import FORMS
from gra.evaluation.compare.compare import Comparison
from gra.evaluation.results import read_results
from gra.runs.contents import REPORTED, find_lineages, is_reported
from gra.runs.explain import explain
from gra.runs.export import export_run

if TYPE_CHECKING:
    from datasets import Dataset

PathLike: TypeAlias = str | os.PathLike[str]
_FORMATS = ("jsonl", "parquet")


class Explanation(Displayed):
    """Show one candidate: how it was generated, reviewed and adjudicated."""

    def __init__(self, run: Path, candidate: str, *, full: bool) -> None:
        self._shown = explain(run, candidate, full=full)

    def __rich__(self) -> RenderableType:
        """Return the explanation of `gra explain`."""
        return self._shown


class RunCandidate(Displayed):
    """One candidate of a run; its fields are those of `Candidate`."""

    def __init__(self, run: Path, candidate: Candidate) -> None:
        self.candidate = candidate
        self._run = run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "candidate":
            raise AttributeError(name)
        return getattr(self.candidate, name)

    def explain(self, *, full: bool = False) -> Explanation:
        """Return the candidate's whole record to print or show.

        Args:
            full: shorten nothing, and add every question and answer.
        """
        return Explanation(self._run, self.candidate.id, full=full)

    def __rich__(self) -> RenderableType:
        """Return the explanation."""
        return explain(self._run, self.candidate.id)


class Run(Displayed):
    """A run folder of a synthesis, or of an experiment with its arms, students and evaluations."""

    def __init__(self, path: PathLike) -> None:
        """Open a run folder.

        Raises:
            DataError: when the folder holds no finished synthesis or experiment.
        """
        self.path = given_path(path, "path")
        self.manifest: dict[str, Any] = RunFolder(self.path).manifest()
        if not self.manifest.keys() & {"synthesis", "experiment"} and not (self.path / "arms").is_dir():
            raise DataError(f"{path} holds no finished synthesis or experiment; run it to its end first")

    @property
    def name(self) -> str:
        """The name in the recipe."""
        return str(self.manifest.get("synthesis", {}).get("name", self.path.name))

    @property
    def counts(self) -> dict[str, int]:
        """The number of candidates in each final state; of an experiment, over all arms."""
        if "synthesis" in self.manifest:
            return dict(self.manifest["synthesis"]["states"])
        total: dict[str, int] = {}
        for arm in self.arms.values():
            for state, count in arm.counts.items():
                total[state] = total.get(state, 0) + count
        return total

    @property
    def arms(self) -> dict[str, Run]:
        """The runs of an experiment's arms, by name; empty for a synthesis alone."""
        named = self.manifest.get("experiment", {}).get("arms")
        folders = [self.path / "arms" / name for name in named] if named else sorted(self.path.glob("arms/*"))
        return {folder.name: Run(folder) for folder in folders if (folder / "manifest.json").is_file()}

    @property
    def students(self) -> dict[str, Student]:
        """The trained students of an experiment, by name; empty for a synthesis alone."""
        return {path.parent.name: Student(path.parent) for path in sorted(self.path.glob("models/*/metrics.json"))}

    @property
    def evaluations(self) -> dict[str, EvaluationResult]:
        """The evaluations of an experiment on its `suite`, by the name of the model; empty for a synthesis alone."""
        return self._evaluations("eval")

    @property
    def comparison(self) -> ComparisonResult | None:
        """The comparison of an experiment's arms on its `suite`; None where there is none."""
        return self._comparison("compare")

    @property
    def reported_evaluations(self) -> dict[str, EvaluationResult]:
        """The evaluations on the experiment's `report_suite`; empty without one."""
        return self._evaluations(f"eval{REPORTED}") if is_reported(self.path) else {}

    @property
    def reported(self) -> ComparisonResult | None:
        """The comparison on the experiment's `report_suite`, for the figures that are reported; None without one."""
        return self._comparison(f"compare{REPORTED}") if is_reported(self.path) else None

    def _evaluations(self, folder: str) -> dict[str, EvaluationResult]:
        found = sorted(self.path.glob(f"{folder}/*/results.json"))
        return {path.parent.name: EvaluationResult(path.parent) for path in found}

    def _comparison(self, folder: str) -> ComparisonResult | None:
        file = self.path / folder / "compare.json"
        return ComparisonResult(json.loads(file.read_text(encoding="utf-8")), file.parent) if file.is_file() else None

    def dataset_file(self, part: str = "train") -> Path:
        """Return the Parquet file of a part of the dataset.

        Args:
            part: `train`, `contested`, `preferences` or `lineage`.

        Raises:
            RecipeError: when there is no such part.
            DataError: when the run has no dataset of its own.
        """
        if part not in SCHEMAS:
            raise RecipeError(
                f"`{part}` is no part of a dataset ({', '.join(SCHEMAS)}){did_you_mean(part, [*SCHEMAS])}"
            )
        file = self.path / "dataset" / f"{part}.parquet"
        if not file.is_file():
            arms = f"; it has arms: run.arms[{next(iter(self.arms))!r}]" if self.arms else ""
            raise DataError(f"{self.path} has no dataset of its own{arms}")
        return file

    def dataset(self, part: str = "train") -> Dataset:
        """Return a part of the dataset for the library datasets.

        Args:
            part: `train`, `contested`, `preferences` or `lineage`.
        """
        import datasets
        from datasets.table import InMemoryTable

        return datasets.Dataset(InMemoryTable(pq.read_table(self.dataset_file(part))))

    def rows(self, part: str = "train") -> list[dict[str, Any]]:
        """Return a part of the dataset as plain dictionaries."""
        return list(pq.read_table(self.dataset_file(part)).to_pylist())

    def export(self, form: str, target: PathLike, part: str = "train") -> Path:
        """Write a part of the dataset to a file, or the accepted rows for another tool to a folder.

        Args:
            form: `jsonl` or `parquet` for a part; else a format of `gra export`, such as `sharegpt`.
            target: the file, or a folder that gets PART.FORM; a folder for a format of `gra export`.
            part: `train`, `contested`, `preferences` or `lineage`.

        Returns:
            The file or folder that was written.

        Raises:
            RecipeError: when the form is not known, or takes no such part.
        """
        if form not in _FORMATS:
            if form not in FORMS:
                known = [*_FORMATS, *(name for name in FORMS if name not in _FORMATS)]
                raise RecipeError(
                    f"a dataset cannot be exported as `{form}` (known: {', '.join(known)}){did_you_mean(form, known)}"
                )
            if part != "train":
                raise RecipeError(f"`part: {part}` is for {' and '.join(_FORMATS)}; `{form}` takes the accepted rows")
            return export_run(self.path, form, given_path(target, "target")).folder
        source, file = self.dataset_file(part), given_path(target, "target")
        file = file if file.suffix == f".{form}" else file / f"{part}.{form}"
        with atomic_path(file) as temporary:
            if form == "parquet":
                temporary.write_bytes(source.read_bytes())
            else:
                with temporary.open("w", encoding="utf-8") as lines:
                    for batch in pq.ParquetFile(source).iter_batches():
                        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
        return file

    @cached_property
    def _candidates(self) -> dict[str, RunCandidate]:
        files = find_lineages(self.path)
        return {c.id: RunCandidate(self.path, c) for file in files for c in read_candidates(file)}

    def __getitem__(self, candidate: str) -> RunCandidate:
        """Return a candidate by its id, such as `r1-000004`.

        Raises:
            DataError: when there is none of this id; close ids are named.
        """
        found = self._candidates.get(candidate)
        if found is None:
            explain(self.path, candidate)  # raises the error of `gra explain`, which names close ids
            raise DataError(f"{self.path} has no candidate `{candidate}`")
        return found

    def __iter__(self) -> Iterator[RunCandidate]:
        """Yield every candidate, accepted or not."""
        return iter(self._candidates.values())

    def __len__(self) -> int:
        return len(self._candidates)

    def report(self) -> Path:
        """Write report/index.html from what is in the folder, and return its path."""
        from gra.reports.html import write_report

        return write_report(self.path, title=self.name, command=f"gra report {self.path}")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __rich__(self) -> RenderableType:
        """Return a table of the final states; of an experiment, with a column an arm."""
        if (comparison := self.reported or self.comparison) is not None:
            return comparison.__rich__()
        runs = self.arms or {self.name: self}
        columns = [Column(plain(name)) for name in runs]
        table = Table("candidates", *columns, title=plain(self.name), caption=plain(str(self.path)))
        states = [state for state in self.counts if self.counts[state]]
        for state in states:
            table.add_row(plain(state), *(f"{run.counts.get(state, 0):,}" for run in runs.values()))
        return table


class Student(Displayed):
    """A trained model: its folder and what training measured."""

    def __init__(self, path: PathLike) -> None:
        """Open a model folder that training wrote.

        Raises:
            DataError: when the folder holds no trained student.
        """
        self.path = given_path(path, "path")
        file = self.path / "metrics.json"
        if "training" not in (manifest := RunFolder(self.path).manifest()) or not file.is_file():
            raise DataError(f"{path} holds no trained student; train it to its end first")
        self.manifest: dict[str, Any] = manifest
        self.metrics: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """The name in the training recipe."""
        return str(self.metrics["name"])

    @property
    def base(self) -> str:
        """The model that was trained, as the recipe names it."""
        return str(self.manifest["training"]["model"]["name"])

    @property
    def accept_licenses(self) -> list[str]:
        """The licenses that the training recipe accepts."""
        return list(read_resolved_recipe(self.path).get("accept_licenses", []))

    def __repr__(self) -> str:
        return f"Student({str(self.path)!r})"

    def __rich__(self) -> RenderableType:
        """Return a table of the metrics."""
        table = Table("metric", "value", title=plain(f"{self.name}, from {self.base}"), caption=plain(str(self.path)))
        for key in ("steps", "epochs", "loss_first", "loss", "eval_loss", "tokens", "seconds"):
            if key in self.metrics:
                table.add_row(key, f"{self.metrics[key]:,}")
        return table


class EvaluationResult(Displayed):
    """One model's answers to a suite, scored."""

    def __init__(self, path: PathLike) -> None:
        """Open the folder of an evaluation.

        Raises:
            DataError: when the folder holds no finished evaluation.
        """
        self.path = given_path(path, "path")
        self.results: dict[str, Any] = read_results(self.path)

    @property
    def name(self) -> str:
        """The name of the model."""
        return str(self.results["model"]["name"])

    @property
    def scores(self) -> dict[str, float]:
        """The mean score of each task, as a share of 1."""
        return {name: float(task["mean"]) for name, task in self.results["tasks"].items()}

    def records(self) -> list[dict[str, Any]]:
        """Return every sample with its answer and score."""
        return list(pq.read_table(self.path / "records.parquet").to_pylist())

    def __repr__(self) -> str:
        return f"EvaluationResult({str(self.path)!r})"

    def __rich__(self) -> RenderableType:
        """Return a table of the scores with 95 % intervals."""
        return results_table(self.results)


class ComparisonResult(Comparison, Displayed):
    """Evaluated models against a baseline, sample by sample."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        super().__init__(content)
        object.__setattr__(self, "path", path)  # the base class is frozen

    path: Path

    def __rich__(self) -> RenderableType:
        """Return the table of scores and differences."""
        return self.table()


def results_table(results: dict[str, Any]) -> Table:
    """Return a table of an evaluation's results."""
    columns = ("task", "metric", "n", "score", "95 % interval", "cut off", "no answer", "tokens")
    table = Table(*columns, title=plain(str(results["model"]["name"])))
    for name, task in results["tasks"].items():
        shares = ["" if task.get(key) is None else f"{task[key]:.0%}" for key in ("truncated", "unread")]
        tokens = "" if task["mean_tokens"] is None else f"{task['mean_tokens']:.0f}"
        interval = f"{task['low']:.1%} to {task['high']:.1%}"
        table.add_row(
            plain(name), plain(task["metric"]), str(task["n"]), f"{task['mean']:.1%}", interval, *shares, tokens
        )
    for name in results.get("left_out", ()):
        table.add_row(plain(name), "", "", "left out", "", "", "", "")
    return table


def load_run(path: PathLike) -> Run | Student | EvaluationResult:
    """Open what a run left in a folder.

    Args:
        path: the folder of a synthesis, an experiment, a trained student or an evaluation.

    Returns:
        A `Run`, a `Student` or an `EvaluationResult`, by what the folder's manifest says.

    Raises:
        DataError: when the folder holds none of these, or its manifest is damaged.
    """
    folder = given_path(path, "path")
    try:
        refuse_special_files(folder)
        manifest = RunFolder(folder).manifest()
    except OSError as error:  # such as a name that is too long
        raise DataError(f"{path!s:.200} cannot be read ({error.strerror}); give a run folder") from None
    if not manifest:
        raise DataError(f"{path} is not a run folder, or its run never finished a stage (it has no manifest.json)")
    if "training" in manifest:
        return Student(path)
    return EvaluationResult(path) if "evaluation" in manifest else Run(path)
