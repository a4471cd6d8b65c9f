"""Answers and scores on disk: one Parquet part per chunk of answers, one row per item of a scored run.

Answers are what the model did; they are written chunk by chunk, so a killed run loses only the chunk in
flight. Scores are computed from answers and can be computed again without the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.checks.form import failed
from gra.core.errors import DataError
from gra.core.manifest import atomic_path
from gra.evaluation.stats import wilson
from gra.evaluation.suite import Item, Questions
from gra.sandbox.job import Outcome, Verdict

RECORDS = "records.parquet"
RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model did with one item.

    `finish` is "stop" when it ended its answer by itself and "length" when it was cut off; a likelihood item
    has the log-likelihood of each choice instead, and the two accuracies that lm-eval made of them.
    """

    item: str
    prompt_hash: str
    output: str | None = None
    finish: str | None = None
    tokens: int | None = None
    loglikelihoods: list[float] | None = None
    acc: float | None = None
    acc_norm: float | None = None


_ANSWER = pa.schema([
    ("item", pa.string()), ("prompt_hash", pa.string()), ("output", pa.string()), ("finish", pa.string()),
    ("tokens", pa.int32()), ("loglikelihoods", pa.list_(pa.float64())),
    ("acc", pa.float64()), ("acc_norm", pa.float64()),
])  # fmt: skip
_RECORD = pa.schema([
    ("task", pa.string()), ("item", pa.string()), ("category", pa.string()), ("question", pa.string()),
    ("item_hash", pa.string()), ("target_hash", pa.string()), *[field for field in _ANSWER if field.name != "item"],
    ("failed_checks", pa.list_(pa.string())), ("verdict", pa.string()), ("detail", pa.string()),
    ("pass", pa.float64()), ("stopped", pa.float64()), ("score", pa.float64()),
])  # fmt: skip


class AnswerStore:
    """The answers of one task by one model, in parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, chunk: int, items: Sequence[Item]) -> list[Answer] | None:
        """The answers to exactly these items, or None when they still have to be asked."""
        path = self._path(chunk)
        if not path.is_file():
            return None
        answers = [Answer(**row) for row in pq.read_table(path).to_pylist()]
        return answers if [a.item for a in answers] == [item.id for item in items] else None

    def save(self, chunk: int, answers: Sequence[Answer]) -> None:
        """Write one part; it is there as a whole or not at all."""
        with atomic_path(self._path(chunk)) as temporary:
            pq.write_table(pa.Table.from_pylist([asdict(a) for a in answers], schema=_ANSWER), temporary)

    def _path(self, chunk: int) -> Path:
        return self._folder / f"{chunk:04d}.parquet"


def score(
    questions: Questions, answers: Iterable[Answer], outcomes: Mapping[str, Outcome] | None = None
) -> list[dict[str, Any]]:
    """One row per item with its metrics: pass and stopped (0 or 1), or acc and acc_norm; `score` is the main one.

    Args:
        questions: the task.
        answers: one for every item.
        outcomes: what the sandbox said of each item's program, for programs.
    """
    by_id = {answer.item: answer for answer in answers}
    rows = []
    for item in questions.items:
        answer = by_id[item.id]
        row: dict[str, Any] = {
            "task": questions.name, "category": item.category, "question": item.text, "item_hash": item.asked,
            "target_hash": item.target, **asdict(answer), "failed_checks": None, "verdict": None, "detail": None,
            "pass": None, "stopped": None,
        }  # fmt: skip
        if outcomes is not None:
            row["verdict"], row["detail"] = outcomes[item.id].verdict.value, outcomes[item.id].detail
            row["pass"] = float(outcomes[item.id].verdict is Verdict.PASSED)
        elif answer.output is not None:
            row["failed_checks"] = failed(item.checks, answer.output)
            row["pass"] = float(not row["failed_checks"])
        if answer.output is not None:
            row["stopped"] = float(answer.finish == "stop")
        row["score"] = row[questions.metric]
        rows.append(row)
    return rows


def write_records(output: Path, rows: list[dict[str, Any]]) -> Path:
    """Write records.parquet and return its path."""
    path = output / RECORDS
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_RECORD), temporary)
    return path


def read_records(run: Path) -> list[dict[str, Any]]:
    """The rows of a finished evaluation.

    Raises:
        DataError: when there are none, or the file is damaged.
    """
    path = _finished(run, RECORDS)
    try:
        return list(pq.read_table(path, schema=_RECORD).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); evaluate again") from None


def read_results(run: Path) -> dict[str, Any]:
    """What results.json of a finished evaluation holds.

    Raises:
        DataError: when there is none, or it is damaged.
    """
    path = _finished(run, RESULTS)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); evaluate again") from None


def _finished(run: Path, name: str) -> Path:
    if not (run / name).is_file():
        raise DataError(
            f"{run} holds no finished evaluation (there is no {name}); give an output folder of eval/run.py"
        )
    return run / name


def summarise(questions: Questions, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one task: means with Wilson intervals, the share of answers that end, and categories."""
    metrics = ["pass", "stopped"] if questions.generated else ["acc", "acc_norm"]
    summary: dict[str, Any] = {"kind": questions.task.kind, "metric": questions.metric, **proportion(rows, "score")}
    summary["metrics"] = {name: proportion(rows, name) for name in metrics}
    summary["stopped"] = summary["metrics"]["stopped"]["mean"] if "stopped" in metrics else None
    tokens = [row["tokens"] for row in rows if row["tokens"] is not None]
    summary["mean_tokens"] = sum(tokens) / len(tokens) if tokens else None
    if questions.task.kind == "code":
        summary["verdicts"] = {verdict.value: sum(row["verdict"] == verdict for row in rows) for verdict in Verdict}
    summary["categories"] = {
        name: proportion(group, "score") for name, group in by_category(rows).items() if len(group) < len(rows)
    }
    return summary


def proportion(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Mean of a 0/1 metric with its Wilson interval."""
    values = [row[metric] for row in rows]
    mean = sum(values) / len(values)
    low, high = wilson(mean, len(values))
    return {"n": len(values), "mean": mean, "low": low, "high": high}


def by_category(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows grouped by category, categories in alphabetical order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["category"], []).append(row)
    return dict(sorted(groups.items()))
