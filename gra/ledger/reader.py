"""Read-only access to a ledger, for `gra verify`, `gra diff` and `gra explain`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.core.files import refuse_irregular
from gra.core.types import HumanDecision
from gra.ledger.decision_rows import select
from gra.ledger.schema import (
    COLUMNS,
    SCHEMA_VERSION,
    Recorded,
    problems,
    read,
    read_verdict,
    sentence,
    usable_version,
)


@dataclass(frozen=True, slots=True)
class RunAccount:
    """Cost of one answer; `written` is the time of recording, in seconds since the epoch."""

    run: str
    candidate: str
    role: str
    model: str
    read: int
    cached: int
    wrote: int
    seconds: float
    written: float


@dataclass(frozen=True, slots=True)
class RecordedVerdict:
    """Recorded verdict on a candidate, and the scope under which it holds."""

    candidate: str
    scope: str
    record: dict[str, Any]


# Types of a row of accounts; SQLite keeps a whole number in a column of type REAL as float.
_ACCOUNT_TYPES = ((str, str, str, str, int, int, int, float, float),)


class LedgerReader:
    """Read-only connection to a ledger; it never blocks a process that writes."""

    def __init__(self, path: Path) -> None:
        """Open the file for reading.

        Raises:
            DataError: when it cannot be opened, or is no regular file.
        """
        self.path = path
        beside = [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]
        for file in (path, *beside):
            refuse_irregular(file)
        # Without a write-ahead log beside the file no process writes, and reading must not create one.
        how = "mode=ro" if beside[0].exists() else "immutable=1"
        if how == "mode=ro" and beside[1].exists() and (beside[1].is_symlink() or beside[1].stat().st_nlink > 1):
            how += "&readonly_shm=1"  # SQLite writes to this file even for a reader
        try:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=30)
        except sqlite3.Error as error:
            raise DataError(sentence(path, error)) from None

    def check_usable(self) -> None:
        """Check the version of the file; its rows are not read.

        Raises:
            DataError: when it is damaged, or was not written by this release or an earlier one.
        """
        try:
            usable_version(self._db, self.path)
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def payments(self) -> dict[str, float]:
        """Return the time of payment of each answer by its key, in seconds; a copied ledger has the same times."""
        try:
            return dict(self._db.execute("SELECT key, written FROM calls"))
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def accounts(self) -> Iterator[RunAccount]:
        """Yield the cost of every answer, in the order they were given."""
        columns = "run, candidate, role, model, prompt_tokens, cached_tokens, completion_tokens, seconds, written"
        try:
            for row in self._db.execute(f"SELECT {columns} FROM calls ORDER BY id"):
                if tuple(map(type, row)) not in _ACCOUNT_TYPES:
                    raise DataError(f"{self.path} is damaged (see `gra ledger check {self.path}`)")
                yield RunAccount(*row)
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def verdicts(self, run: str) -> list[RecordedVerdict]:
        """Return the verdicts of a run, in the order they were written.

        Raises:
            DataError: when one is not what was written.
        """
        sealed = "seal" if self._sealed() else "NULL"
        query = f"SELECT candidate, story, {sealed} FROM verdicts WHERE run = ? ORDER BY written"
        try:
            rows = list(self._db.execute(query, (run,)))
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None
        return [RecordedVerdict(row[0], *read_verdict(self.path, run, *row)) for row in rows]

    def decisions(self, run: str) -> dict[str, list[HumanDecision]]:
        """Return what people decided about the candidates of a run, by candidate, in the order of writing.

        Raises:
            DataError: when a decision is not what was written.
        """
        found: dict[str, list[HumanDecision]] = {}
        try:
            for _, candidate, decision in select(self._db, run):
                found.setdefault(candidate, []).append(decision)
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None
        except ValueError as error:
            raise DataError(f"{self.path}: {error}; see `gra ledger check {self.path}`") from None
        return found

    def verdict_times(self, run: str) -> dict[str, float]:
        """Return when each verdict of a run was written, by candidate, in seconds since the epoch."""
        try:
            return dict(self._db.execute("SELECT candidate, written FROM verdicts WHERE run = ?", (run,)))
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def verdicts_of(self, run: str, candidates: Iterable[str]) -> list[RecordedVerdict]:
        """Return the verdicts on some candidates of a run.

        Raises:
            DataError: when one is not what was written.
        """
        sealed = "seal" if self._sealed() else "NULL"
        query = f"SELECT candidate, story, {sealed} FROM verdicts WHERE run = ? AND candidate = ?"
        try:
            rows = [row for name in candidates for row in self._db.execute(query, (run, name))]
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None
        return [RecordedVerdict(row[0], *read_verdict(self.path, run, *row)) for row in rows]

    def _sealed(self) -> bool:
        try:
            return usable_version(self._db, self.path) >= SCHEMA_VERSION
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def answers(self, keys: Iterable[str]) -> list[Recorded]:
        """Return the recorded answers of these keys, in the order they were given."""
        query = f"SELECT {', '.join(COLUMNS)}, id FROM calls WHERE key = ?"
        try:
            rows = [row for key in keys for row in self._db.execute(query, (key,))]
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None
        return [read(self.path, row[:-1]) for row in sorted(rows, key=lambda row: row[-1])]

    def all_answers(self) -> Iterator[Recorded]:
        """Yield the recorded answers of all runs, in the order they were written."""
        try:
            for row in self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM calls ORDER BY id"):
                yield read(self.path, row)
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each damage of the file."""
        try:
            yield from problems(self._db)
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()
