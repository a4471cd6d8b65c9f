"""Read the texts of a dataset's rows and the items of benchmark files, under the usual column names.

A dataset is a file that `gra.data.seeds.files` reads, or a folder with a train.parquet. A row's texts are those of
the known columns below; ids, scores and labels are no texts. Conversations give one text a turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.data.seeds.files import BadRow, read_rows

# In the order of a conversation: the first text of a row is what was asked.
_ROW_TEXTS = (
    "prompt", "messages", "conversations", "conversation", "instruction", "question", "query", "problem", "text",
    "input", "completion", "response", "output", "answer", "solution", "chosen", "rejected",
)  # fmt: skip
_QUESTIONS = ("question", "prompt", "input", "text", "instruction", "problem", "ctx")
_CHOICES = ("choices", "endings", "options")


@dataclass(frozen=True, slots=True)
class SuiteItem:
    """One item of a suite: the question, and the choices or the answer that belong to it."""

    task: str
    id: str
    text: str
    choices: tuple[str, ...] = ()


def read_dataset(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the id (its own, or its number from 0) and the texts of every row.

    Raises:
        DataError: when the file cannot be read, or a row has no text.
    """
    file = path / "train.parquet" if path.is_dir() else path
    for number, row in enumerate(_rows(file)):
        texts = [text for key in _ROW_TEXTS for text in _texts(row.get(key))]
        if not texts:
            listed = ", ".join(sorted(row)) or "none"
            raise DataError(
                f"{file}, row {number}: no text in the columns {', '.join(_ROW_TEXTS)}; its columns are {listed}"
            )
        yield str(row.get("id", number)), texts


def read_items(path: Path) -> list[SuiteItem]:
    """Read the items of a benchmark file, or of every .jsonl of a folder; the task is the file's name.

    Raises:
        DataError: when there are none, or a row has no question.
    """
    endings = (".jsonl", ".jsonl.gz")
    files = sorted(f for f in path.iterdir() if f.name.endswith(endings)) if path.is_dir() else [path]
    items = [_item(file, number, row) for file in files for number, row in enumerate(_rows(file))]
    if not items:
        raise DataError(f"{path} has no benchmark items (.jsonl or .jsonl.gz, one item a line)")
    return items


def _item(file: Path, number: int, row: Mapping[str, Any]) -> SuiteItem:
    question = next((row[key] for key in _QUESTIONS if isinstance(row.get(key), str) and row[key].strip()), None)
    if question is None:
        raise DataError(f"{file}, row {number}: no question in the columns {', '.join(_QUESTIONS)}")
    found = next((row[key] for key in _CHOICES if row.get(key) is not None), ())
    choices = found.get("text") if isinstance(found, Mapping) else found
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise DataError(f"{file}, row {number}: the choices must be a list of texts, not {choices!r}")
    name = file.name.removesuffix(".gz").removesuffix(".jsonl")
    own = next((row[key] for key in ("id", "task_id", "key") if key in row), f"{name}-{number:05}")
    return SuiteItem(name, str(own), question, tuple(map(str, choices)))


def _texts(value: Any) -> list[str]:
    """Return every text in a column: a string, or the turns of a conversation."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, Mapping):
        return _texts(value.get("content", value.get("value")))
    if isinstance(value, Sequence):
        return [text for part in value for text in _texts(part)]
    return []


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    for placed in read_rows(file):
        if isinstance(placed.row, BadRow):
            raise DataError(f"{placed.where}: {placed.row.problem}")
        yield placed.row
