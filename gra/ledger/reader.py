"""Read-only access to a ledger, for `gra verify`, `gra diff` and `gra explain`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gra.core.errors import DataError
from gra.ledger.schema import COLUMNS, Recorded, problems, read, sentence, usable_version


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


class LedgerReader:
    """Read-only connection to a ledger; it never blocks a process that writes."""

    def __init__(self, path: Path) -> None:
        """Open the file for reading.

        Raises:
            DataError: when it cannot be opened.
        """
        self.path = path
        # Without a write-ahead log beside the file no process writes, and reading must not create one.
        how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
        try:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=30)
        except sqlite3.Error as error:
            raise DataError(sentence(path, error)) from None

    def check_usable(self) -> None:
        """See whether a run can go on with it, as far as that can be seen without reading all of it.

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
                yield RunAccount(*row)
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def verdicts(self, run: str) -> list[tuple[str, str]]:
        """Return (candidate, record as JSON) of each verdict of a run, in the order they were written."""
        try:
            return list(
                self._db.execute("SELECT candidate, story FROM verdicts WHERE run = ? ORDER BY written", (run,))
            )
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

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each damage of the file."""
        try:
            yield from problems(self._db)
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()
