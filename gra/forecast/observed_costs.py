"""What a ledger tells about costs: calls, tokens and time of every candidate, seed and planted pair that was worked on.

The time of a run is divided among the calls in flight at each moment, so that the parts add up to the time the engines
were asked at all, pauses between processes left out. A second division, as if the engines had always been as full as
they were most of the time, says what a longer run can hope for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gra.core.errors import RecipeError
from gra.core.types import State
from gra.ledger.reader import LedgerReader, RecordedVerdict

Floats = npt.NDArray[np.float64]
Key = tuple[str, str]  # role, model
COLUMNS = ("calls", "read", "cached", "written", "seconds", "full_seconds")
_SET_BACK_S = 5.0  # processes that share a ledger write out of turn by less
_FULL = 0.9  # the quantile of calls in flight, over time, that counts as full
# What was worked on, by the name its calls bear.
_KINDS = (
    ("candidate", re.compile(r"r\d+-\d{6}")),
    ("pair", re.compile(r"probe-(?:good|bad|check)-(?P<name>.+)")),
    ("row", re.compile(r"enrich-r\d+-\d{6}")),
    ("seed", re.compile(r"(?:enrich|domain)-(?P<name>.+)")),
    ("answer", re.compile(r"(?:refined|distilled)-.+")),
)


@dataclass(frozen=True)
class ObservedCandidates:
    """Candidates that ended, in candidate order: whether each passed all gates, and the round it is of."""

    passed: npt.NDArray[np.bool_]
    round: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ObservedCosts:
    """Costs of things worked on, by kind: arrays of things x (role, model) x `COLUMNS`."""

    keys: tuple[Key, ...]
    units: Mapping[str, Floats]
    candidates: ObservedCandidates
    source: str
    rest: Floats  # what was paid for candidates that were left half told; (role, model) x `COLUMNS`
    sure: bool = True  # False: assumed, not measured

    def of(self, kind: str) -> Floats:
        """The costs of one kind of thing; empty when there are none."""
        return self.units.get(kind, np.zeros((0, len(self.keys), len(COLUMNS))))


@dataclass(frozen=True)
class _Paid:
    run: str
    candidate: str
    key: Key
    costs: tuple[float, ...]


def kind_of(candidate: str) -> tuple[str, str] | None:
    """The kind of thing that calls under this name are for, and the thing's own name; None for none that is known."""
    for kind, pattern in _KINDS:
        if found := pattern.fullmatch(candidate):
            return kind, found.groupdict().get("name", candidate)
    return None


def runs_of(ledger: Path) -> list[str]:
    """The runs that paid for answers in a ledger."""
    reader = LedgerReader(ledger)
    try:
        return sorted({call.run for call in reader.accounts()})
    finally:
        reader.close()


def read_evidence(ledger: Path, run: str, source: str, duplicates: frozenset[str] = frozenset()) -> ObservedCosts:
    """What one run paid, thing by thing.

    Args:
        ledger: the file.
        run: the recipe's name; with only one run in the file, that one is taken.
        source: how the evidence is called.
        duplicates: candidates that passed the gate and were duplicates, as far as that is known.

    Raises:
        RecipeError: when the ledger holds no answers of that run.
    """
    reader = LedgerReader(ledger)
    try:
        calls = list(reader.accounts())
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
    """How each thing ended, of the records in the order they were written.

    What an earlier recipe of the same name left in a round and nobody told again is no verdict any more.
    """
    known = [verdict for verdict in records if kind_of(verdict.candidate) is not None]
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
    things: dict[str, dict[str, Floats]] = defaultdict(dict)
    for call in paid:
        if (known := kind_of(call.candidate)) is None:
            continue
        kind, name = known
        costs = things[kind].setdefault(name, np.zeros((len(keys), len(COLUMNS))))
        costs[keys.index(call.key)] += call.costs
    told = {n: c for n, c in sorted(things.pop("candidate", {}).items())}
    ended = [name for name in told if name in verdicts]
    passed = [verdicts[name] == State.ACCEPTED and name not in duplicates for name in ended]
    units = {kind: np.stack(list(costs.values())) for kind, costs in things.items() if costs}
    if ended:
        units["candidate"] = np.stack([told[name] for name in ended])
    rounds = np.array([int(name[1:].split("-")[0]) for name in ended], np.int64)
    candidates = ObservedCandidates(np.array(passed, bool), rounds)
    rest = sum((costs for name, costs in told.items() if name not in verdicts), np.zeros((len(keys), len(COLUMNS))))
    return ObservedCosts(keys, units, candidates, source, rest)


def forward(times: Floats) -> Floats:
    """Times in the order in which they were taken, as if the clock had never been set back."""
    falls = np.maximum(0.0, -np.diff(times, prepend=times[:1]))
    moved: Floats = times + np.cumsum(np.where(falls > _SET_BACK_S, falls, 0.0))
    return moved


def divide(began: Floats, ended: Floats) -> tuple[Floats, Floats]:
    """Each call's part of the time, in seconds: as it was, and as if the engines had been full all the time."""
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
