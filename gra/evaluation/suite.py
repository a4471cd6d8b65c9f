"""Suites and the items they ask: read, checked, drawn and digested before any model is loaded.

An instructions file has rows `{"id", "instruction", "checks", "category"}`; a benchmark file has rows
`{"id", "question", "choices", "answer"}`, where `answer` is the index of the right choice or its text, or
`{"id", "question", "answer"}` with a text (of `... #### 18` the 18 counts), or `{"id", "question", "instructions"}`
with the instructions of IFEval; rows of programs are described in `code.py`.
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

from gra.checks.format import CHECKS_VERSION, FormatCheck, parse_checks
from gra.checks.ifeval import known
from gra.config.loader import find_file, load_recipe
from gra.config.problems import did_you_mean
from gra.config.suite import SuiteConfig, TaskConfig
from gra.core.errors import DataError, ModelUnavailable
from gra.core.hashing import digest, file_digest
from gra.data.contamination import SuiteItem
from gra.evaluation.scorers.answers import LETTERS, judging_version
from gra.evaluation.scorers.code import Exercise, parse_exercise

_CATALOG = "catalog:"
_HERE = Path("suite.yaml")  # stands for "beside the working directory" where no suite file is known
_FORMS = {"letter": "gra_letter.yaml", "value": "gra_steps.yaml"}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is asked; `text` is without any template."""

    id: str
    category: str
    text: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    checks: tuple[FormatCheck, ...] = ()
    exercise: Exercise | None = None
    gold: str | None = None
    instructions: tuple[Mapping[str, Any], ...] = ()
    cluster: str = ""

    @property
    def asked(self) -> str:
        """Digest of what the model is shown."""
        named = [self.category] if self.gold is not None else []  # wordings may name the category
        return digest([self.id, self.text, list(self.choices), *named])

    @property
    def target(self) -> str:
        """Digest of what makes an answer right, and of what it is counted with."""
        if self.exercise is not None:
            return self.exercise.target
        checks = [[check.kind, dict(check.arguments)] for check in self.checks]
        own = [self.cluster] if self.cluster else []
        if self.gold is not None or self.instructions:
            own += [digest([self.gold, [dict(instruction) for instruction in self.instructions]])]
        return digest([self.answer, checks, CHECKS_VERSION if checks else 0, *own])


@dataclass(frozen=True)
class Questions:
    """The items of one task, in the order in which they are asked."""

    task: TaskConfig
    items: tuple[Item, ...]
    written: bool = True  # of a task of lm-eval's own: whether answers are generated

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def generated(self) -> bool:
        """Whether the model writes its answers, rather than weighs choices."""
        return self.task.kind != "likelihood" if self.task.kind != "lm-eval" else self.written

    @property
    def chat(self) -> bool:
        """Whether the prompts go through the chat template."""
        by_default = self.generated and self.task.prompt == "question" and self.task.kind != "lm-eval"
        return by_default if self.task.chat is None else self.task.chat

    @property
    def form(self) -> str:
        """The file in eval/tasks that puts an item into words for lm-eval."""
        by_default = "gra_instruction.yaml" if self.generated else f"gra_{self.task.prompt}.yaml"
        return self.task.template or _FORMS.get(self.task.kind, by_default)

    @property
    def metric(self) -> str:
        """The metric that comparisons use."""
        if self.task.metric is not None:
            return self.task.metric
        return "pass" if self.generated else "acc_norm"

    def wording(self) -> str:
        """Digest of how items are put to the model, whichever they are."""
        return digest(self._wording())

    def asked(self) -> str:
        """Digest of everything that decides the answers, apart from the model."""
        return digest([*self._wording(), [item.asked for item in self.items]])

    def _wording(self) -> list[Any]:
        if self.task.kind == "lm-eval":
            return [self.name, self.task.kind, self.chat, self.task.data, self.task.shots]
        return [self.name, self.task.kind, self.chat, task_form(self.form)[1]]

    def target(self) -> str:
        """Digest of everything that decides the scores, given the answers."""
        return digest([*judging_version(self.task.kind), *(item.target for item in self.items)])


@dataclass(frozen=True)
class Exam:
    """What is asked, and why which tasks are left out."""

    questions: list[Questions]
    left_out: dict[str, str]


def load_suite(path: Path | str, overrides: Sequence[str] = (), limit: int | None = None) -> SuiteConfig:
    """A suite whose data files are found in the working directory, beside it, or shipped with GRA.

    Args:
        path: the suite's YAML file.
        overrides: `key.sub=value` texts.
        limit: at most this many items of every task.

    Raises:
        RecipeError: when the suite is wrong or a file it names is not there.
    """
    suite = load_recipe(path, SuiteConfig, overrides).recipe
    tasks = []
    for task in suite.tasks:
        elsewhere = task.data.startswith(_CATALOG) or task.kind == "lm-eval"
        data = task.data if elsewhere else str(find_file(task.data, path))
        tasks.append(task.model_copy(update={"data": data, "limit": _smaller(task.limit, limit)}))
    return suite.model_copy(update={"tasks": tasks})


def read_exam(suite: SuiteConfig, data_dir: Path | None = None) -> Exam:
    """Read the items of every task and draw those that are asked.

    Args:
        suite: the suite.
        data_dir: a folder that holds benchmark files, instead of the catalog's sources.

    Raises:
        DataError: naming file and line of the first row that is wrong.
        ModelUnavailable: when the data of a task that is not `optional` cannot be had.
        RecipeError: when a file is not there.
    """
    questions, left_out = [], {}
    for task in suite.tasks:
        try:
            questions.append(_read_task(task, data_dir))
        except ModelUnavailable as error:
            if not task.optional:
                raise
            left_out[task.name] = str(error)
    if not questions:
        raise DataError(f"the suite {suite.name} has nothing to ask: {'; '.join(left_out.values())}")
    return Exam(questions, left_out)


def read_questions(suite: SuiteConfig, data_dir: Path | None = None) -> list[Questions]:
    """The tasks of `read_exam` alone, for those who need not say what was left out."""
    return read_exam(suite, data_dir).questions


def suite_items(path: Path, data_dir: Path | None = None) -> tuple[list[SuiteItem], dict[str, str]]:
    """What a contamination check looks for, and why which tasks are left out; it raises what `read_exam` does."""
    exam = read_exam(load_suite(path), data_dir)
    items = [SuiteItem(task.name, item.id, item.text, item.choices) for task in exam.questions for item in task.items]
    return items, exam.left_out


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


def _read_task(task: TaskConfig, data_dir: Path | None) -> Questions:
    if task.kind == "lm-eval":
        from gra.evaluation.lm_eval import native_items

        native, written = native_items(task, data_dir)
        return Questions(task, _in_order(draw(native, task.limit, task.seed)), written)
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
    return Questions(task, _in_order(draw(list(items.values()), task.limit, task.seed)))


def _in_order(items: Iterable[Item]) -> tuple[Item, ...]:
    """Alike lengths together: a batch is padded to its longest prompt. Ties are settled by id."""
    return tuple(sorted(items, key=lambda item: (-len(item.text), item.id)))


def _data_file(task: TaskConfig, data_dir: Path | None) -> Path:
    if not task.data.startswith(_CATALOG):
        return find_file(task.data, _HERE)
    from gra.evaluation.benchmarks.load import resolve_benchmark

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


def _item(task: TaskConfig, row: Mapping[str, Any], where: str) -> Item:
    if task.kind == "instructions":
        return _instruction(row, where)
    if task.kind == "code":
        return _program(row, where, task)
    if task.kind == "ifeval":
        return _verifiable(row, where)
    return _open(row, where) if task.kind in ("value", "short") else _choice(row, where)


def _open(row: Mapping[str, Any], where: str) -> Item:
    gold = _text(row, "answer", where).rpartition("####")[2].strip()
    text, category = _text(row, "question", where), _label(row, "category", where)
    return Item(_text(row, "id", where), category, text, gold=gold, cluster=_label(row, "cluster", where))


def _verifiable(row: Mapping[str, Any], where: str) -> Item:
    listed = row.get("instructions")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise DataError(f"{where}: `instructions` must be a list of mappings with an `id` and its arguments")
    for one in listed:
        if one.get("id") not in known():
            hint = did_you_mean(str(one.get("id")), list(known())) or f" (known: {', '.join(known())})"
            raise DataError(f"{where}: IFEval has no instruction `{one.get('id')}`{hint}")
    text, category = _text(row, "question", where), _label(row, "category", where)
    return Item(_text(row, "id", where), category, text, instructions=tuple(listed))


def _program(row: Mapping[str, Any], where: str, task: TaskConfig) -> Item:
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
    if len(choices) > len(LETTERS):
        raise DataError(f"{where}: {len(choices)} choices are more than there are letters for ({LETTERS})")
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
