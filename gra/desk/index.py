"""An index of a run's candidates in a temporary SQLite file: filters, orders and counts, however many there are.

A thread fills it from a source while the page is already served. Memory stays flat, because texts are in the file.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.text.characters import well_formed
from gra.core.text.plain_text import printable_line
from gra.core.types import HumanDecision, State
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.desk.sources import ListedCandidate

_HEAD = 200  # characters of a text in a list
_TABLES = """
CREATE TABLE rows (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, place INTEGER NOT NULL, state TEXT NOT NULL, step TEXT NOT NULL,
  reason TEXT NOT NULL, domain TEXT NOT NULL, generator TEXT NOT NULL, disputed INTEGER NOT NULL, score REAL, std REAL,
  draw INTEGER NOT NULL, size INTEGER NOT NULL, subject TEXT NOT NULL, reviews INTEGER NOT NULL,
  kinds TEXT, verdict TEXT NOT NULL DEFAULT '', reviewer TEXT NOT NULL DEFAULT ''
);
CREATE TABLE texts (
  number INTEGER PRIMARY KEY, asked TEXT NOT NULL, instruction TEXT NOT NULL, response TEXT NOT NULL, body TEXT NOT NULL
);
CREATE TEMP TABLE matches (n INTEGER PRIMARY KEY);
CREATE INDEX rows_draw ON rows (draw);
CREATE INDEX rows_verdict ON rows (verdict) WHERE verdict != '';
CREATE INDEX rows_kinds ON rows (n) WHERE kinds IS NULL;
"""
_ORDERS = {
    "listed": "n",
    "disagreement": "disputed DESC, std IS NULL, std DESC, n",
    "doubt": "score IS NULL, disputed DESC, reviews, std DESC, score, n",
    "random": "draw",
    "lowest": "score IS NULL, score, n",
    "highest": "score DESC, n",
    "newest": "n DESC",
}
ORDERS = tuple(_ORDERS)
_SHOWN = (
    "rows.id, state, step, reason, domain, generator, disputed, score, std, reviews, instruction, response, size, "
    "kinds, verdict, reviewer"
)


@dataclass(frozen=True)
class Filters:
    """What a list shows.

    Attributes:
        state: a final state; empty for all.
        step: the step that rejected, as `RejectedAt` names it.
        domain: a domain.
        kind: a kind of format constraint.
        text: part of instruction or response, in any case.
        decided: `open`, `decided`, or a verdict of a person.
        disputed: only disputed candidates.
        low: the lowest mean score.
        high: the highest mean score.
    """

    state: str = ""
    step: str = ""
    domain: str = ""
    kind: str = ""
    text: str = ""
    decided: str = ""
    disputed: bool = False
    low: float | None = None
    high: float | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Return an SQL condition and its values."""
        parts, values = ["1"], list[Any]()
        for column, value in (("state", self.state), ("step", self.step), ("domain", self.domain)):
            if value:
                parts.append(f"{column} = ?")
                values.append(value)
        if self.kind:
            parts.append("instr(kinds, ?)")
            values.append(f",{self.kind},")
        if self.decided in ("open", "decided"):
            parts.append("verdict = ''" if self.decided == "open" else "verdict != ''")
        elif self.decided:
            parts.append("verdict = ?")
            values.append(self.decided)
        if self.disputed:
            parts.append("disputed")
        for comparison, bound in ((">=", self.low), ("<=", self.high)):
            if bound is not None:
                parts.append(f"score {comparison} ?")
                values.append(bound)
        if self.text:
            parts.append("n IN matches")  # `CandidateIndex` looks the text up first
        return " AND ".join(parts), values


class CandidateIndex:
    """The listed facts of all candidates; calls may come from any thread."""

    def __init__(self, run: str) -> None:
        """Make an empty index.

        Args:
            run: the recipe's name, which decides the random order.
        """
        self._run = run
        self._folder = tempfile.TemporaryDirectory(prefix="gra-desk-")
        self._lock = threading.RLock()
        self._db = sqlite3.connect(Path(self._folder.name) / "index.sqlite", check_same_thread=False)
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-32768;" + _TABLES)
        self._count = 0
        self._matched = ("", 0)  # the text that `matches` holds, and the state of the index at that time
        self._facets: tuple[int, dict[str, dict[str, int]]] = (-1, {})
        self.changed = 0  # grows with every change, so that a page sees whether it is up to date

    def add(self, candidates: Sequence[ListedCandidate]) -> None:
        """Add candidates, or replace those of the same ids."""
        with self._lock:
            places = self._places(candidates)
            self._db.executemany(
                f"INSERT OR REPLACE INTO rows ({_COLUMNS}) VALUES ({', '.join('?' * len(_COLUMNS.split(',')))})",
                [self._row(candidate, n) for candidate, n in zip(candidates, places, strict=True)],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO texts VALUES (?, ?, ?, ?, ?)",
                [(n, *_texts(candidate)) for candidate, n in zip(candidates, places, strict=True)],
            )
            self._db.commit()
            self.changed += bool(candidates)

    def clear(self) -> None:
        """Forget all candidates."""
        with self._lock:
            self._db.execute("DELETE FROM rows")
            self._db.execute("DELETE FROM texts")
            self._db.commit()
            self._count = 0
            self.changed += 1

    def _places(self, candidates: Sequence[ListedCandidate]) -> list[int]:
        """Return the number of each candidate; new ones get the next numbers."""
        found = []
        for candidate in candidates:
            row = self._db.execute("SELECT n FROM rows WHERE id = ?", (candidate.id,)).fetchone()
            found.append(row[0] if row else self._count)
            self._count += row is None
        return found

    def _row(self, candidate: ListedCandidate, n: int) -> tuple[Any, ...]:
        c = candidate
        size, subject = len(c.instruction) + len(c.response), HumanDecision.subject_of(c.instruction, c.response)
        values = (n, c.id, c.place, c.state, c.step, c.reason, c.domain, c.generator, int(c.disputed), c.mean, c.std)
        return (*values, draw_of(self._run, c.id), size, subject, c.reviews)

    def decide(self, verdicts: Mapping[str, tuple[str, str]]) -> None:
        """Set what people decided, as {candidate: (verdict or "", reviewer)}."""
        with self._lock:
            self._db.executemany(
                "UPDATE rows SET verdict = ?, reviewer = ? WHERE id = ?",
                [(verdict, reviewer, name) for name, (verdict, reviewer) in verdicts.items()],
            )
            self._db.commit()
            self.changed += bool(verdicts)

    def set_kinds(self, kinds: Mapping[str, Iterable[str]]) -> None:
        """Set the kinds of format constraints, by candidate."""
        with self._lock:
            self._db.executemany(
                "UPDATE rows SET kinds = ? WHERE id = ?",
                [(f",{','.join(found)}," if (found := list(each)) else "", name) for name, each in kinds.items()],
            )
            self._db.commit()
            self.changed += bool(kinds)

    def without_kinds(self, count: int) -> list[tuple[str, str]]:
        """Return id and instruction of some candidates whose format constraints were not read yet."""
        with self._lock:
            query = "SELECT id, asked FROM rows JOIN texts ON number = n WHERE kinds IS NULL ORDER BY n LIMIT ?"
            return list(self._db.execute(query, (count,)))

    def listed(self, filters: Filters, order: str, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return one page of a list, and the number of candidates in the whole list."""
        where, values = filters.where()
        # Texts are looked up for the page only.
        chosen = f"SELECT * FROM rows WHERE {where} ORDER BY {_ORDERS[order]} LIMIT ? OFFSET ?"
        with self._lock:
            self._look_up(filters.text)
            cursor = self._db.execute(f"SELECT {_SHOWN} FROM ({chosen}) AS rows JOIN texts ON number = n "
                                      f"ORDER BY {_ORDERS[order]}", (*values, limit, offset))  # fmt: skip
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
            count = self._db.execute(f"SELECT COUNT(*) FROM rows WHERE {where}", values).fetchone()[0]
        return rows, int(count)

    def _look_up(self, text: str) -> None:
        """Find the candidates with a text, once for all pages and orders of their list."""
        wanted = (text, self.changed)
        if text and self._matched != wanted:
            self._db.execute("DELETE FROM matches")
            self._db.execute("INSERT INTO matches SELECT number FROM texts WHERE instr(body, ?)", (text.lower(),))
            self._matched = wanted

    def facets(self) -> dict[str, dict[str, int]]:
        """Return how many candidates have each state, step, domain, format kind and verdict."""
        found: dict[str, dict[str, int]] = {}
        with self._lock:
            if self._facets[0] == self.changed:
                return self._facets[1]
            for name in ("state", "step", "domain", "verdict"):
                query = f"SELECT {name}, COUNT(*) FROM rows GROUP BY {name} ORDER BY COUNT(*) DESC LIMIT 200"
                found[name] = {value: count for value, count in self._db.execute(query) if value}
            kinds: dict[str, int] = {}
            for value, count in self._db.execute("SELECT kinds, COUNT(*) FROM rows WHERE kinds != '' GROUP BY kinds"):
                for kind in value.strip(",").split(","):
                    kinds[kind] = kinds.get(kind, 0) + count
            found["kind"] = kinds
            self._facets = (self.changed, found)
        return found

    def find(self, candidate: str) -> tuple[int, str, str] | None:
        """Return place, state and subject of a candidate; None where there is none of this id."""
        with self._lock:
            query = "SELECT place, state, subject FROM rows WHERE id = ?"
            found: tuple[int, str, str] | None = self._db.execute(query, (candidate,)).fetchone()
            return found

    def drawn(self, state: State, step: str = "") -> list[tuple[str, float | None, str]]:
        """Return id, score and verdict of all candidates of a state (and step), in the random order."""
        query = "SELECT id, score, verdict FROM rows WHERE state = ? AND (? = '' OR step = ?) ORDER BY draw"
        with self._lock:
            return list(self._db.execute(query, (state.value, step, step)))

    def taken(self, accepted_or: RejectedAt) -> int:
        """Return how many candidates people took that are neither accepted nor rejected at this step."""
        query = "SELECT COUNT(*) FROM rows WHERE verdict IN (?, ?) AND state != ? AND step != ?"
        with self._lock:
            found = self._db.execute(query, (HumanVerdict.KEEP, HumanVerdict.EDIT, State.ACCEPTED, accepted_or))
            return int(found.fetchone()[0])

    def standing(self) -> dict[tuple[str, str], int]:
        """Return how many decided candidates have each state and verdict."""
        query = "SELECT state, verdict, COUNT(*) FROM rows WHERE verdict != '' GROUP BY state, verdict"
        with self._lock:
            return {(state, verdict): count for state, verdict, count in self._db.execute(query)}

    def verdicts(self, limit: int) -> dict[str, tuple[int, str]]:
        """Return place and standing verdict of decided candidates."""
        with self._lock:
            query = "SELECT id, place, verdict FROM rows WHERE verdict != '' ORDER BY draw LIMIT ?"
            return {name: (place, verdict) for name, place, verdict in self._db.execute(query, (limit,))}

    def close(self) -> None:
        """Close and delete the index."""
        with self._lock:
            self._db.close()
        with suppress(OSError):
            self._folder.cleanup()


_COLUMNS = "n, id, place, state, step, reason, domain, generator, disputed, score, std, draw, size, subject, reviews"


def _texts(candidate: ListedCandidate) -> tuple[str, ...]:
    c = candidate
    body = f"{c.instruction}\n{c.response}".lower()
    return tuple(map(well_formed, (c.instruction, head(c.instruction), head(c.response), body)))


def head(text: str) -> str:
    """Return the beginning of a text, on one line, as a list shows it."""
    return printable_line(text[: 4 * _HEAD])[:_HEAD]


def draw_of(run: str, candidate: str) -> int:
    """Return a candidate's number in the random order of a run, which depends on nothing but the two names."""
    return int.from_bytes(hashlib.sha256(f"{run}\0{candidate}".encode("utf-8", "replace")).digest()[:7])
