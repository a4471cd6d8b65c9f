"""Give lm-eval's own tasks local files, in the columns of the hub's datasets that these tasks expect.

With `--data-dir`, a dataset with a file in that folder is read from there; lm-eval loads every other one.
The file names are in `gra/evaluation/benchmarks/benchmarks.yaml`. Worked examples come from gsm8k_train.jsonl,
mmlu_dev.jsonl, arc_challenge_train.jsonl and hellaswag_train.jsonl. Each file may end in .gz.
"""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.evaluation.rows import parse_row

Row = dict[str, Any]
_LETTERS = ("A", "B", "C", "D", "E")


@contextmanager
def local_datasets(datasets: Any, data_dir: Path | None) -> Iterator[None]:
    """Make `datasets.load_dataset` look into a folder first, inside a `with` statement.

    Args:
        datasets: the module whose function lm-eval calls.
        data_dir: the folder; None changes nothing.
    """
    if data_dir is None:
        yield
        return
    load = datasets.load_dataset

    def find(path: str, name: str | None = None, **options: Any) -> Any:
        splits = _local(path, name, data_dir)
        if splits is None:
            return load(path, name=name, **options)
        # A split that the folder lacks is empty: where worked examples are wanted from it, the caller says so.
        return defaultdict(
            lambda: datasets.Dataset.from_list([]),
            {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()},
        )

    datasets.load_dataset = find
    try:
        yield
    finally:
        datasets.load_dataset = load


def _local(path: str, name: str | None, folder: Path) -> dict[str, list[Row]] | None:
    """Return the splits of a hub dataset that the folder holds, or None without the split that is asked."""
    known = _DATASETS.get((path, name)) or _DATASETS.get((path, None))
    if known is None:
        return None
    splits = {}
    for split, (file, convert) in known.items():
        rows = _rows(folder, file)
        if rows is not None:
            splits[split] = [row for row in (convert(row, name) for row in rows) if row is not None]
    asked = next(split for split in ("test", "validation", "train") if split in known)
    return splits if splits.get(asked) else None


def _rows(folder: Path, name: str) -> list[Row] | None:
    file = next((folder / (name + end) for end in ("", ".gz") if (folder / (name + end)).is_file()), None)
    if file is None:
        return None
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        lines = content.decode("utf-8-sig").split("\n")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    return [parse_row(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _as_it_is(row: Row, name: str | None) -> Row:
    return row


def _arc(row: Row, name: str | None) -> Row:
    if isinstance(row["choices"], Mapping):
        return row
    labels = list(_LETTERS[: len(row["choices"])])
    choices = {"text": row["choices"], "label": labels}
    return {"id": row["id"], "question": row["question"], "choices": choices, "answerKey": labels[row["gold"]]}


def _of_subject(row: Row, name: str | None) -> Row | None:
    return row if row["subject"] == name else None


def _of_task(row: Row, name: str | None) -> Row | None:
    return {"input": row["input"], "target": row["target"]} if row["task"] == name else None


_SUBJECTS = {
    "algebra": "Algebra", "counting_and_probability": "Counting & Probability", "geometry": "Geometry",
    "intermediate_algebra": "Intermediate Algebra", "number_theory": "Number Theory", "prealgebra": "Prealgebra",
    "precalculus": "Precalculus",
}  # fmt: skip


def _of_branch(row: Row, name: str | None) -> Row | None:
    return row if name in _SUBJECTS and row["type"] == _SUBJECTS[name] else None


Convert = Callable[[Row, str | None], Row | None]
_DATASETS: dict[tuple[str, str | None], dict[str, tuple[str, Convert]]] = {
    ("openai/gsm8k", "main"): {"test": ("gsm8k_test.jsonl", _as_it_is), "train": ("gsm8k_train.jsonl", _as_it_is)},
    ("allenai/ai2_arc", "ARC-Challenge"): {
        "test": ("arc_challenge_test.jsonl", _arc),
        "validation": ("arc_challenge_val.jsonl", _arc),
        "train": ("arc_challenge_train.jsonl", _arc),
    },
    ("Rowan/hellaswag", None): {
        "validation": ("hellaswag_val.jsonl", _as_it_is),
        "train": ("hellaswag_train.jsonl", _as_it_is),
    },
    ("cais/mmlu", None): {
        "test": ("mmlu_test.jsonl", _of_subject),
        "validation": ("mmlu_validation.jsonl", _of_subject),
        "dev": ("mmlu_dev.jsonl", _of_subject),
    },
    ("SaylorTwift/bbh", None): {"test": ("bbh.jsonl", _of_task)},
    ("EleutherAI/hendrycks_math", None): {"test": ("math_test.jsonl", _of_branch)},
}
