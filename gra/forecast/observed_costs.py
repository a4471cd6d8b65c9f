"""Read from a ledger what each candidate, seed and control item cost: calls, tokens and time.

A run's time is divided among the calls in flight at each moment. The parts add up to the time in which engines were
busy, without pauses between processes. A second division assumes that the engines were always as busy as at
their busiest; it is what a longer run can reach.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gra.core.errors import RecipeError
from gra.core.types import State
from gra.core.vocabulary import WorkKind
from gra.ledger.ledger import ADOPTED
from gra.ledger.reader import LedgerReader, RecordedVerdict
from gra.synthesis.call_names import read_name, round_of

Floats = npt.NDArray[np.float64]
Key = tuple[str, str]  # purpose, model
COLUMNS = ("calls", "read", "cached", "written", "seconds", "full_seconds")
_SET_BACK_S = 5.0  # processes that share a ledger write out of order by less
_FULL = 0.9  # the quantile of calls in flight, over time, that counts as full


@dataclass(frozen=True)
class ObservedCandidates:
    """Candidates that ended, in candidate order: whether each passed all gates, and its round."""

    passed: npt.NDArray[np.bool_]
    round: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ObservedCosts:
    """Costs of the work done, by kind.

    Attributes:
        keys: pairs of purpose and model.
        units: by kind of work, an array of shape (items, keys, `COLUMNS`).
        candidates: how the candidates ended.
        source: where the costs were observed, for a person.
        rest: costs of candidates that did not end, of shape (keys, `COLUMNS`).
        measured: False where lengths, times and rates are assumed.
    """

    keys: tuple[Key, ...]
    units: Mapping[WorkKind, Floats]
    candidates: ObservedCandidates
    source: str
    rest: Floats
    measured: bool = True

    def of(self, kind: WorkKind) -> Floats:
        """Return the costs of one kind of work, of shape (items, keys, `COLUMNS`)."""
        return self.units.get(kind, np.zeros((0, len(self.keys), len(COLUMNS))))


@dataclass(frozen=True)
class _Paid:
    run: str
    candidate: str
    key: Key
    costs: tuple[float, ...]


def runs_of(ledger: Path) -> list[str]:
    """Return the runs that paid for answers in a ledger."""
    reader = LedgerReader(ledger)
    try:
        return sorted({call.run for call in reader.accounts() if not call.run.startswith(ADOPTED)})
    finally:
        reader.close()


def read_costs(ledger: Path, run: str, source: str, duplicates: frozenset[str] = frozenset()) -> ObservedCosts:
    """Read what one run paid for each item of work.

    Args:
        ledger: the file.
        run: the recipe's name; a file with one run is taken to be that run's.
        source: where the costs were observed, for a person.
        duplicates: ids of candidates that the gate accepted and deduplication rejected, where known.

    Raises:
        RecipeError: when the ledger holds no answers of that run.
    """
    reader = LedgerReader(ledger)
    try:
        calls = [call for call in reader.accounts() if not call.run.startswith(ADOPTED)]
        names = sorted({call.run for call in calls})
        if run not in names and len(names) == 1:
            run = names[0]
        if run not in names:
            raise RecipeError(f"{ledger} holds no answers of a run `{run}` (it has: {', '.join(names) or 'none'})")
        verdicts = _states(reader.verdicts(run))
    finally:
        reader.close()
    ended = forward(np.array([call.written for call in calls]))
    began = ended - np.array([call.seconds for call in calls])
    shares, full = divide(began, ended)
    paid = [
        _Paid(call.run, call.candidate, (call.role, call.model), (1, call.read, call.cached, call.wrote, share, least))
        for call, share, least in zip(calls, shares, full, strict=True)
        if call.run == run
    ]
    return _gather(paid, verdicts, duplicates, source)


def _states(records: Sequence[RecordedVerdict]) -> dict[str, str]:
    """Return the state of each candidate, from records in the order of writing.

    Of each round only the newest scope counts: older verdicts belong to another recipe of the same name.
    """
    known = [verdict for verdict in records if read_name(verdict.candidate) is not None]
    newest = {verdict.candidate.partition("-")[0]: verdict.scope for verdict in known}
    return {
        verdict.candidate: str(verdict.record.get("state", ""))
        for verdict in known
        if verdict.scope == newest[verdict.candidate.partition("-")[0]]
    }


def _gather(
    paid: Sequence[_Paid], verdicts: Mapping[str, str], duplicates: frozenset[str], source: str
) -> ObservedCosts:
    keys = tuple(sorted({call.key for call in paid}))
    work: dict[WorkKind, dict[str, Floats]] = defaultdict(dict)
    for call in paid:
        if (known := read_name(call.candidate)) is None:
            continue
        costs = work[known.kind].setdefault(known.item, np.zeros((len(keys), len(COLUMNS))))
        costs[keys.index(call.key)] += call.costs
    candidates = dict(sorted(work.pop(WorkKind.CANDIDATE, {}).items()))
    ended = [name for name in candidates if name in verdicts]
    passed = [verdicts[name] == State.ACCEPTED and name not in duplicates for name in ended]
    units = {kind: np.stack(list(costs.values())) for kind, costs in work.items() if costs}
    if ended:
        units[WorkKind.CANDIDATE] = np.stack([candidates[name] for name in ended])
    rounds = np.array([round_of(name) for name in ended], np.int64)
    unfinished = [costs for name, costs in candidates.items() if name not in verdicts]
    rest = sum(unfinished, np.zeros((len(keys), len(COLUMNS))))
    return ObservedCosts(keys, units, ObservedCandidates(np.array(passed, bool), rounds), source, rest)


def forward(times: Floats) -> Floats:
    """Return times in the order of writing, corrected for a clock that was set back."""
    falls = np.maximum(0.0, -np.diff(times, prepend=times[:1]))
    moved: Floats = times + np.cumsum(np.where(falls > _SET_BACK_S, falls, 0.0))
    return moved


def divide(began: Floats, ended: Floats) -> tuple[Floats, Floats]:
    """Divide time among calls.

    Args:
        began: when each call began, in seconds.
        ended: when each call ended, in seconds.

    Returns:
        Each call's part in seconds, as measured and as if the engines had always been full.
    """
    if not len(began):
        return np.zeros(0), np.zeros(0)
    times = np.unique(np.concatenate([began, ended]))
    steps = np.diff(times)
    inside = np.searchsorted(np.sort(began), times[:-1], "right") - np.searchsorted(np.sort(ended), times[:-1], "right")
    working = inside > 0
    order = np.argsort(inside[working])
    passed = np.cumsum(steps[working][order])
    if not len(passed):
        return np.zeros(len(began)), np.zeros(len(began))
    full = max(1, int(inside[working][order][min(len(passed) - 1, np.searchsorted(passed, _FULL * passed[-1]))]))
    found = []
    for among in (np.maximum(inside, 1), np.maximum(inside, full)):
        clock = np.concatenate([[0.0], np.cumsum(np.where(working, steps / among, 0.0))])
        found.append(clock[np.searchsorted(times, ended)] - clock[np.searchsorted(times, began)])
    return found[0], found[1]
