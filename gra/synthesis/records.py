"""Candidates whose stories are in the ledger, read anew whenever they are gone through.

A decision needs little of a candidate (`FinishedCandidate`), and so little is kept of it once its story has ended. A run of a
million candidates needs no more memory than its accepted rows take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gra.core.errors import DataError
from gra.core.types import Candidate, State
from gra.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class FinishedCandidate:
    """What dedup and quotas need to know of a candidate."""

    id: str
    index: int
    domain: str
    state: State
    score: float  # what dedup ranks by
    text: str  # what dedup compares; empty unless the gate let the candidate through


@dataclass(frozen=True, slots=True)
class Disposition:
    """What was decided about a candidate beside the others."""

    state: State
    reason: str  # empty: its story's own
    neighbour: str
    similarity: float | None


class CandidateSequence(Protocol):
    """Candidates in order, which can be gone through more than once."""

    def __iter__(self) -> Iterator[Candidate]: ...

    def __len__(self) -> int: ...


class RecordedCandidates:
    """The named candidates in their final states."""

    def __init__(
        self, ledger: Ledger, scope: str, names: Sequence[str], settled: Mapping[str, Disposition] | None = None
    ) -> None:
        self._ledger = ledger
        self._scope = scope
        self._names = names
        self._settled = settled or {}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Candidate]:
        return map(self._read, self._names)

    def accepted(self) -> Iterator[Candidate]:
        """The rows of the dataset, where dedup and quotas have decided about every candidate that passed the gate."""
        return (self._read(name) for name, settled in self._settled.items() if settled.state is State.ACCEPTED)

    def _read(self, name: str) -> Candidate:
        story = self._ledger.candidate_record(name, self._scope)
        if story is None:
            raise DataError(
                f"the verdict on {name} is no longer in {self._ledger.path}: another run that is also called "
                f"`{self._ledger.run}` has written there; give each its own `name` and run again"
            )
        told = Candidate.from_json(story)
        settled = self._settled.get(name)
        if settled is None:
            return told
        return replace(
            told,
            state=settled.state,
            reason=settled.reason or told.reason,
            neighbour=settled.neighbour,
            similarity=settled.similarity,
        )


class ConcatenatedCandidates:
    """Several stretches of candidates, one after another."""

    def __init__(self, parts: Sequence[CandidateSequence]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Candidate]:
        for part in self._parts:
            yield from part
