"""Record people's decisions in a ledger, each durable when the call returns.

Several people, several servers and a run that is under way may write to one ledger at the same time.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from gra.core.errors import DataError
from gra.core.types import HumanDecision
from gra.ledger.decision_rows import INSERT, TABLE, select, to_row
from gra.ledger.schema import connect, prepare, sentence


class DecisionLog:
    """The decisions about the candidates of one run; calls may come from any thread."""

    def __init__(self, path: Path, run: str) -> None:
        """Open an existing ledger.

        Args:
            path: the ledger.
            run: the recipe's name.

        Raises:
            DataError: the ledger is missing or damaged, or cannot be written.
        """
        if not path.is_file():
            raise DataError(f"there is no ledger {path}; decisions are recorded in the ledger of a run")
        self.path, self.run = path, run
        self._lock = threading.Lock()
        try:
            self._db = connect(path)
            try:
                prepare(self._db, path)
                self._db.execute(TABLE)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise DataError(sentence(path, error)) from None

    def add(self, candidate: str, decision: HumanDecision) -> int:
        """Record a decision and return its number; when this returns, the decision is on the disk.

        Raises:
            DataError: the disk is full or the ledger is gone.
        """
        with self._lock:
            try:
                number = self._db.execute(INSERT, to_row(self.run, candidate, decision)).lastrowid
            except sqlite3.Error as error:
                raise DataError(sentence(self.path, error)) from None
        assert number is not None
        return number

    def since(self, number: int = 0) -> list[tuple[int, str, HumanDecision]]:
        """Return number, candidate and decision of everything written after a number, by anyone.

        Raises:
            DataError: a row is not what was written.
        """
        with self._lock:
            try:
                return list(select(self._db, self.run, number))
            except sqlite3.Error as error:
                raise DataError(sentence(self.path, error)) from None
            except ValueError as error:
                raise DataError(f"{self.path}: {error}; see `gra ledger check {self.path}`") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()
