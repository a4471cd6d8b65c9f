"""Every answer that was paid for and every verdict, in one SQLite file that survives any crash.

Answers are keyed by the content of the call, so resuming is running again: what is here is never
asked twice. Writes are grouped: whatever gathers while one commit is on its way to the disk goes
into the next, and a writer is told only after its row is durable.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gra.core.errors import DataError

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
  key TEXT PRIMARY KEY, run TEXT NOT NULL, role TEXT NOT NULL, member TEXT NOT NULL, model TEXT NOT NULL,
  candidate TEXT NOT NULL, attempt INTEGER NOT NULL, request TEXT NOT NULL, text TEXT NOT NULL,
  finish TEXT NOT NULL, scores TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, seconds REAL NOT NULL, written REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdicts (
  run TEXT NOT NULL, candidate TEXT NOT NULL, story TEXT NOT NULL, written REAL NOT NULL,
  PRIMARY KEY (run, candidate)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS faults (
  run TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL, candidate TEXT NOT NULL,
  kind TEXT NOT NULL, message TEXT NOT NULL, written REAL NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded answer, as the engine gave it; tokens as counts, time in seconds."""

    key: str
    role: str
    member: str
    model: str
    candidate: str
    attempt: int
    request: str
    text: str
    finish: str
    scores: dict[str, float]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    seconds: float


_COLUMNS = tuple(column.name for column in fields(Recorded))


def _read(row: tuple[Any, ...]) -> Recorded:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Recorded(**{**values, "scores": json.loads(values["scores"])})


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
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                self._db.close()
                raise DataError(
                    f"{path} was written by a newer GRA (ledger version {version}, this one reads {SCHEMA_VERSION}); "
                    "update GRA, or start a run under another name"
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise DataError(_sentence(path, error)) from None
        self._reader = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._waiting: list[tuple[str, tuple[Any, ...], asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None

    def lookup(self, key: str) -> Recorded | None:
        """The answer to a call, if it was ever given."""
        row = next(self._select(f"SELECT {', '.join(_COLUMNS)} FROM calls WHERE key = ?", (key,)), None)
        return _read(row) if row else None

    async def record(self, answer: Recorded) -> None:
        """Write one answer; returns when it is durable."""
        values = (
            answer.key, self.run, answer.role, answer.member, answer.model, answer.candidate, answer.attempt,
            answer.request, answer.text, answer.finish, json.dumps(answer.scores), answer.prompt_tokens,
            answer.completion_tokens, answer.cached_tokens, answer.seconds, time.time(),
        )  # fmt: skip
        await self._write(f"INSERT OR IGNORE INTO calls VALUES ({', '.join('?' * len(values))})", values)

    async def conclude(self, candidate: str, story: dict[str, Any], scope: str = "") -> None:
        """Write a candidate's terminal verdict with its whole story; returns when it is durable.

        `scope` names what the verdict was reached under (recipe, models, prompts, pool).
        """
        record = json.dumps({"scope": scope, "story": story}, ensure_ascii=False)
        await self._write(
            "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)", (self.run, candidate, record, time.time())
        )

    async def fault(self, role: str, model: str, candidate: str, kind: str, message: str) -> None:
        """Note what the infrastructure did; never used as an answer."""
        values = (self.run, role, model, candidate, kind, message, time.time())
        await self._write("INSERT INTO faults VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def story(self, candidate: str, scope: str = "") -> dict[str, Any] | None:
        """A candidate's recorded story, if it has ended under the same `scope`; its calls are recorded in any case."""
        found = self._select("SELECT story FROM verdicts WHERE run = ? AND candidate = ?", (self.run, candidate))
        row = next(found, None)
        record = json.loads(row[0]) if row else {}
        return dict(record["story"]) if record.get("scope") == scope else None

    def last_candidate(self, first: str, end: str) -> str | None:
        """The highest candidate id from `first` to `end` that this run asked anything for."""
        named = "SELECT candidate FROM {} WHERE run = ?1 AND candidate BETWEEN ?2 AND ?3"
        both = f"{named.format('calls')} UNION {named.format('verdicts')}"
        found: str | None = next(self._select(f"SELECT MAX(candidate) FROM ({both})", (self.run, first, end)))[0]
        return found

    def answers(self) -> Iterator[Recorded]:
        """Every answer this run paid for, in the order they were written."""
        yield from map(
            _read,
            self._select(f"SELECT {', '.join(_COLUMNS)} FROM calls WHERE run = ? ORDER BY written, key", (self.run,)),
        )

    def spent(self) -> int:
        """Tokens this run has paid for, prompt and completion, over all its resumes."""
        tokens = "COALESCE(SUM(prompt_tokens + completion_tokens), 0)"
        return int(next(self._select(f"SELECT {tokens} FROM calls WHERE run = ?", (self.run,)))[0])

    def faults(self) -> dict[str, int]:
        """How often the infrastructure failed, by kind."""
        return dict(self._select("SELECT kind, COUNT(*) FROM faults WHERE run = ? GROUP BY kind", (self.run,)))

    def _select(self, query: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._reader.execute(query, values)
        except sqlite3.Error as error:
            raise DataError(_sentence(self.path, error)) from None

    async def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        durable = asyncio.get_running_loop().create_future()
        self._waiting.append((statement, values, durable))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await durable

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await loop.run_in_executor(self._thread, self._commit, batch)
            except Exception as error:  # whatever it is, no writer may wait for ever
                failure = DataError(_sentence(self.path, error)) if isinstance(error, sqlite3.Error) else error
                for _, _, durable in batch:
                    if not durable.done():
                        durable.set_exception(failure)
                continue
            for _, _, durable in batch:
                if not durable.done():
                    durable.set_result(None)

    def _commit(self, batch: list[tuple[str, tuple[Any, ...], asyncio.Future[None]]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for statement, values, _ in batch:
                self._db.execute(statement, values)
            self._db.execute("COMMIT")
        except Exception:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Finish pending commits and close the file."""
        self._thread.shutdown(wait=True)
        self._reader.close()
        self._db.close()


class LedgerReader:
    """A ledger looked at from outside: nothing is written, whoever is writing is not disturbed."""

    def __init__(self, path: Path) -> None:
        """Open the file for reading.

        Raises:
            DataError: when it cannot be opened.
        """
        self.path = path
        # Without a write-ahead log beside it nobody is writing, and none need be made to read.
        how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
        try:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=30)
        except sqlite3.Error as error:
            raise DataError(_sentence(path, error)) from None

    def payments(self) -> dict[str, float]:
        """When each answer was paid for, by its key; the same answer in two ledgers has one time if one is a copy."""
        try:
            return dict(self._db.execute("SELECT key, written FROM calls"))
        except sqlite3.Error as error:
            raise DataError(_sentence(self.path, error)) from None

    def answers(self, keys: Iterable[str]) -> list[Recorded]:
        """The answers of these keys that are there, in the order they were given."""
        query = f"SELECT {', '.join(_COLUMNS)}, written FROM calls WHERE key = ?"
        try:
            rows = [row for key in keys for row in self._db.execute(query, (key,))]
        except sqlite3.Error as error:
            raise DataError(_sentence(self.path, error)) from None
        return [_read(row[:-1]) for row in sorted(rows, key=lambda row: row[-1])]

    def problems(self) -> Iterator[str]:
        """What is wrong with the file: damage that SQLite finds, and answers whose key is not their request's."""
        try:
            for (finding,) in self._db.execute("PRAGMA integrity_check(5)"):
                if finding != "ok":
                    yield f"SQLite finds damage: {' '.join(finding.split())}"
            for key, request in self._db.execute("SELECT key, request FROM calls"):
                if hashlib.sha256(request.encode()).hexdigest() != key:
                    yield f"answer {key[:12]} does not belong to the request recorded with it"
        except sqlite3.Error as error:
            yield f"it cannot be read to its end ({error})"

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _sentence(path: Path, error: sqlite3.Error) -> str:
    """What to tell the user about an SQLite failure, by its code."""
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith("SQLITE_FULL"):
        return f"no space left on the disk of {path}; free some and run the same command again, nothing is lost"
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"the ledger {path} cannot be written; check the folder's rights or choose another with --runs"
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"{path} is damaged or not a ledger; move it away to start this run afresh"
    return f"the ledger {path} failed: {error}; run the same command again, recorded answers are kept"
