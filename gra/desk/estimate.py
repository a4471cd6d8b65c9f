"""Say how good the accepted rows are, from the decisions along the random order and the panel's scores.

The decided part is the longest beginning of the random order without an open row. In which order its rows were decided
does not matter. So rows that were picked for their disagreement cannot shift the estimate. An edited row counts as not
good.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gra.core.vocabulary import HumanVerdict
from gra.stats.precision import Precision, decisions_needed, estimate_precision
from gra.stats.reliability import auc

HALF_WIDTH = 0.05
_STEP = 0.25  # of the score, between two gates of the curve
_FEWEST = 5  # decisions above a gate from which its precision is estimated


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """An accepted row in the random order.

    Attributes:
        score: the panel's mean score (0-10).
        verdict: the standing verdict of a person; empty for none.
    """

    id: str
    score: float | None
    verdict: str


def random_part(rows: Sequence[DrawnRow], skipped: Collection[str]) -> tuple[list[DrawnRow], int]:
    """Return the decided rows at the beginning of the random order, and how many rows there were skipped.

    Args:
        rows: all accepted rows, in the random order.
        skipped: rows that a person looked at and left open.
    """
    found, left_open = [], 0
    for row in rows:
        if row.verdict:
            found.append(row)
        elif row.id in skipped:
            left_open += 1
        else:
            break
    return found, left_open


def precision_of(rows: Sequence[DrawnRow], decided: Sequence[DrawnRow]) -> Precision | None:
    """Estimate the share of good rows; None without a decision.

    Args:
        rows: all rows.
        decided: those of them that were decided, a random part.
    """
    if not decided:
        return None
    known = {row.id for row in decided}
    others = [_score(row) for row in rows if row.id not in known]
    good = [row.verdict == HumanVerdict.KEEP for row in decided]
    return estimate_precision(good, [_score(row) for row in decided], others)


def gate_curve(
    rows: Sequence[DrawnRow], decided: Sequence[DrawnRow], below: Sequence[float], gate: float | None
) -> list[dict[str, Any]]:
    """Return yield and precision at each gate.

    Args:
        rows: all accepted rows.
        decided: a random part of them.
        below: scores of the candidates that the present gate rejected.
        gate: the present `review.accept_mean`, above which the precision is known.

    Returns:
        Per gate: `gate`, `rows` with at least this score, and `precision`, or None where too few were decided.
    """
    scored = [row for row in rows if row.score is not None]
    scores = np.sort(np.array([*(row.score for row in scored), *below], float))
    if not scores.size:
        return []
    found = []
    for step in np.arange(np.floor(scores[0] / _STEP) * _STEP, scores[-1] + _STEP / 2, _STEP):
        known = [row for row in decided if row.score is not None and row.score >= step]
        estimate = None
        if (gate is None or step >= gate) and len(known) >= _FEWEST:
            estimate = precision_of([row for row in scored if row.score is not None and row.score >= step], known)
        count = int(scores.size - np.searchsorted(scores, step))
        found.append(
            {"gate": round(float(step), 2), "rows": count, "precision": asdict(estimate) if estimate else None}
        )
    return found


def reviewer_agreement(scores: Mapping[str, Mapping[str, float]], verdicts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Compare each reviewer with the people, over all decided candidates.

    Args:
        scores: of each candidate, by reviewer.
        verdicts: of people, by candidate.

    Returns:
        Per reviewer: `auc`, the chance that it scores a kept candidate above one that was dropped or edited, or None.
    """
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for name, verdict in verdicts.items():
        for reviewer, score in scores.get(name, {}).items():
            good, bad = groups.setdefault(reviewer, ([], []))
            (good if verdict == HumanVerdict.KEEP else bad).append(score)
    return [
        {"reviewer": name, "kept": len(good), "not": len(bad), "auc": auc(good, bad) if good and bad else None}
        for name, (good, bad) in sorted(groups.items())
    ]


def summary(rows: Sequence[DrawnRow], decided: Sequence[DrawnRow], left_open: int) -> dict[str, Any]:
    """Return the estimate of all accepted rows as JSON values, with the number of decisions that are still needed.

    Args:
        rows: all accepted rows, in the random order.
        decided: the decided part of them, by `random_part`.
        left_open: how many were skipped there.
    """
    found = precision_of(rows, decided)
    return {
        "rows": len(rows),
        "decided": len(decided),
        "skipped": left_open,
        "precision": asdict(found) if found else None,
        "needed": decisions_needed(found, HALF_WIDTH) if found else None,
        "half_width": HALF_WIDTH,
    }


def _score(row: DrawnRow) -> float:
    return float("nan") if row.score is None else row.score
