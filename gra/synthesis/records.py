"""Read candidates from the ledger each time they are needed.

Decisions about a round need little of a candidate (`FinishedCandidate`), and only that stays in memory. So a run of a
million candidates takes the memory of its accepted rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Protocol

from gra.core.errors import DataError
from gra.core.stored.release_0_1 import read_rejected_at
from gra.core.types import Candidate, State
from gra.core.vocabulary import RejectedAt
from gra.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class FinishedCandidate:
    """What deduplication and quotas need of a candidate.

    Attributes:
        score: deduplication ranks by it (0-10).
        text: deduplication compares it; empty unless the gate accepted the candidate.
    """

    id: str
    index: int
    domain: str
    state: State
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Disposition:
    """What deduplication and quotas decided about an accepted candidate.

    Attributes:
        reason: empty where the candidate's own reason stands.
        neighbour: the id of the most similar sample, where it was looked for.
        similarity: cosine similarity to that sample.
    """

    state: State
    reason: str
    neighbour: str
    similarity: float | None
    rejected_at: RejectedAt | None = None

    def to_json(self) -> list[Any]:
        """Return plain JSON values for the ledger."""
        return list(astuple(self))

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Disposition:
        """Read the values of `to_json`; release 0.1 recorded the first four."""
        state, reason, neighbour, similarity, *more = values
        step = RejectedAt(more[0]) if more and more[0] else None
        return cls(State(state), reason, neighbour, similarity, step if more else read_rejected_at(reason))


class CandidateSequence(Protocol):
    """Candidates in order, which can be iterated more than once."""

    def __iter__(self) -> Iterator[Candidate]: ...

    def __len__(self) -> int: ...


class RecordedCandidates:
    """The named candidates in their final states, read from a ledger."""

    def __init__(
        self, ledger: Ledger, scope: str, names: Sequence[str], dispositions: Mapping[str, Disposition] | None = None
    ) -> None:
        self._ledger = ledger
        self._scope = scope
        self._names = names
        self._dispositions = dispositions or {}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Candidate]:
        return map(self._read, self._names)

    def accepted(self) -> Iterator[Candidate]:
        """Iterate over the rows of the dataset, of a round that deduplication and quotas have decided."""
        kept = (name for name, decided in self._dispositions.items() if decided.state is State.ACCEPTED)
        return map(self._read, kept)

    def _read(self, name: str) -> Candidate:
        record = self._ledger.candidate_record(name, self._scope)
        if record is None:
            raise DataError(
                f"the verdict on {name} is no longer in {self._ledger.path}: another run that is also called "
                f"`{self._ledger.run}` has written there; give each its own `name` and run again"
            )
        candidate = Candidate.from_json(record)
        decided = self._dispositions.get(name)
        if decided is None:
            return candidate
        return replace(
            candidate,
            state=decided.state,
            reason=decided.reason or candidate.reason,
            neighbour=decided.neighbour,
            similarity=decided.similarity,
            rejected_at=decided.rejected_at or candidate.rejected_at,
        )


class ConcatenatedCandidates:
    """Several sequences of candidates, one after another."""

    def __init__(self, parts: Sequence[CandidateSequence]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Candidate]:
        for part in self._parts:
            yield from part
