"""Count the candidates of an arm that were lost because an answer ended at the length limit.

The lineage says that no usable answer came; the ledger says how the answers ended. A request that was asked again
counts by its last attempt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gra.core.errors import DataError
from gra.core.hashing import canonical_json
from gra.core.stored.resolved_recipe import find_ledger
from gra.core.types import State
from gra.core.vocabulary import CallPurpose, FailureCause
from gra.ledger.reader import LedgerReader
from gra.ledger.schema import Recorded
from gra.runs.contents import ArmRun, Row

_WRITERS = (CallPurpose.GENERATOR, CallPurpose.TEACHER, CallPurpose.REVISER, CallPurpose.SHORTENER)


@dataclass(frozen=True)
class CutOff:
    """Count the candidates of an arm, and those whose instruction or response was cut off at the length limit."""

    lost: int
    candidates: int


def count_cut_off(folder: Path, arm: ArmRun) -> CutOff:
    """Count the candidates that failed because what a model wrote was cut off.

    Args:
        folder: the arm's own folder.
        arm: its contents.

    Raises:
        DataError: the answers of a failed candidate are needed, and the ledger is missing or damaged.
    """
    failed = [row for row in arm.rows if row["state"] == State.FAILED and _answered(row) and row["calls"]]
    if not failed:
        return CutOff(0, len(arm.rows))
    file = find_ledger(folder)
    if file is None:
        raise DataError(f"{folder} has no ledger")
    reader = LedgerReader(file)
    try:
        return CutOff(sum(_ends_at_limit(reader.answers(row["calls"])) for row in failed), len(arm.rows))
    finally:
        reader.close()


def _answered(row: Row) -> bool:
    """Return whether a model gave an answer that was no use; lineages of release 0.1 do not say."""
    return row.get("failed_by") in (FailureCause.ANSWER, None, "")


def _ends_at_limit(answers: Iterable[Recorded]) -> bool:
    last: dict[str, Recorded] = {}
    for answer in answers:
        if answer.role not in _WRITERS:
            continue
        question = _question(answer)
        if question not in last or answer.attempt >= last[question].attempt:
            last[question] = answer
    # A call for a shorter answer takes the place of the answer that was cut off (`on_cutoff: shorter`).
    shorter = sum(answer.role == CallPurpose.SHORTENER for answer in last.values())
    return sum(answer.finish == "length" for answer in last.values()) > shorter


def _question(answer: Recorded) -> str:
    """Return what was asked, without the number of the attempt; a compacted ledger has the key alone."""
    try:
        asked = json.loads(answer.request)
    except (ValueError, RecursionError):
        return answer.key
    return canonical_json({**asked, "attempt": None}) if isinstance(asked, dict) else answer.key
