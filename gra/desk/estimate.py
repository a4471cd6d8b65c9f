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
from numpy.typing import NDArray

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
    rows: Sequence[DrawnRow],
    decided: Sequence[DrawnRow],
    below: Sequence[DrawnRow],
    gate: float | None,
    others: int = 0,
) -> list[dict[str, Any]]:
    """Return yield and precision at each gate, with what people decided against it.

    Args:
        rows: all accepted rows.
        decided: a random part of them.
        below: the candidates that the present gate rejected; nothing is drawn of them.
        gate: the present `review.accept_mean`, which is one of the gates.
        others: rows that people made of candidates that something else kept out.

    Returns:
        Per gate: `gate`; `rows` with at least this score; `dropped` of them by people; `kept`, which people took
        without regard to the gate; `dataset`, the rows of a version before rulings and deduplication; `decided` of
        `rows`; `precision` or None, and then `unknown`: `few` decisions, or `below` the present gate.
    """
    scored = sorted((row for row in (*rows, *below) if row.score is not None), key=_score)
    if not scored:
        return []
    scores = np.array([row.score for row in scored], float)
    made = np.array([bool(row.verdict) for row in scored])
    dropped = np.array([row.verdict == HumanVerdict.DROP for row in scored])
    unscored = sum(row.score is None and row.verdict != HumanVerdict.DROP for row in rows)
    highest_below = max((row.score for row in below if row.score is not None), default=-np.inf)
    found = []
    for step in _gates(scores, gate):
        first = int(np.searchsorted(scores, step))
        passing, out = scored[first:], int(dropped[first:].sum())
        kept = others + int((made & ~dropped)[:first].sum())
        known = [row for row in decided if row.score is not None and row.score >= step]
        every = bool(made[first:].all())
        unknown = "" if every else "below" if highest_below >= step else "few" if len(known) < _FEWEST else ""
        estimate = None if unknown else precision_of(passing, passing if every else known)
        found.append({
            "gate": step, "rows": len(passing), "dropped": out, "kept": kept,
            "dataset": len(passing) + unscored - out + kept, "decided": int(made[first:].sum()),
            "precision": asdict(estimate) if estimate else None, "unknown": unknown,
        })  # fmt: skip
    return found


def _gates(scores: NDArray[np.float64], gate: float | None) -> list[float]:
    """Return even steps from the lowest to the highest score, and the present gate."""
    steps = np.arange(np.floor(scores[0] / _STEP) * _STEP, scores[-1] + _STEP / 2, _STEP)
    return sorted({round(float(step), 2) for step in steps} | ({float(gate)} if gate is not None else set()))


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
