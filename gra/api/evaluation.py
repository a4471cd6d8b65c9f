"""Evaluate models and compare evaluations from Python."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from gra.api.failures import raising_gra_errors
from gra.api.paths import given_path
from gra.api.recipes import RecipeLike, as_loaded
from gra.api.runs import ComparisonResult, EvaluationResult, PathLike, Student
from gra.api.synthesis import permission
from gra.config.loader import Loaded
from gra.config.suite import SuiteConfig
from gra.core.errors import RecipeError
from gra.core.progress import View
from gra.core.run_folder import RunFolder

ModelLike: TypeAlias = Student | PathLike
RunLike: TypeAlias = EvaluationResult | PathLike


def evaluate(
    suite: RecipeLike,
    model: ModelLike,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    output: PathLike | None = None,
    runs: PathLike = "runs",
    adapter: PathLike | None = None,
    chat_template: str | None = None,
    limit: int | None = None,
    data_dir: PathLike | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    shards: int = 1,
    score_only: bool = False,
    accept_licenses: Sequence[str] = (),
    allow_code_execution: bool = False,
    allow_remote_code: bool = False,
    quiet: bool = False,
) -> EvaluationResult:
    """Evaluate one model on a suite; answers that are already recorded are scored without asking again.

    Args:
        suite: the path of a suite, a suite made in Python, or a mapping of its keys.
        model: a `Student` or its folder, a catalog name, a hub id, or a folder of weights.
        overrides: texts `key.sub=value`, for a path.
        name: how reports call the model; the student's or the model's own name when not given.
        output: the folder of the evaluation; RUNS/NAME/eval when not given.
        runs: the folder that holds the run folders.
        adapter: a folder that training wrote, on top of `model`.
        chat_template: a .jinja file or `builtin:plain`; the model's own when not given.
        limit: the most samples of each task.
        data_dir: a folder with benchmark files.
        device: where the model runs.
        shards: the number of processes that ask.
        score_only: score recorded answers again and load no model.
        accept_licenses: ids of licenses that you accept; a student's recipe may accept some already.
        allow_code_execution: run programs that the model writes, in a sandbox (docs/evaluation.md).
        allow_remote_code: run Python code that a catalog model brings along, at the commit that the catalog pins.
        quiet: show no progress.

    Returns:
        The finished evaluation.

    Raises:
        GraError: for a mistake or failure that the user can act on; same message as the command line.
    """
    with raising_gra_errors():
        from gra.evaluation.model import ModelUnderTest
        from gra.evaluation.run import evaluate as run
        from gra.models.catalog import resolve

        tasks = _suite(suite, overrides, limit)
        student = _student(model)
        licenses = [*accept_licenses, *(student.accept_licenses if student is not None else ())]
        base = student.base if student is not None else str(model)
        trained = (
            student.path if student is not None else given_path(adapter, "adapter") if adapter is not None else None
        )
        called = name or default_name(base, trained)
        target = given_path(output, "output") if output is not None else given_path(runs, "runs") / called / "eval"
        view = View(quiet=quiet)
        found = resolve(base, accept_licenses=licenses, progress=view.note, allow_remote_code=allow_remote_code)
        subject = ModelUnderTest(called, found.path, trained, chat_template, found.identity, found.remote_code)
        with view.bars():
            run(
                tasks,
                subject,
                target,
                data_dir=None if data_dir is None else Path(data_dir),
                device=device,
                progress=view.progress,
                permission=permission(allow_code_execution),
                shards=shards,
                score_only=score_only,
            )
        return EvaluationResult(target)


def compare(
    runs: Mapping[str, RunLike | Sequence[RunLike]],
    baseline: str,
    *,
    margin: float = 0.02,
    output: PathLike = "runs/compare",
    untuned: str | None = "untuned",
    contamination: Sequence[PathLike] = (),
    published: bool = False,
    allow_different_suites: bool = False,
) -> ComparisonResult:
    """Compare evaluated models with a baseline, sample by sample, and write tables and a page.

    Args:
        runs: by arm, an evaluation, or one for each training seed; folders will do.
        baseline: the arm that the others are compared with.
        margin: the largest loss that counts as non-inferior, as a share of 1.
        output: where compare.json, compare.md and compare.html go.
        untuned: the arm that was not trained, if there is one.
        contamination: folders that `gra contamination` wrote about the arms' training sets.
        published: show the paper's tables beside the scores.
        allow_different_suites: compare runs of different suites on their common samples, marked as not comparable.

    Returns:
        The comparison.

    Raises:
        GraError: for a mistake or failure that the user can act on; same message as the command line.
    """
    with raising_gra_errors():
        from gra.evaluation.compare.compare import compare as run
        from gra.reports.compare_page import write_page

        if not 0 < margin < 1:
            raise RecipeError(f"`margin` is {margin}; it is a share of 1 and must be between 0 and 1, such as 0.02")
        folders = {arm: [_folder(each) for each in _listed(given)] for arm, given in runs.items()}
        found = run(
            folders, baseline, margin, given_path(output, "output"), untuned=untuned, published=published,
            allow_different_suites=allow_different_suites,
            contamination=[given_path(each, "contamination") for each in contamination], page=write_page,
        )  # fmt: skip
        return ComparisonResult(found.content, given_path(output, "output"))


def default_name(model: str, adapter: Path | None) -> str:
    """Return the default name of a model: that of its folder, its catalog name or its hub id."""
    if adapter is not None:
        folder = adapter.resolve()
        name = folder.parent.name if folder.name == "model" else folder.name
    else:
        path = given_path(model, "model")
        name = path.resolve().name if path.name in ("", "..") else path.name.removeprefix("catalog:")
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def _suite(suite: RecipeLike, overrides: Sequence[str], limit: int | None) -> SuiteConfig:
    from gra.evaluation.suite import find_data

    loaded: Loaded[SuiteConfig] = as_loaded(suite, SuiteConfig, overrides)
    return find_data(loaded, limit)


def _student(model: ModelLike) -> Student | None:
    """Return the student that a model is, or whose folder it names; None for any other model."""
    if isinstance(model, Student):
        return model
    folder = given_path(model, "model")
    trained = (folder / "manifest.json").is_file() and "training" in RunFolder(folder).manifest()
    return Student(folder) if trained else None


def _listed(given: RunLike | Sequence[RunLike]) -> Sequence[RunLike]:
    return given if isinstance(given, list | tuple) else [given]  # type: ignore[list-item]


def _folder(run: RunLike) -> Path:
    return run.path if isinstance(run, EvaluationResult) else given_path(run, "runs")
