"""The file a ledger is: its tables, its version, and its care (`gra ledger check`, `gra ledger compact`).

A row of `calls` proves itself: its key is the SHA-256 of its request, and `seal` is a checksum of the answer.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gra.core.errors import DataError, Mismatch

SCHEMA_VERSION = 2
_WAIT_S = 30.0
# Accounts are read from an index that holds all they need, so that they never touch the texts.
_TABLES = """
CREATE TABLE calls (
  id INTEGER PRIMARY KEY, run TEXT NOT NULL, key TEXT NOT NULL UNIQUE, role TEXT NOT NULL, member TEXT NOT NULL,
  model TEXT NOT NULL, candidate TEXT NOT NULL, attempt INTEGER NOT NULL, request TEXT NOT NULL, text TEXT NOT NULL,
  finish TEXT NOT NULL, scores TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL, seconds REAL NOT NULL, seal INTEGER NOT NULL, written REAL NOT NULL
);
CREATE INDEX accounts ON calls (
  run, candidate, role, model, prompt_tokens, completion_tokens, cached_tokens
);
CREATE TABLE verdicts (
  run TEXT NOT NULL, candidate TEXT NOT NULL, story TEXT NOT NULL, written REAL NOT NULL,
  PRIMARY KEY (run, candidate)
) WITHOUT ROWID;
CREATE TABLE faults (
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


COLUMNS = (*(column.name for column in fields(Recorded)), "seal")
_KEY, _REQUEST, _SCORES = (COLUMNS.index(name) for name in ("key", "request", "scores"))
_SEALED = slice(COLUMNS.index("text"), COLUMNS.index("seconds"))


def seal(values: tuple[Any, ...]) -> int:
    """A checksum of what a row says was answered: text, finish, scores and token counts."""
    return zlib.crc32("\0".join(map(str, values[_SEALED])).encode())


def row(answer: Recorded) -> tuple[Any, ...]:
    """The values of `COLUMNS` for an answer."""
    values = [getattr(answer, name) for name in COLUMNS[:-1]]
    values[_SCORES] = json.dumps(answer.scores)
    return (*values, seal(tuple(values)))


def read(path: Path, values: tuple[Any, ...]) -> Recorded:
    """The answer in a row of `COLUMNS`.

    Raises:
        DataError: when the row is not what was written.
    """
    if seal(values) != values[-1]:
        raise DataError(_damaged(path))
    named = dict(zip(COLUMNS[:-1], values, strict=False))
    return Recorded(**named | {"scores": json.loads(values[_SCORES])})


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode that waits for other writers."""
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_WAIT_S)


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make an empty file a ledger, bring an older one up to date, and set how it is written.

    Raises:
        DataError: when the file was written by a newer GRA.
    """
    version = usable_version(db, path)
    _write_ahead(db)
    db.execute("PRAGMA synchronous=FULL")
    if version < SCHEMA_VERSION:
        _create(db)


def usable_version(db: sqlite3.Connection, path: Path) -> int:
    """The version of a ledger that this release can go on with; 0 for an empty file.

    Raises:
        DataError: when a newer GRA or another program wrote the file.
    """
    # In one statement: another process may be making the tables.
    version, tables = db.execute(
        "SELECT user_version, (SELECT COUNT(*) FROM sqlite_master) FROM pragma_user_version"
    ).fetchone()
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{path} was written by a newer GRA (ledger version {version}, this one reads up to {SCHEMA_VERSION}) and "
            "was left as it is; update GRA, or start a run under another name"
        )
    if tables and not version:
        raise DataError(f"{path} is a database of another program and was left as it is; name another file")
    return int(version)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switch to WAL mode; SQLite does not wait by itself when another process does the same at this moment."""
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _create(db: sqlite3.Connection) -> None:
    """The tables, with what an older release wrote; in one transaction, so that no other process sees half of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # another process may have been first
        old = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'").fetchone() is not None
        if version < SCHEMA_VERSION:
            if old:
                for table in ("calls", "verdicts", "faults"):
                    db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
            for statement in filter(str.strip, _TABLES.split(";\n")):
                db.execute(statement)
            if old:
                _take_over(db)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _take_over(db: sqlite3.Connection) -> None:
    """What a file of version 1 holds; its answers had no seal."""
    db.create_function("seal", len(COLUMNS) - 1, lambda *values: seal(values), deterministic=True)
    names = ", ".join(COLUMNS[:-1])
    db.execute(
        f"INSERT INTO calls (run, {names}, seal, written) "
        f"SELECT run, {names}, seal({names}), written FROM old_calls ORDER BY written, key"
    )
    for table in ("verdicts", "faults"):
        db.execute(f"INSERT INTO {table} SELECT * FROM old_{table}")
    for table in ("calls", "verdicts", "faults"):
        db.execute(f"DROP TABLE old_{table}")


@dataclass(frozen=True)
class Checked:
    """What a ledger holds; sizes in bytes."""

    runs: dict[str, dict[str, int]]  # answers, verdicts, faults by run
    key_versions: dict[str, int]
    without_request: int
    size: int


def check(path: Path) -> Checked:
    """Read the whole file: its structure, every key, every seal and every verdict.

    Raises:
        DataError: when it is no ledger of this release or cannot be read.
        Mismatch: when a row is not what was written, with the first of them by name.
    """
    with _opened(path) as db:
        found = list(problems(db))
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise Mismatch(f"{path}: {found[0]}{more}; take a copy of the ledger, or move it away and run again")
        runs: dict[str, dict[str, int]] = {}
        for table, name in (("calls", "answers"), ("verdicts", "verdicts"), ("faults", "faults")):
            for run, count in db.execute(f"SELECT run, COUNT(*) FROM {table} GROUP BY run"):
                runs.setdefault(run, {"answers": 0, "verdicts": 0, "faults": 0})[name] = count
        versions: Counter[str] = Counter()
        for (request,) in db.execute("SELECT request FROM calls WHERE request != ''"):
            versions[str(json.loads(request).get("version"))] += 1
        bare = db.execute("SELECT COUNT(*) FROM calls WHERE request = ''").fetchone()[0]
    return Checked(runs, dict(versions), bare, path.stat().st_size)  # with what a killed process had left beside it


def problems(db: sqlite3.Connection) -> Iterator[str]:
    """Read a whole ledger and say what is wrong with it: its structure, every key, every seal and every verdict.

    Nothing is written, so a connection that may only read will do.
    """
    if (version := _version(db)) != SCHEMA_VERSION:
        todo = "`gra ledger check` brings it up to date" if version < SCHEMA_VERSION else "update GRA"
        yield f"it has ledger version {version} and this GRA reads version {SCHEMA_VERSION}; {todo}"
        return
    for (finding,) in db.execute("PRAGMA integrity_check(5)"):
        if finding != "ok":
            yield f"SQLite finds damage: {' '.join(finding.split())}"
    for values in db.execute(f"SELECT {', '.join(COLUMNS)} FROM calls"):
        key, request = values[_KEY], values[_REQUEST]
        if seal(values) != values[-1]:
            yield f"the answer {key[:12]} is not what was written"
        if request and hashlib.sha256(request.encode()).hexdigest() != key:  # a compact ledger has no requests
            yield f"the answer {key[:12]} does not belong to the question recorded with it"
    for run, candidate, story in db.execute("SELECT run, candidate, story FROM verdicts"):
        if not _is_verdict(story):
            yield f"the verdict on {candidate} of `{run}` cannot be read"


def _is_verdict(text: str) -> bool:
    try:
        content = json.loads(text)
        return isinstance(content["story"], dict) and isinstance(content["scope"], str)
    except (ValueError, KeyError, TypeError):
        return False


def compact(path: Path, *, drop_requests: bool = False) -> tuple[int, int]:
    """Check a ledger and give back the space it does not need; its size before and after, in bytes.

    `drop_requests` also removes the texts of the questions. Answers are found by key, so runs resume as
    before; what was asked can then be seen in lineage and prompts only.

    Raises:
        DataError: when it is no ledger of this release, another process writes to it, or the disk is full.
        Mismatch: when it is damaged; nothing is changed then.
    """
    check(path)
    before = path.stat().st_size
    with _opened(path) as db:
        if drop_requests:
            db.execute("UPDATE calls SET request = '' WHERE request != ''")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before, path.stat().st_size


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger of this release, with SQLite's failures turned into sentences."""
    if not path.is_file():
        raise DataError(f"there is no ledger {path}")
    db = connect(path)
    try:
        if _version(db) == 0:
            raise DataError(f"{path} is not a ledger")
        prepare(db, path)
        yield db
    except sqlite3.Error as error:
        raise DataError(sentence(path, error)) from None
    finally:
        db.close()


def _damaged(path: Path) -> str:
    return f"{path} is damaged or not a ledger; move it away to start this run afresh"


def sentence(path: Path, error: sqlite3.Error) -> str:
    """What to tell the user about an SQLite failure, by its code."""
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith("SQLITE_FULL"):
        return f"no space left on the disk of {path}; free some and run the same command again, nothing is lost"
    if code.startswith(("SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_TRUNCATE")):
        return f"the disk of {path} takes no more data (full, over a quota, or failing); run again when it does"
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return (
            f"the ledger {path} cannot be written; check its rights and those of its folder, or choose another with "
            "`ledger` or --runs"
        )
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _damaged(path)
    if code.startswith("SQLITE_BUSY"):
        return (
            f"another process has kept {path} to itself for {_WAIT_S:g} s; run the same command again when it is done"
        )
    return f"the ledger {path} failed: {error}; run the same command again, recorded answers are kept"
