"""Read the candidates of a run for the desk: from its lineage when it is finished, else from its ledger.

A source yields the listed facts of candidates, a thousand at a time, and reads a whole record on request. Memory does
not grow with the run.
"""

from __future__ import annotations

import bisect
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gra.core.errors import DataError
from gra.core.stored.release_0_1 import read_rejected_at
from gra.core.types import Candidate
from gra.data.export import lineage_row
from gra.data.lineage import parse_rows
from gra.ledger.reader import LedgerReader

_COLUMNS = (
    "candidate_id", "round", "state", "rejected_at", "reason", "domain", "generator", "disputed", "mean", "std",
    "instruction", "response",
)  # fmt: skip
_BATCH = 1000
_ROUND = "round-"  # how the names of records of whole rounds begin
_SHARE = 10  # a scan of the ledger may take this part of the time between scans


@dataclass(frozen=True, slots=True)
class ListedCandidate:
    """What a list shows and filters of a candidate.

    Attributes:
        place: its position in a lineage.
        reviews: how many reviewers scored the response.
    """

    id: str
    round: int
    state: str
    step: str
    reason: str
    domain: str
    generator: str
    disputed: bool
    mean: float | None
    std: float | None
    instruction: str
    response: str
    place: int = -1
    reviews: int = 0

    @classmethod
    def from_record(cls, record: Mapping[str, Any], place: int = -1, reviews: int = 0) -> ListedCandidate:
        """Read a row of a lineage, or a candidate as a ledger has it."""
        reason = str(record.get("reason") or "")
        step = record["rejected_at"] if "rejected_at" in record else read_rejected_at(reason)
        return cls(
            str(record.get("candidate_id") or record.get("id")),
            int(record.get("round") or 0),
            str(record.get("state") or ""),
            str(step or ""),
            reason,
            str(record.get("domain") or ""),
            str(record.get("generator") or ""),
            bool(record.get("disputed")),
            record.get("mean"),
            record.get("std"),
            str(record.get("instruction") or ""),
            str(record.get("response") or ""),
            place,
            reviews,
        )


class RunSource(Protocol):
    """Where candidates are read from."""

    finished: bool

    def changes(self) -> Iterator[list[ListedCandidate]]:
        """Yield candidates that are new or changed since the last call."""

    def record(self, candidate: str, place: int) -> dict[str, Any]:
        """Return the whole record of a candidate as a lineage has it, nested values parsed."""

    def reviews(self, places: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
        """Return the reviews of candidates; `places` holds their places by id."""

    def stale(self) -> bool:
        """Return whether the candidates should be read anew from another source."""


class LineageSource:
    """The lineage of a finished run."""

    finished = True

    def __init__(self, file: Path) -> None:
        """Open a lineage.

        Raises:
            DataError: the file is damaged, or no lineage.
        """
        self._file = file
        self._version = _version(file)
        try:
            self._parquet = pq.ParquetFile(file)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from None
        names = set(self._parquet.schema_arrow.names)
        if not {"candidate_id", "state", "instruction", "response"} <= names:
            raise DataError(f"{file} is no lineage (its columns are {', '.join(sorted(names))})")
        self._columns = [name for name in _COLUMNS if name in names]
        groups = self._parquet.metadata
        self._ends = list(accumulate(groups.row_group(i).num_rows for i in range(groups.num_row_groups)))
        self._read = False

    def changes(self) -> Iterator[list[ListedCandidate]]:
        """Yield all candidates at the first call, and none later."""
        if self._read:
            return
        place = 0
        try:
            for batch in self._parquet.iter_batches(_BATCH, columns=[*self._columns, "reviews"]):
                rows, reviews = batch.select(self._columns).to_pylist(), _count_reviews(batch)
                yield [ListedCandidate.from_record(row, place + i, reviews[i]) for i, row in enumerate(rows)]
                place += len(rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from None
        self._read = True

    def record(self, candidate: str, place: int) -> dict[str, Any]:
        """Return the whole record of a candidate.

        Raises:
            DataError: the file is damaged.
        """
        group, offset = self._group_of(place)
        try:
            table = self._parquet.read_row_group(group) if 0 <= place < (self._ends or [0])[-1] else None
            rows = table.slice(offset, 1).to_pylist() if table is not None else []
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from None
        if not rows or rows[0]["candidate_id"] != candidate:
            raise DataError(f"{self._file} has {candidate} no longer at its place; load the page again")
        return parse_rows(rows, self._file)[0]

    def reviews(self, places: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
        """Return the reviews of candidates, each part of the file read once.

        Args:
            places: of the candidates, by id.

        Raises:
            DataError: the file is damaged.
        """
        groups: dict[int, list[tuple[str, int]]] = {}
        for name, place in places.items():
            group, offset = self._group_of(place)
            groups.setdefault(group, []).append((name, offset))
        found = {}
        try:
            for group, wanted in groups.items():
                column = self._parquet.read_row_group(group, columns=["reviews"]).column(0)
                found.update({name: json.loads(column[offset].as_py() or "[]") for name, offset in wanted})
        except (pa.ArrowException, OSError, ValueError, IndexError) as error:
            raise self._unreadable(error) from None
        return found

    def _group_of(self, place: int) -> tuple[int, int]:
        """Return the row group of a place, and the place within it."""
        group = bisect.bisect_right(self._ends, place)
        return group, place - (self._ends[group - 1] if group else 0)

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self._file} cannot be read ({error}); see `gra verify {self._file.parent}`")

    def stale(self) -> bool:
        """Return whether another lineage was written."""
        return _version(self._file) != self._version


class LedgerSource:
    """The verdicts of a run that is under way or was stopped, as they come."""

    finished = False

    def __init__(self, ledger: Path, run: str, lineage: Path) -> None:
        """Open the ledger of a run without a lineage.

        Args:
            ledger: the ledger.
            run: the recipe's name.
            lineage: the file that appears when the run is finished.

        Raises:
            DataError: the ledger is damaged.
        """
        self._ledger, self._run, self._lineage = ledger, run, lineage
        reader = LedgerReader(ledger)
        try:
            reader.check_usable()
        finally:
            reader.close()
        self._seen: dict[str, float] = {}
        self._settled: dict[str, list[Any]] = {}
        self._next = 0.0

    def changes(self) -> Iterator[list[ListedCandidate]]:
        """Yield candidates with a verdict that is new or was replaced.

        Raises:
            DataError: a verdict is not what was written.
        """
        if time.monotonic() < self._next:
            return
        began = time.monotonic()
        reader = LedgerReader(self._ledger)
        try:
            times = reader.verdict_times(self._run)
            changed = {name for name, written in times.items() if self._seen.get(name) != written}
            current = self._scopes(reader, times)
            ended = [name for name in changed if name.startswith(_ROUND)]
            for verdict in reader.verdicts_of(self._run, ended):
                self._settled.update(verdict.record.get("settled") or {})
                changed.update(verdict.record.get("settled") or ())
            self._seen.update((name, times[name]) for name in ended)
            new = sorted(name for name in changed.difference(ended) if name in times)
            for start in range(0, len(new), _BATCH):
                names = new[start : start + _BATCH]
                yield [
                    ListedCandidate.from_record(
                        self._final(verdict.record), reviews=len(verdict.record.get("reviews") or ())
                    )
                    for verdict in reader.verdicts_of(self._run, names)
                    if "state" in verdict.record and verdict.scope == current[_round_of(verdict.candidate)]
                ]
                self._seen.update((name, times[name]) for name in names)
        finally:
            reader.close()
        self._next = time.monotonic() + _SHARE * (time.monotonic() - began)

    def _scopes(self, reader: LedgerReader, times: Mapping[str, float]) -> dict[str, str]:
        """Return the scope of the newest verdict of each round; older ones may be of another recipe."""
        newest: dict[str, str] = {}
        for name, written in times.items():
            part = _round_of(name)
            if part not in newest or written > times[newest[part]]:
                newest[part] = name
        found = reader.verdicts_of(self._run, list(newest.values()))
        return {_round_of(verdict.candidate): verdict.scope for verdict in found}

    def _final(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a record with what deduplication and quotas decided, where the round has ended."""
        decided = self._settled.get(str(record.get("id")))
        if decided is None:
            return record
        state, reason, neighbour, similarity, *step = decided
        return {
            **record,
            "state": state,
            "reason": reason or record["reason"],
            "neighbour": neighbour,
            "similarity": similarity,
            "rejected_at": step[0] if step and step[0] else record.get("rejected_at"),
        }

    def record(self, candidate: str, place: int) -> dict[str, Any]:
        """Return the whole record of a candidate.

        Raises:
            DataError: the verdict is not what was written.
        """
        reader = LedgerReader(self._ledger)
        try:
            found = reader.verdicts_of(self._run, [candidate])
        finally:
            reader.close()
        if not found:
            raise DataError(f"{self._ledger} has no verdict on {candidate} any more")
        row = lineage_row(Candidate.from_json(dict(self._final(found[0].record))))
        return parse_rows([row], self._ledger)[0]

    def reviews(self, places: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
        """Return the reviews of candidates.

        Raises:
            DataError: a verdict is not what was written.
        """
        reader = LedgerReader(self._ledger)
        try:
            return {found.candidate: found.record["reviews"] for found in reader.verdicts_of(self._run, list(places))}
        finally:
            reader.close()

    def stale(self) -> bool:
        """Return whether the run has finished."""
        return self._lineage.is_file()


def open_source(run: Path, ledger: Path, name: str) -> RunSource:
    """Open the candidates of a run.

    Raises:
        DataError: the lineage or the ledger is damaged.
    """
    lineage = run / "lineage.parquet"
    return LineageSource(lineage) if lineage.is_file() else LedgerSource(ledger, name, lineage)


def _count_reviews(batch: pa.RecordBatch) -> list[int]:
    """Count reviews without parsing them; inside a text, the quotes of JSON are escaped."""
    if "reviews" not in batch.schema.names:
        return [0] * batch.num_rows
    return [count or 0 for count in pc.count_substring(batch.column("reviews"), '"reviewer":').to_pylist()]


def _round_of(candidate: str) -> str:
    # Of arms that go seed by seed, the part before the first dash is the same for all candidates.
    return candidate.partition("-")[0]


def _version(file: Path) -> tuple[int, int] | None:
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_ino
