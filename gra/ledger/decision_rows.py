"""The ledger's table of people's decisions: its columns, its checksums, and the check of its rows.

Rows are only ever added. Undoing is a row, too. Each has a checksum, as answers and verdicts have.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any

from gra.core.types import HumanDecision
from gra.core.vocabulary import HumanVerdict

TABLE = """
CREATE TABLE IF NOT EXISTS decisions (
  id INTEGER PRIMARY KEY, run TEXT NOT NULL, candidate TEXT NOT NULL, reviewer TEXT NOT NULL, verdict TEXT NOT NULL,
  written REAL NOT NULL, subject TEXT NOT NULL, instruction TEXT NOT NULL, response TEXT NOT NULL,
  seal INTEGER NOT NULL
)
"""
_COLUMNS = "run, candidate, reviewer, verdict, written, subject, instruction, response, seal"
INSERT = f"INSERT INTO decisions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = f"SELECT id, {_COLUMNS} FROM decisions"
_VERDICTS = frozenset(HumanVerdict)

Row = tuple[Any, ...]


def to_row(run: str, candidate: str, decision: HumanDecision) -> Row:
    """Return the values of a decision for `INSERT`."""
    d = decision
    values = (run, candidate, d.reviewer, d.verdict.value, d.written, d.subject, d.instruction, d.response)
    return (*values, _seal(values))


def select(db: sqlite3.Connection, run: str, since: int = 0) -> Iterator[tuple[int, str, HumanDecision]]:
    """Yield number, candidate and decision of a run's rows, in the order they were written.

    Args:
        db: a connection to a ledger.
        run: the recipe's name.
        since: rows up to this number are left out.

    Raises:
        ValueError: a row is not what was written.
    """
    if not _exists(db):
        return
    for number, *values in db.execute(f"{_SELECT} WHERE run = ? AND id > ? ORDER BY id", (run, since)):
        if not _sound(values):
            raise ValueError(f"the decision about {values[1]} of `{run}` is not what was written")
        _, candidate, reviewer, verdict, *rest, _ = values
        yield number, candidate, HumanDecision(reviewer, HumanVerdict(verdict), *rest)


def problems(db: sqlite3.Connection) -> Iterator[str]:
    """Yield a sentence for each row that is not what was written."""
    for _, *values in db.execute(_SELECT) if _exists(db) else ():
        if not _sound(values):
            yield f"the decision about {values[1]} of `{values[0]}` is not what was written"


def _exists(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'decisions'").fetchone() is not None


def _sound(values: list[Any]) -> bool:
    return values[3] in _VERDICTS and isinstance(values[4], float) and _seal(tuple(values[:-1])) == values[-1]


def _seal(values: Row) -> int:
    return zlib.crc32("\0".join(map(str, values)).encode("utf-8", "surrogateescape"))
