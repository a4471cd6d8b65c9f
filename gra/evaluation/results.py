"""Answers and scores on disk: one Parquet part per batch of answers, one row per item of a scored run.

Answers are what the model did; they are written batch by batch, whole and on the disk or not at all, so a killed run
loses only the batch in flight. Scores are computed from answers and can be computed again without the model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from gra.checks.format import failed
from gra.checks.ifeval import broken
from gra.core.errors import DataError
from gra.core.files import atomic_path
from gra.core.hashing import digest
from gra.core.stored.comparison import Results
from gra.core.stored.reader import read_json
from gra.evaluation.scorers.answers import KINDS, Broken, judge_reply
from gra.evaluation.scorers.answers import Verdict as ReplyVerdict
from gra.evaluation.suite import Item, Questions
from gra.sandbox.job import SandboxOutcome, Verdict
from gra.stats.paired import wilson

RECORDS = "records.parquet"
RESULTS = "results.json"
_METRICS = ("pass", "pass_loose", "stopped", "acc", "acc_norm")
READ = ("letter", "value", "short", "code")  # kinds whose answer has to be found in the text; `unread` is how often not


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model did with one item.

    `asked` is the digest of what it was shown, without any template. `finish` is "stop" when it ended its answer by
    itself and "length" when it was cut off; a likelihood item has the log-likelihood of each choice instead, and the
    two accuracies that lm-eval made of them. A task of lm-eval's own has all its `metrics`, as JSON.
    """

    item: str
    asked: str
    prompt_hash: str
    output: str | None = None
    finish: str | None = None
    tokens: int | None = None
    loglikelihoods: list[float] | None = None
    acc: float | None = None
    acc_norm: float | None = None
    metrics: str | None = None


_ANSWER = pa.schema([
    ("item", pa.string()), ("asked", pa.string()), ("prompt_hash", pa.string()), ("output", pa.string()),
    ("finish", pa.string()), ("tokens", pa.int32()), ("loglikelihoods", pa.list_(pa.float64())),
    ("acc", pa.float64()), ("acc_norm", pa.float64()), ("metrics", pa.string()),
])  # fmt: skip
_RECORD = pa.schema([
    ("task", pa.string()), ("item", pa.string()), ("category", pa.string()), ("cluster", pa.string()),
    ("question", pa.string()),
    ("item_hash", pa.string()), ("target_hash", pa.string()),
    *[field for field in _ANSWER if field.name not in ("item", "asked")],
    ("failed_checks", pa.list_(pa.string())), ("extracted", pa.string()), ("verdict", pa.string()),
    ("detail", pa.string()),
    ("pass", pa.float64()), ("pass_loose", pa.float64()), ("stopped", pa.float64()), ("score", pa.float64()),
])  # fmt: skip


class AnswerStore:
    """The answers of one model to one task, in parts; several processes may add to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> dict[tuple[str, str], Answer]:
        """Every recorded answer, by item and by the digest of what was asked.

        Raises:
            DataError: when a part is damaged.
        """
        answers: dict[tuple[str, str], Answer] = {}
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                rows = pq.read_table(path, schema=_ANSWER).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path} cannot be read ({error}); delete it, and its items are asked again") from None
            for row in rows:
                answers.setdefault((row["item"], row["asked"]), Answer(**row))
        return answers

    def save(self, answers: Sequence[Answer]) -> None:
        """Write one part; it is there as a whole or not at all, and named after its items."""
        path = self.folder / f"{digest([[a.item, a.asked] for a in answers])[:16]}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist([asdict(a) for a in answers], schema=_ANSWER), temporary)


def score(
    questions: Questions,
    answers: Iterable[Answer],
    outcomes: Mapping[str, SandboxOutcome] | None = None,
    breaks: Broken = broken,
) -> list[dict[str, Any]]:
    """One row per item with its metrics: pass and stopped (0 or 1), or acc and acc_norm; `score` is the main one.

    Args:
        questions: the task.
        answers: one for every item.
        outcomes: what the sandbox said of each item's program, for programs.
        breaks: which instructions of IFEval an answer breaks.
    """
    by_id = {answer.item: answer for answer in answers}
    rows = []
    for item in questions.items:
        answer = by_id[item.id]
        row: dict[str, Any] = {
            "task": questions.name, "category": item.category, "cluster": item.cluster, "question": item.text,
            "item_hash": item.asked, "target_hash": item.target, **asdict(answer),
            **dict.fromkeys(("failed_checks", "extracted", "verdict", "detail", "pass", "pass_loose", "stopped")),
        }  # fmt: skip
        if answer.output is not None:
            row["stopped"] = float(answer.finish == "stop")
            row |= _judged(questions.task.kind, item, answer, outcomes, breaks)
        own = json.loads(answer.metrics) if answer.metrics else row
        row["score"] = own[questions.metric]
        rows.append(row)
    return rows


def _judged(
    kind: str, item: Item, answer: Answer, outcomes: Mapping[str, SandboxOutcome] | None, breaks: Broken
) -> dict[str, Any]:
    """What is said of a written answer."""
    said = answer.output or ""
    if outcomes is not None:
        outcome = outcomes[item.id]
        right = float(outcome.verdict is Verdict.PASSED)
        return {"verdict": outcome.verdict.value, "detail": outcome.detail, "pass": right}
    if kind in KINDS:
        judged = judge_reply(item, kind, said, answer.finish, breaks)
        return {
            "verdict": judged.verdict, "extracted": judged.extracted, "pass": float(judged.verdict == "right"),
            "failed_checks": None if judged.broken is None else list(judged.broken),
            "pass_loose": None if judged.loose is None else float(judged.loose),
        }  # fmt: skip
    if kind == "lm-eval":
        return {}
    missed = failed(item.checks, said)
    return {"failed_checks": missed, "pass": float(not missed)}


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
    return dict(read_json(_finished(run, RESULTS), Results))


def _finished(run: Path, name: str) -> Path:
    if not (run / name).is_file():
        raise DataError(
            f"{run} holds no finished evaluation (there is no {name}); give an output folder of eval/run.py"
        )
    return run / name


def summarise(questions: Questions, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one task: means with Wilson intervals, how answers ended and were read, and categories."""
    kind = questions.task.kind
    summary: dict[str, Any] = {"kind": kind, "metric": questions.metric, **proportion(rows, "score")}
    names = [name for name in _METRICS if rows[0][name] is not None]
    own = [json.loads(row["metrics"]) for row in rows] if kind == "lm-eval" else []
    summary["metrics"] = {
        **{
            name: {"n": len(own), "mean": sum(found[name] for found in own) / len(own)} for name in (own[:1] or [{}])[0]
        },
        **{name: proportion(rows, name) for name in names},
    }
    written = [row for row in rows if row["output"] is not None]
    summary["stopped"] = summary["metrics"]["stopped"]["mean"] if written else None
    finishes = Counter(row["finish"] for row in written)
    summary["finishes"] = dict(sorted(finishes.items())) if written else None
    summary["truncated"] = finishes["length"] / len(written) if written else None
    tokens = [row["tokens"] for row in rows if row["tokens"] is not None]
    summary["mean_tokens"] = sum(tokens) / len(tokens) if tokens else None
    summary["tokens"] = sum(tokens) if tokens else None
    known = [verdict.value for verdict in Verdict] if kind == "code" else get_args(ReplyVerdict)
    if written and rows[0]["verdict"] is not None:
        summary["verdicts"] = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in known}
    if kind in READ:
        summary["unread"] = sum(row["verdict"] in ("no_answer", "no_code") for row in rows) / len(rows)
    if kind == "ifeval":
        asked = sum(len(item.instructions) for item in questions.items)
        followed = asked - sum(len(row["failed_checks"]) for row in rows)
        summary["instructions"] = {"n": asked, "followed": followed, "mean": followed / asked}
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
