"""The ledger's file: its tables and their version, and the verbs `gra ledger check` and `gra ledger compact`.

Damage shows in every row: the key of an answer is the SHA-256 of its request, and `seal` is a checksum of the
answer. Verdicts have a checksum too, over run, candidate and record.
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
from gra.core.files import refuse_shared
from gra.ledger import decision_rows

SCHEMA_VERSION = 3
_WITHOUT_VERDICT_SEALS = 2  # the version before, which can be read as it is
_WAIT_S = 30.0
_BEGINNING = b"SQLite format 3\0"
# Accounts are read from an index that holds all they need, so that they never touch the texts.
# kept: ledgers of every release have these names; `story` is a candidate with its verdict as JSON.
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
  seal INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (run, candidate)
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


def request_key(request: str) -> str:
    """Return the key of an answer: the SHA-256 of its request as text."""
    return hashlib.sha256(request.encode()).hexdigest()


def seal(values: tuple[Any, ...]) -> int:
    """Compute the checksum of an answer from a row of `COLUMNS`: text, finish, scores and token counts."""
    return _checksum(values[_SEALED])


def seal_verdict(run: str, candidate: str, record: str) -> int:
    """Compute the checksum of a verdict."""
    return _checksum((run, candidate, record))


def _checksum(values: tuple[Any, ...]) -> int:
    # A damaged row may hold bytes that are not UTF-8; `check` reads them as lone surrogates.
    return zlib.crc32("\0".join(map(str, values)).encode("utf-8", "surrogateescape"))


def row(answer: Recorded) -> tuple[Any, ...]:
    """Return the values of `COLUMNS` for an answer."""
    values = [getattr(answer, name) for name in COLUMNS[:-1]]
    values[_SCORES] = json.dumps(answer.scores)
    return (*values, seal(tuple(values)))


def read(path: Path, values: tuple[Any, ...]) -> Recorded:
    """Return the answer in a row of `COLUMNS`.

    Raises:
        DataError: when the row is not what was written.
    """
    if seal(values) != values[-1]:
        raise DataError(_damaged(path))
    named = dict(zip(COLUMNS[:-1], values, strict=False))
    return Recorded(**named | {"scores": json.loads(values[_SCORES])})


def read_verdict(path: Path, run: str, candidate: str, record: str, checksum: int | None) -> tuple[str, dict[str, Any]]:
    """Return the scope and the candidate of a recorded verdict; `checksum` is None in a ledger without seals.

    Raises:
        DataError: when the row is not what was written.
    """
    sound = checksum is None or seal_verdict(run, candidate, record) == checksum
    content = _verdict(record) if sound else None
    if content is None:
        raise DataError(
            f"{path}: the verdict on {candidate} is not what was written (see `gra ledger check {path}`); take a copy "
            "of the ledger, or move it away and run again"
        )
    return content


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection in autocommit mode that waits for other writers.

    Raises:
        DataError: the file, or one that SQLite keeps beside it, is a link, has a second name, or is none.
    """
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))):
        refuse_shared(file)
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_WAIT_S)


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make an empty file a ledger, bring an older one up to date, and set how commits reach the disk.

    Raises:
        DataError: when the file was written by a newer GRA.
    """
    version = usable_version(db, path)
    _write_ahead(db)
    db.execute("PRAGMA synchronous=FULL")
    if version < SCHEMA_VERSION:
        _bring_up_to_date(db)


def usable_version(db: sqlite3.Connection, path: Path) -> int:
    """Return the version of a ledger that this release can use; 0 for an empty file.

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


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Create or convert the tables, in one transaction, so that no other process sees them half done."""
    db.create_function("seal_verdict", 3, seal_verdict, deterministic=True)
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # another process may have been first
        if version == _WITHOUT_VERDICT_SEALS:
            db.execute("ALTER TABLE verdicts ADD COLUMN seal INTEGER NOT NULL DEFAULT 0")
            db.execute("UPDATE verdicts SET seal = seal_verdict(run, candidate, story)")
        elif version < _WITHOUT_VERDICT_SEALS:
            old = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'").fetchone() is not None
            for table in ("calls", "verdicts", "faults") if old else ():
                db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
            for statement in filter(str.strip, _TABLES.split(";\n")):
                db.execute(statement)
            if old:
                _convert_version_1(db)
        if version < SCHEMA_VERSION:
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _convert_version_1(db: sqlite3.Connection) -> None:
    """Copy the rows of version 1, which had no seals."""
    db.create_function("seal", len(COLUMNS) - 1, lambda *values: seal(values), deterministic=True)
    names = ", ".join(COLUMNS[:-1])
    db.execute(
        f"INSERT INTO calls (run, {names}, seal, written) "
        f"SELECT run, {names}, seal({names}), written FROM old_calls ORDER BY written, key"
    )
    db.execute(
        "INSERT INTO verdicts SELECT run, candidate, story, written, seal_verdict(run, candidate, story) "
        "FROM old_verdicts"
    )
    db.execute("INSERT INTO faults SELECT * FROM old_faults")
    for table in ("calls", "verdicts", "faults"):
        db.execute(f"DROP TABLE old_{table}")


@dataclass(frozen=True)
class Checked:
    """Contents of a sound ledger; `size` in bytes."""

    runs: dict[str, dict[str, int]]  # answers, verdicts, faults by run
    key_versions: dict[str, int]
    without_request: int
    size: int


def check(path: Path) -> Checked:
    """Read the whole file: its structure, every key, every seal and every verdict.

    Raises:
        DataError: when it is no ledger of this release or cannot be read.
        Mismatch: when the file is damaged or a row is not what was written, with the first of them by name.
    """
    with _opened(path) as db:
        # Seen before `prepare` writes: sealing a damaged verdict would hide the damage.
        found = list(problems(db))
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise Mismatch(f"{path}: {found[0]}{more}; take a copy of the ledger, or move it away and run again")
        prepare(db, path)
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
    """Read a whole ledger and report its damage: its structure, every key, every seal and every verdict.

    Nothing is written, so a read-only connection is enough. Verdicts of version 2 have no checksum to compare.
    """
    try:
        yield from _problems(db)
    except sqlite3.Error as error:
        if not _is_corrupt(error) and getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
            raise  # such as a lock held by another process, which is no damage
        yield f"it cannot be read to its end ({error})"
    except (TypeError, ValueError, IndexError) as error:  # a damaged schema gives columns of other kinds
        yield f"its tables are not those of a ledger ({error})"


def _problems(db: sqlite3.Connection) -> Iterator[str]:
    db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    version = _version(db)
    if version not in (SCHEMA_VERSION, _WITHOUT_VERDICT_SEALS):
        todo = "`gra ledger check` brings it up to date" if version < SCHEMA_VERSION else "update GRA"
        yield f"it has ledger version {version} and this GRA reads version {SCHEMA_VERSION}; {todo}"
        return
    for (finding,) in db.execute("PRAGMA integrity_check(5)"):
        if finding != "ok":
            yield f"SQLite finds damage: {' '.join(finding.split())}"
    for values in db.execute(f"SELECT {', '.join(COLUMNS)} FROM calls"):
        key, request = values[_KEY], values[_REQUEST]
        if seal(values) != values[-1]:
            yield f"the answer {key!s:.12} is not what was written"
        if (
            request and hashlib.sha256(str(request).encode("utf-8", "surrogateescape")).hexdigest() != key
        ):  # a compact ledger has no requests
            yield f"the answer {key!s:.12} does not belong to the question recorded with it"
    sealed = "seal" if version == SCHEMA_VERSION else "NULL"
    for run, candidate, record, checksum in db.execute(f"SELECT run, candidate, story, {sealed} FROM verdicts"):
        if _verdict(record) is None:
            yield f"the verdict on {candidate} of `{run}` cannot be read"
        elif checksum is not None and seal_verdict(run, candidate, record) != checksum:
            yield f"the verdict on {candidate} of `{run}` is not what was written"
    yield from decision_rows.problems(db)


def _verdict(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return the scope and the candidate of a record; None when it is no record of a verdict."""
    try:
        content = json.loads(text)
        scope, candidate = content["scope"], content["story"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (scope, candidate) if isinstance(scope, str) and isinstance(candidate, dict) else None


def compact(path: Path, *, drop_requests: bool = False) -> tuple[int, int]:
    """Check a ledger and free the space it does not need.

    `drop_requests` also removes the texts of the requests. Answers are found by key, so runs resume as before.

    Returns:
        The size of the file before and after, in bytes.

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
    """Open a ledger of this release or an earlier one, with SQLite's failures turned into sentences."""
    if not path.is_file():
        raise DataError(f"there is no ledger {path}")
    db = connect(path)
    try:
        if _is_no_ledger(db, path):
            raise DataError(f"{path} is not a ledger")
        if usable_version(db, path) < _WITHOUT_VERDICT_SEALS:
            prepare(db, path)
        yield db
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.DatabaseError) and _is_corrupt(error):
            raise Mismatch(f"{path}: {error}; take a copy of the ledger, or move it away and run again") from None
        raise DataError(sentence(path, error)) from None
    finally:
        db.close()


def _is_no_ledger(db: sqlite3.Connection, path: Path) -> bool:
    with path.open("rb") as file:
        begins = file.read(len(_BEGINNING))
    return begins != _BEGINNING or _version(db) == 0


def _is_corrupt(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _damaged(path: Path) -> str:
    return f"{path} is damaged or not a ledger; move it away to start this run afresh"


def sentence(path: Path, error: sqlite3.Error) -> str:
    """Return the sentence for an SQLite failure, by its error code."""
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
    if _is_corrupt(error):
        return _damaged(path)
    if code.startswith("SQLITE_BUSY"):
        return (
            f"another process has kept {path} to itself for {_WAIT_S:g} s; run the same command again when it is done"
        )
    return f"the ledger {path} failed: {error}; run the same command again, recorded answers are kept"
