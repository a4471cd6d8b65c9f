"""Collect the samples on which two models differ, with both answers: all in flips.parquet, a few in compare.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.files import atomic_path
from gra.evaluation.compare.runs import ScoredRun

FLIPS = "flips.parquet"
_TEXTS = ("arm", "reference", "against", "task", "item", "category", "question", "outcome", "contamination")
_SIDES = ("output", "finish")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [(prefix + name, pa.string()) for prefix in ("", "reference_") for name in _SIDES]
    + [(prefix + "score", pa.float64()) for prefix in ("", "reference_")]
)


def flips(
    arms: Mapping[str, Sequence[ScoredRun]], pairs: Sequence[Mapping[str, Any]], seen: Mapping[tuple[str, str], str]
) -> Iterator[dict[str, Any]]:
    """Yield every item that an arm wins or loses against a reference; texts are from each arm's first seed.

    Args:
        arms: the runs of each arm, one a training seed; scores are means over them.
        pairs: `arm`, `reference` and `against` of each comparison.
        seen: the contamination verdict of items, by (task, item).
    """
    for pair in pairs:
        ours, theirs = arms[pair["arm"]], arms[pair["reference"]]
        for task, rows in ours[0].tasks.items():
            for item in sorted(rows):
                one, two = rows[item], theirs[0].tasks[task][item]
                scores = [sum(run.tasks[task][item]["score"] for run in runs) / len(runs) for runs in (ours, theirs)]
                if scores[0] != scores[1]:
                    yield {
                        **{key: pair[key] for key in ("arm", "reference", "against")},
                        **{key: one[key] for key in ("task", "item", "category", "question")},
                        "outcome": "win" if scores[0] > scores[1] else "loss",
                        "contamination": seen.get((task, item)),
                        "output": _answer_text(one), "finish": one["finish"], "score": scores[0],
                        "reference_output": _answer_text(two), "reference_finish": two["finish"],
                        "reference_score": scores[1],
                    }  # fmt: skip


def write_flips(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write all of them, and return the path."""
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=_SCHEMA), temporary)
    return path


def samples(rows: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the first few written wins and losses of each task and pair against the baseline."""
    shown: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    keys = ("task", "item", "category", "question", "arm", "reference", "outcome", "output", "reference_output")
    for row in rows:
        if row["against"] == "baseline" and row["finish"] is not None:
            for outcome in ("win", "loss"):
                shown.setdefault((row["arm"], row["task"], outcome), [])
            group = shown[row["arm"], row["task"], row["outcome"]]
            if len(group) < count:
                group.append({key: row[key] for key in keys})
    return [sample for group in shown.values() for sample in group]


def _answer_text(row: Mapping[str, Any]) -> str:
    """Return the text of an answer, or the likelihoods of the choices where they were weighed."""
    if row["loglikelihoods"] is not None:
        return "log-likelihood of each choice: " + ", ".join(f"{weight:.2f}" for weight in row["loglikelihoods"])
    return row["output"] or ""
