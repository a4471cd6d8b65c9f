"""Recorded answers and verdicts in one SQLite file, durable at every commit.

The key of an answer is a digest of its call. So a resumed run repeats its calls and pays for none twice. Writes are
grouped: rows that arrive during a commit go into the next one. A write returns when its row is durable. Several runs
and processes may share a file: they share answers, and each run has its own verdicts and accounts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.ledger.schema import COLUMNS, Recorded, connect, prepare, read, read_verdict, row, seal_verdict, sentence

__all__ = ["Ledger", "Recorded"]

ADOPTED = "preparation: "  # begins the name of a run that answers were adopted from; no recipe can have such a name
_LOOKUP = f"SELECT {', '.join(COLUMNS)} FROM calls WHERE key = ?"
_RECORD = (
    f"INSERT OR IGNORE INTO calls (run, {', '.join(COLUMNS)}, written) VALUES ({', '.join('?' * (len(COLUMNS) + 2))})"
)
_CONCLUDE = "INSERT OR REPLACE INTO verdicts (run, candidate, story, written, seal) VALUES (?, ?, ?, ?, ?)"
_FAULT = "INSERT INTO faults VALUES (?, ?, ?, ?, ?, ?, ?)"
_COUNTED = ("prompt_tokens", "completion_tokens", "cached_tokens")

_Statement = tuple[str, tuple[Any, ...]]
_Waiting = tuple[str, tuple[Any, ...], "asyncio.Future[bool]"]


class Ledger:
    """One SQLite file in WAL mode. Reads are direct; writes go through one thread with group commit."""

    def __init__(self, path: Path, run: str) -> None:
        """Open or create the ledger.

        Raises:
            DataError: when the file cannot be opened, is damaged, or was written by a newer GRA.
        """
        self.path = path
        self.run = run
        try:
            self._db = connect(path)
            try:
                prepare(self._db, path)
                self._reader = connect(path)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise DataError(sentence(path, error)) from None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._waiting: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None

    def lookup(self, key: str) -> Recorded | None:
        """Return the recorded answer to a call, or None."""
        found = self._one(_LOOKUP, (key,))
        return read(self.path, found) if found else None

    async def record(self, answer: Recorded) -> Recorded:
        """Write one answer; returns the recorded one when it is durable.

        When another process recorded an answer to the same call first, that answer is returned and used.
        """
        if await self._write(_RECORD, (self.run, *row(answer), time.time())):
            return answer
        return self.lookup(answer.key) or answer

    def adopt(self, answers: Sequence[Recorded], source: str) -> int:
        """Write answers that were recorded elsewhere, and return the number of new ones.

        They are found like any other answer, and no run of this file has paid for them.

        Args:
            answers: recorded answers.
            source: where they are from, for a person.
        """
        now = time.time()
        batch = [(_RECORD, (ADOPTED + source, *row(answer), now)) for answer in answers]
        try:
            return sum(self._commit(batch))
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    async def conclude(self, candidate: str, record: dict[str, Any], scope: str = "") -> None:
        """Write a candidate's terminal verdict; returns when it is durable.

        Args:
            candidate: its id.
            record: the candidate as JSON values, with its verdict.
            scope: names what the verdict depends on (recipe, models, prompts, pool).
        """
        text = json.dumps({"scope": scope, "story": record}, ensure_ascii=False)
        checksum = seal_verdict(self.run, candidate, text)
        await self._write(_CONCLUDE, (self.run, candidate, text, time.time(), checksum))

    async def fault(self, role: str, model: str, candidate: str, kind: str, message: str) -> None:
        """Record a failure of the infrastructure; it is never used as an answer."""
        await self._write(_FAULT, (self.run, role, model, candidate, kind, message, time.time()))

    def candidate_record(self, candidate: str, scope: str = "") -> dict[str, Any] | None:
        """Return a candidate as it was recorded with its verdict; None without a verdict under the same `scope`.

        Raises:
            DataError: when the record is not what was written.
        """
        query = "SELECT story, seal FROM verdicts WHERE run = ? AND candidate = ?"
        found = self._one(query, (self.run, candidate))
        if found is None:
            return None
        recorded, record = read_verdict(self.path, self.run, candidate, *found)
        return record if recorded == scope else None

    def candidate_records(self, first: str, end: str, scope: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the recorded candidates from `first` to `end` under the same `scope`, in candidate order.

        Raises:
            DataError: when a record is not what was written.
        """
        where = "run = ? AND candidate BETWEEN ? AND ? ORDER BY candidate"
        query = f"SELECT candidate, story, seal FROM verdicts WHERE {where}"
        for candidate, *found in self._select(query, (self.run, first, end)):
            recorded, record = read_verdict(self.path, self.run, candidate, *found)
            if recorded == scope:
                yield candidate, record

    def last_answer(self) -> int:
        """Return the number of the newest answer in the file, of any run; later answers have higher numbers."""
        found = self._one("SELECT MAX(id) FROM calls", ())
        return (found and found[0]) or 0

    def last_candidate(self, first: str, end: str, since: int) -> str | None:
        """Return the highest candidate id from `first` to `end` with an answer of this run newer than `since`."""
        highest = "SELECT MAX(candidate) FROM calls WHERE run = ? AND candidate BETWEEN ? AND ? AND id > ?"
        found = self._one(highest, (self.run, first, end, since))
        return found[0] if found else None

    def answers(self) -> Iterator[Recorded]:
        """Yield the answers that this run paid for, in the order they were written."""
        query = f"SELECT {', '.join(COLUMNS)} FROM calls WHERE run = ? ORDER BY id"
        for found in self._select(query, (self.run,)):
            yield read(self.path, found)

    def paid(self, by: str) -> dict[str, dict[str, int]]:
        """Return calls and tokens that this run paid for, over all its resumes, by `role` or by `model`."""
        assert by in ("role", "model")
        sums = ", ".join(f"SUM({name})" for name in _COUNTED)
        query = f"SELECT {by}, COUNT(*), {sums} FROM calls WHERE run = ? GROUP BY {by} ORDER BY MIN(id)"
        return {
            name: dict(zip(("calls", *_COUNTED), counts, strict=True))
            for name, *counts in self._select(query, (self.run,))
        }

    def spent(self) -> int:
        """Return the prompt and completion tokens that this run paid for, over all its resumes."""
        return sum(paid["prompt_tokens"] + paid["completion_tokens"] for paid in self.paid("model").values())

    def paid_for_candidates(self) -> Iterator[tuple[Any, ...]]:
        """Yield (candidate, model, prompt, cached, completion) in tokens, for candidates with a verdict."""
        ended = "candidate IN (SELECT candidate FROM verdicts WHERE run = ?)"
        sums = ", ".join(f"SUM({name})" for name in ("prompt_tokens", "cached_tokens", "completion_tokens"))
        query = f"SELECT candidate, model, {sums} FROM calls WHERE run = ? AND {ended} GROUP BY candidate, model"
        yield from self._select(query, (self.run, self.run))

    def used(self, keys: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        """Yield (candidate, role, model, calls, prompt, completion, cached) of some answers, of any run in the file.

        So arms that share answers can be compared by what each of them costs alone.

        Args:
            keys: of the answers; one that is given twice counts once.
        """
        counts = f"candidate, role, model, COUNT(*), {', '.join(f'SUM({name})' for name in _COUNTED)}"
        try:
            self._reader.execute("DROP TABLE IF EXISTS temp.used")
            self._reader.execute("CREATE TEMP TABLE used (key TEXT PRIMARY KEY) WITHOUT ROWID")
            self._reader.executemany("INSERT OR IGNORE INTO used VALUES (?)", ((key,) for key in keys))
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None
        query = f"SELECT {counts} FROM temp.used JOIN calls USING (key) GROUP BY candidate, role, model"
        yield from self._select(query, ())

    def faults(self) -> dict[str, int]:
        """Count the failures of the infrastructure, by kind."""
        return dict(self._select("SELECT kind, COUNT(*) FROM faults WHERE run = ? GROUP BY kind", (self.run,)))

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        try:
            found: tuple[Any, ...] | None = self._reader.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None
        return found

    def _select(self, query: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._reader.execute(query, values)
        except sqlite3.Error as error:
            raise DataError(sentence(self.path, error)) from None

    async def _write(self, statement: str, values: tuple[Any, ...]) -> bool:
        """Write one row; returns when it is durable, and whether it was new."""
        durable: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((statement, values, durable))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await durable

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                new = await loop.run_in_executor(self._thread, self._commit, [waiting[:2] for waiting in batch])
            except Exception as error:  # of any type: no writer may wait forever
                failure = DataError(sentence(self.path, error)) if isinstance(error, sqlite3.Error) else error
                for _, _, durable in batch:
                    if not durable.done():
                        durable.set_exception(failure)
                continue
            for (_, _, durable), fresh in zip(batch, new, strict=True):
                if not durable.done():
                    durable.set_result(fresh)

    def _commit(self, batch: Sequence[_Statement]) -> list[bool]:
        """Write a batch in one transaction; returns for each row whether it was new."""
        execute = self._db.execute
        execute("BEGIN IMMEDIATE")
        try:
            new = [execute(statement, values).rowcount > 0 for statement, values in batch]
            execute("COMMIT")
        except Exception:
            if self._db.in_transaction:
                execute("ROLLBACK")
            raise
        return new

    def close(self) -> None:
        """Finish pending commits and close the file."""
        self._thread.shutdown(wait=True)
        if self._waiting:  # of candidates that were canceled: no task waits, but the answers are paid for
            with contextlib.suppress(sqlite3.Error):
                self._commit([waiting[:2] for waiting in self._waiting])
        self._reader.close()
        self._db.close()
