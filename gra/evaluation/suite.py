"""Load a suite: its YAML file, the samples of its tasks, and the digest that says whether two suites are the same.

Everything is read and checked before a model is loaded. The kinds of tasks and their rows are in
`gra.evaluation.scorers`. The choice of samples under a `limit` depends on their ids and the task's seed only.
The order of the file does not matter. Every category gets its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gra.config.loader import Loaded, Where, find_file, load_recipe
from gra.config.problems import did_you_mean, place
from gra.config.suite import SuiteConfig, TaskConfig
from gra.core.errors import DataError, ModelUnavailable, RecipeError
from gra.core.hashing import digest
from gra.data.contamination import SuiteItem
from gra.evaluation.scorers.kinds import TASK_KINDS
from gra.evaluation.task import CATALOG, LoadedSuite, LoadedTask, Sample


def load_suite(path: Path | str, overrides: Sequence[str] = (), limit: int | None = None) -> SuiteConfig:
    """Load a suite and find its data files: in the working directory, beside the suite, or shipped with GRA.

    Args:
        path: the suite's YAML file.
        overrides: `key.sub=value` texts.
        limit: at most this many samples of every task.

    Raises:
        RecipeError: when the suite is wrong or a file it names is not there.
    """
    return find_data(read_suite(path, overrides), limit)


def read_suite(path: Path | str, overrides: Sequence[str] = ()) -> Loaded[SuiteConfig]:
    """Read a suite file and check each task against its kind; data files are not looked for.

    Raises:
        RecipeError: naming every problem with its line.
    """
    return load_recipe(path, SuiteConfig, overrides, check=_kind_problems)


def find_data(loaded: Loaded[SuiteConfig], limit: int | None = None) -> SuiteConfig:
    """Return a suite with the paths of its data files found.

    Raises:
        RecipeError: when a task does not fit its kind, or a file is not there.
    """
    suite = loaded.recipe
    if problems := _kind_problems(suite.model_dump(), lambda key: place(loaded.origins, key, loaded.path)):
        raise RecipeError([problem.removeprefix(": ") for problem in problems], loaded.path)
    tasks = []
    for task in suite.tasks:
        elsewhere = task.data.startswith(CATALOG) or TASK_KINDS[task.kind].native
        data = task.data if elsewhere else str(find_file(task.data, loaded.path))
        tasks.append(task.model_copy(update={"data": data, "limit": _smaller(task.limit, limit)}))
    return suite.model_copy(update={"tasks": tasks})


def _kind_problems(values: Mapping[str, Any], where: Where) -> list[str]:
    """Check each task against its kind, which the schema does not know."""
    tasks = values.get("tasks")
    found = []
    for number, task in enumerate(tasks if isinstance(tasks, list) else []):
        name = task.get("kind") if isinstance(task, dict) else None
        if not isinstance(name, str):
            continue  # the schema says so
        if (kind := TASK_KINDS.get(name)) is None:
            known = [f"'{known}'" for known in TASK_KINDS]
            listed = f"{', '.join(known[:-1])} or {known[-1]}"
            near = did_you_mean(name, list(TASK_KINDS))
            at = where(("tasks", number, "kind"))
            found.append(f"{at}: `tasks.{number}.kind` must be one of {listed}, not {name!r}{near}")
            continue
        try:
            config = TaskConfig.model_validate(task)
        except ValidationError:
            continue  # the schema says what is wrong
        found += [f"{where(('tasks', number))}: `tasks.{number}` {text}" for text in kind.problems(config)]
    return found


def load_samples(suite: SuiteConfig, data_dir: Path | None = None) -> LoadedSuite:
    """Read the samples of every task and draw those that are asked.

    Args:
        suite: the suite.
        data_dir: a folder that holds benchmark files, instead of the catalog's sources.

    Raises:
        DataError: naming file and line of the first row that is wrong.
        ModelUnavailable: when the data of a task that is not `optional` cannot be had.
        RecipeError: when a file is not there.
    """
    tasks, left_out = [], {}
    for config in suite.tasks:
        kind = TASK_KINDS[config.kind]
        try:
            samples, generated = kind.read(config, data_dir)
        except ModelUnavailable as error:
            if not config.optional:
                raise
            left_out[config.name] = str(error)
            continue
        tasks.append(LoadedTask(config, kind, _in_order(draw(samples, config.limit, config.seed)), generated))
    if not tasks:
        raise DataError(f"the suite {suite.name} has nothing to ask: {'; '.join(left_out.values())}")
    return LoadedSuite(tasks, left_out)


def load_tasks(suite: SuiteConfig, data_dir: Path | None = None) -> list[LoadedTask]:
    """Return the tasks of `load_samples` alone."""
    return load_samples(suite, data_dir).tasks


def suite_items(path: Path, data_dir: Path | None = None) -> tuple[list[SuiteItem], dict[str, str]]:
    """Return what a contamination check looks for, and the reason for each task that is left out.

    It raises what `load_suite` and `load_samples` raise.
    """
    loaded = load_samples(load_suite(path), data_dir)
    items = [SuiteItem(task.name, s.id, s.text, s.choices) for task in loaded.tasks for s in task.samples]
    return items, loaded.left_out


def suite_digest(tasks: Iterable[LoadedTask]) -> str:
    """Return a digest of tasks, wording, samples and targets; the names of files are not in it."""
    return digest([[task.asked(), task.target(), task.metric] for task in tasks])


def draw(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """Choose at most `limit` samples by their ids and the seed, in turn from every category."""
    if limit is None or limit >= len(samples):
        return list(samples)
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sha256(f"{seed}/{sample.id}".encode()).digest()):
        groups.setdefault(sample.category, []).append(sample)
    ranked = [(place, name, sample) for name, group in groups.items() for place, sample in enumerate(group)]
    chosen = {sample.id for _, _, sample in sorted(ranked, key=lambda entry: entry[:2])[:limit]}
    return [sample for sample in samples if sample.id in chosen]


def _in_order(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Sort by length, because a batch is padded to its longest prompt; samples of one length are sorted by id."""
    return tuple(sorted(samples, key=lambda sample: (-len(sample.text), sample.id)))


def _smaller(first: int | None, second: int | None) -> int | None:
    given = [value for value in (first, second) if value is not None]
    return min(given) if given else None
