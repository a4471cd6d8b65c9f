"""Suites and the items they ask: read, checked, drawn and digested before any model is loaded.

An instructions file has rows `{"id", "instruction", "checks", "category"}`; a benchmark file has rows
`{"id", "question", "choices", "answer"}`, where `answer` is the index of the right choice or its text;
rows of programs are described in `code.py`.
Which items a limited task asks depends on the item ids and the task's seed only, never on file order,
and every category gets its share. Rows that share a text (the questions about one passage) may say so with
the same `cluster`; errors are then taken between clusters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gra.checks.form import CHECKS_VERSION, Check, parse_checks
from gra.core.errors import DataError
from gra.core.manifest import digest, file_digest
from gra.core.recipe import find_file, load_recipe
from gra.core.schema import Suite, SuiteTask
from gra.evaluation.code import Exercise, parse_exercise

_CATALOG = "catalog:"
_HERE = Path("suite.yaml")  # stands for "beside the working directory" where no suite file is known


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is asked; `text` is without any template."""

    id: str
    category: str
    text: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    checks: tuple[Check, ...] = ()
    exercise: Exercise | None = None
    cluster: str = ""

    @property
    def asked(self) -> str:
        """Digest of what the model is shown."""
        return digest([self.id, self.text, list(self.choices)])

    @property
    def target(self) -> str:
        """Digest of what makes an answer right, and of what it is counted with."""
        if self.exercise is not None:
            return self.exercise.target
        checks = [[check.kind, dict(check.arguments)] for check in self.checks]
        own = [self.cluster] if self.cluster else []
        return digest([self.answer, checks, CHECKS_VERSION if checks else 0, *own])


@dataclass(frozen=True)
class Questions:
    """The items of one task, in the order in which they are asked."""

    task: SuiteTask
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def generated(self) -> bool:
        """Whether the model writes its answers, rather than weighs choices."""
        return self.task.kind != "likelihood"

    @property
    def chat(self) -> bool:
        """Whether the prompts go through the chat template."""
        by_default = self.generated and self.task.prompt == "question"
        return by_default if self.task.chat is None else self.task.chat

    @property
    def form(self) -> str:
        """The file in eval/tasks that puts an item into words for lm-eval."""
        return f"gra_{'instruction' if self.generated else self.task.prompt}.yaml"

    @property
    def metric(self) -> str:
        """The metric that comparisons use."""
        return "pass" if self.generated else "acc_norm"

    def asked(self) -> str:
        """Digest of everything that decides the answers, apart from the model."""
        return digest([self.name, self.task.kind, self.chat, task_form(self.form)[1], [i.asked for i in self.items]])

    def target(self) -> str:
        """Digest of everything that decides the scores, given the answers."""
        return digest([item.target for item in self.items])


def load_suite(path: Path | str, overrides: Sequence[str] = (), limit: int | None = None) -> Suite:
    """A suite whose data files are found in the working directory, beside it, or shipped with GRA.

    Args:
        path: the suite's YAML file.
        overrides: `key.sub=value` texts.
        limit: at most this many items of every task.

    Raises:
        RecipeError: when the suite is wrong or a file it names is not there.
    """
    suite = load_recipe(path, Suite, overrides).recipe
    tasks = []
    for task in suite.tasks:
        data = task.data if task.data.startswith(_CATALOG) else str(find_file(task.data, path))
        tasks.append(task.model_copy(update={"data": data, "limit": _smaller(task.limit, limit)}))
    return suite.model_copy(update={"tasks": tasks})


def read_questions(suite: Suite, data_dir: Path | None = None) -> list[Questions]:
    """Read the items of every task and draw those that are asked.

    Args:
        suite: the suite.
        data_dir: a folder that holds benchmark files, instead of the catalog's sources.

    Raises:
        DataError: naming file and line of the first row that is wrong.
        RecipeError: when a file is not there.
    """
    return [_read_task(task, data_dir) for task in suite.tasks]


def suite_digest(questions: Iterable[Questions]) -> str:
    """One digest for "the same exam": tasks, wording, items and targets, whatever the files are called."""
    return digest([[q.asked(), q.target(), q.metric] for q in questions])


def task_form(name: str) -> tuple[Path, str]:
    """A file of eval/tasks and its digest."""
    path = find_file(f"eval/tasks/{name}", _HERE)
    return path, file_digest(path)


def draw(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """At most `limit` items, in turn from every category, chosen by their ids and the seed."""
    if limit is None or limit >= len(items):
        return list(items)
    groups: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: sha256(f"{seed}/{item.id}".encode()).digest()):
        groups.setdefault(item.category, []).append(item)
    ranked = [(place, name, item) for name, group in groups.items() for place, item in enumerate(group)]
    chosen = {item.id for _, _, item in sorted(ranked, key=lambda entry: entry[:2])[:limit]}
    return [item for item in items if item.id in chosen]


def _read_task(task: SuiteTask, data_dir: Path | None) -> Questions:
    path = _data_file(task, data_dir)
    items: dict[str, Item] = {}
    for where, row in _rows(path):
        item = _item(task, row, where)
        if item.id in items:
            raise DataError(
                f"{where}: the id `{item.id}` was used before; ids must differ, they pair the items of runs"
            )
        items[item.id] = item
    if not items:
        raise DataError(f"{path}: the file has no rows, so the task `{task.name}` has nothing to ask")
    chosen = draw(list(items.values()), task.limit, task.seed)
    # Alike lengths together: a batch is padded to its longest prompt. Ties are settled by id.
    return Questions(task, tuple(sorted(chosen, key=lambda item: (-len(item.text), item.id))))


def _data_file(task: SuiteTask, data_dir: Path | None) -> Path:
    if not task.data.startswith(_CATALOG):
        return find_file(task.data, _HERE)
    from gra.data.benchmarks import resolve_benchmark

    return Path(resolve_benchmark(task.data.removeprefix(_CATALOG), data_dir=data_dir).path)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the file cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: this line is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: a row is a JSON object, this line is not")
        yield where, row


def _item(task: SuiteTask, row: Mapping[str, Any], where: str) -> Item:
    if task.kind == "instructions":
        return _instruction(row, where)
    return _program(row, where, task) if task.kind == "code" else _choice(row, where)


def _program(row: Mapping[str, Any], where: str, task: SuiteTask) -> Item:
    text, exercise = parse_exercise(row, where, task.prompt)
    return Item(_text(row, "id", where), _label(row, "category", where), text, exercise=exercise)


def _instruction(row: Mapping[str, Any], where: str) -> Item:
    text = _text(row, "instruction", where)
    checks, cluster = parse_checks(row.get("checks"), where), _label(row, "cluster", where)
    return Item(_text(row, "id", where), _label(row, "category", where), text, checks=checks, cluster=cluster)


def _choice(row: Mapping[str, Any], where: str) -> Item:
    choices = row.get("choices")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise DataError(f"{where}: `choices` must be a list of at least two texts")
    answer = row.get("answer")
    if isinstance(answer, str) and choices.count(answer) == 1:
        answer = choices.index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        wanted = f"the index (0 to {len(choices) - 1}) or the text of the right choice"
        raise DataError(f"{where}: `answer` must be {wanted}, not {answer!r}")
    text = _text(row, "question", where)
    category, cluster = _label(row, "category", where), _label(row, "cluster", where)
    return Item(_text(row, "id", where), category, text, choices=tuple(choices), answer=answer, cluster=cluster)


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: `{key}` must be a text that is not empty")
    return value


def _label(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise DataError(f"{where}: `{key}` must be a text")
    return value


def _smaller(first: int | None, second: int | None) -> int | None:
    given = [value for value in (first, second) if value is not None]
    return min(given) if given else None
