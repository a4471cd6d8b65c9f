"""Report which teacher explains which row best: a file with a line for each row, and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.files import atomic_path
from gra.training.fusion.plan import FusionPlan
from gra.training.fusion.targets import Target, TeacherDistributions
from gra.training.fusion.vocabulary import NONE

TEACHERS = "teachers.parquet"  # in the model's folder


def write_teachers(folder: Path, plan: FusionPlan, stored: Sequence[TeacherDistributions]) -> None:
    """Write the cross-entropy of every teacher on every distinct row, and the best teacher.

    The column `row` is a file and a number, `tokens` counts those of the answer. `best` is empty where no teacher is
    aligned. `margin` is the distance to the second best in nats a token. Each teacher has a column.
    """
    table = _entropies(stored)
    names = [teacher.name for teacher in plan.teachers]
    best = [None if np.isnan(row).all() else names[int(np.nanargmin(row))] for row in table]
    columns: dict[str, Any] = {
        "row": [row.origin for row in plan.student.rows],
        "tokens": [len(ids) for ids in plan.student.ids],
        "best": pa.array(best, pa.string()),
        "margin": pa.array([_margin(row) for row in table], pa.float64()),
    }
    for at, name in enumerate(names):
        values = table[:, at]
        columns[name] = pa.array(values, pa.float64(), mask=np.isnan(values))
    with atomic_path(folder / TEACHERS) as temporary:
        pq.write_table(pa.table(columns), temporary)


def summarize(
    plan: FusionPlan, stored: Sequence[TeacherDistributions], combine: str, targets: Sequence[Target]
) -> dict[str, Any]:
    """Return what the teachers contribute; `targets` are those of the rows.

    Returns:
        `rows`, `without` (rows that no teacher explains) and `covered` (share of answer tokens with a target). For
        each teacher `best` (rows that it explains best) and `cross_entropy` (mean nats a token of the student). Also
        `aligned` (share of answer tokens), `kept` (mean probability of the kept tokens) and `rows_without`.
    """
    table = _entropies(stored)
    known = ~np.isnan(table).all(axis=1)
    winners = np.nanargmin(table[known], axis=1)
    covered = sum(len(target.positions) for target in targets)
    teachers = {}
    for at, (teacher, one) in enumerate(zip(plan.teachers, stored, strict=True)):
        kept = np.where(one.ids == NONE, 0.0, np.exp(one.logprobs.astype(np.float64))).sum(-1)
        teachers[teacher.name] = {
            "best": int((winners == at).sum()),
            "cross_entropy": round(float(np.nanmean(table[:, at])), 4),
            "aligned": round(len(one.positions) / plan.student.tokens, 4),
            "kept": round(float(kept.mean()), 4),
            "rows_without": len(teacher.misfits),
        }
    return {
        "combine": combine,
        "rows": len(table),
        "without": int((~known).sum()),
        "covered": round(covered / plan.student.tokens, 4),
        "teachers": teachers,
    }


def _entropies(stored: Sequence[TeacherDistributions]) -> Any:
    """Return the cross-entropies, shape [rows, teachers]."""
    return np.stack([one.cross_entropy for one in stored], axis=1)


def _margin(row: Any) -> float | None:
    """Return how many nats a token the best teacher is ahead; None with fewer than two."""
    known = np.sort(row[~np.isnan(row)])
    return float(known[1] - known[0]) if len(known) > 1 else None
