"""Store answers and scores on disk: one Parquet part a batch of answers, one row a sample of a scored run.

Answers are written batch by batch, each batch whole or not at all. A killed run loses only the batch in flight.
Scores are computed from answers and can be computed again without the model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.errors import DataError
from gra.core.files import atomic_path
from gra.core.hashing import digest
from gra.core.stored.comparison import Results
from gra.core.stored.reader import read_json
from gra.evaluation.task import LoadedTask, SampleOutput, SampleScore, Scored, output_columns
from gra.sandbox.job import Verdict
from gra.sandbox.sandbox import Sandbox
from gra.stats.paired import wilson

RECORDS = "records.parquet"
RESULTS = "results.json"
_METRICS = ("pass", "pass_loose", "stopped", "acc", "acc_norm")
_UNREAD = ("no_answer", Verdict.NO_CODE.value)
_OUTPUT = pa.schema([
    ("item", pa.string()), ("asked", pa.string()), ("prompt_hash", pa.string()), ("output", pa.string()),
    ("finish", pa.string()), ("tokens", pa.int32()), ("loglikelihoods", pa.list_(pa.float64())),
    ("acc", pa.float64()), ("acc_norm", pa.float64()), ("metrics", pa.string()),
])  # fmt: skip
_RECORD = pa.schema([
    ("task", pa.string()), ("item", pa.string()), ("category", pa.string()), ("cluster", pa.string()),
    ("question", pa.string()),
    ("item_hash", pa.string()), ("target_hash", pa.string()),
    *[field for field in _OUTPUT if field.name not in ("item", "asked")],
    ("thinking", pa.string()), ("failed_checks", pa.list_(pa.string())), ("extracted", pa.string()),
    ("verdict", pa.string()), ("detail", pa.string()),
    ("pass", pa.float64()), ("pass_loose", pa.float64()), ("stopped", pa.float64()), ("score", pa.float64()),
])  # fmt: skip


class OutputStore:
    """The recorded answers of one model to one task, in parts; several processes may add to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> dict[tuple[str, str], SampleOutput]:
        """Return every recorded answer, by sample id and the digest of what was asked.

        Raises:
            DataError: when a part is damaged.
        """
        answers: dict[tuple[str, str], SampleOutput] = {}
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                rows = pq.read_table(path, schema=_OUTPUT).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path} cannot be read ({error}); delete it, and its samples are asked again"
                ) from None
            for row in rows:
                answers.setdefault((row["item"], row["asked"]), SampleOutput(**row))
        return answers

    def save(self, answers: Sequence[SampleOutput]) -> None:
        """Write one part, whole or not at all, under a name made of its samples."""
        path = self.folder / f"{digest([[a.item, a.asked] for a in answers])[:16]}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist([asdict(a) for a in answers], schema=_OUTPUT), temporary)


def score_task(
    task: LoadedTask,
    outputs: Iterable[SampleOutput],
    sandbox: Sandbox | None = None,
    scored: Scored = lambda done: None,
) -> list[dict[str, Any]]:
    """Make one row a sample, with its metrics: pass and stopped (0 or 1), or acc and acc_norm; `score` is the main one.

    Args:
        task: the task.
        outputs: one for each sample.
        sandbox: where programs of the model run, for kinds that need it.
        scored: called with the number of samples that are scored.
    """
    by_id = {output.item: output for output in outputs}
    ordered = [by_id[sample.id] for sample in task.samples]
    written = all(output.output is not None for output in ordered)
    scores = task.kind.score_all(task, ordered, sandbox, scored) if written else [SampleScore() for _ in ordered]
    rows = []
    for sample, output, score in zip(task.samples, ordered, scores, strict=True):
        row: dict[str, Any] = {
            "task": task.name, "category": sample.category, "cluster": sample.cluster, "question": sample.text,
            "item_hash": sample.asked, "target_hash": task.kind.target_digest(sample), **output_columns(output),
            "stopped": None if output.output is None else float(output.finish == "stop"), **score.columns(),
        }  # fmt: skip
        own = json.loads(output.metrics) if output.metrics else row
        row["score"] = own[task.metric]
        rows.append(row)
    return rows


def write_records(output: Path, rows: list[dict[str, Any]]) -> Path:
    """Write records.parquet and return its path."""
    path = output / RECORDS
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_RECORD), temporary)
    return path


def read_records(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a finished evaluation.

    Raises:
        DataError: when there are none, or the file is damaged.
    """
    path = _finished(run, RECORDS)
    try:
        return list(pq.read_table(path, schema=_RECORD).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); evaluate again") from None


def read_results(run: Path) -> dict[str, Any]:
    """Return the content of results.json of a finished evaluation.

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


def summarize(task: LoadedTask, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of one task: means with Wilson intervals, how answers ended and were read, and categories."""
    kind = task.kind
    summary: dict[str, Any] = {"kind": kind.name, "metric": task.metric, **proportion(rows, "score")}
    names = [name for name in _METRICS if rows[0][name] is not None]
    own = [json.loads(row["metrics"]) for row in rows] if rows[0]["metrics"] else []
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
    if written and kind.verdicts:
        summary["verdicts"] = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in kind.verdicts}
    if kind.extracts:
        summary["unread"] = sum(row["verdict"] in _UNREAD for row in rows) / len(rows)
    if written:
        summary["thinking"] = sum(row["thinking"] is not None for row in rows) / len(rows)
    summary |= kind.summary(task, rows)
    summary["categories"] = {
        name: proportion(group, "score") for name, group in by_category(rows).items() if len(group) < len(rows)
    }
    return summary


def proportion(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Return the mean of a 0/1 metric with its Wilson interval."""
    values = [row[metric] for row in rows]
    mean = sum(values) / len(values)
    low, high = wilson(mean, len(values))
    return {"n": len(values), "mean": mean, "low": low, "high": high}


def by_category(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Group rows by category, the categories in alphabetical order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["category"], []).append(row)
    return dict(sorted(groups.items()))
