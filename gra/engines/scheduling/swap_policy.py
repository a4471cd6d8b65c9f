"""Choose which model is unloaded for which: the policy of `swapper.py`, as a pure function of the waiting calls.

A full batch costs an engine little more than one call, so the policy keeps few batch slots empty. Slots are empty in
two cases: a model serves its last few calls while many wait for another one, and during every swap. A resident model
therefore stays as long as no other model has a larger batch. From then on its empty slots are summed over time. It is
unloaded when the sum reaches the empty slots of one swap. When no call runs, it is unloaded after a short idle time.

Calls in flight are paused with a model that can sleep, and resume when it wakes. So no swap waits for the longest of
them. A model that cannot sleep takes no more calls, and is ended when its calls have ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Before a candidate's next call the ledger commits the last answer; such a short pause is not idle time.
IDLE_S = 0.25


Residence = Literal["resident", "leaving", "moving", "asleep", "out"]


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """Describe one model to the policy; sizes in GB, times in seconds on one clock."""

    name: str
    place: Residence
    memory_gb: float  # while it serves
    asleep_gb: float = 0.0  # while it sleeps; 0: it cannot
    running: int = 0  # calls in flight, or paused while it sleeps
    waiting: int = 0
    slots: int = 1  # Calls that it computes at once: the size of a full batch.
    switch_s: float = 0.0  # Seconds to unload it and load it again.
    behind_since: float = math.inf  # Since when a model that is not resident has had the larger batch.

    @property
    def load(self) -> int:
        """Return the number of calls that need it."""
        return self.running + self.waiting

    @property
    def batch(self) -> int:
        """Return the number of calls that it would serve at once if it were resident."""
        return min(self.load, self.slots)

    @property
    def away(self) -> bool:
        """Return whether it is neither in memory nor on the way there."""
        return self.place in ("asleep", "out")

    @property
    def held_gb(self) -> float:
        """Return the memory that it takes now."""
        return {"asleep": self.asleep_gb, "out": 0.0}.get(self.place, self.memory_gb)


@dataclass(frozen=True, slots=True)
class Swap:
    """Name the next move.

    A move can `start` or `unload` a model, `close` it to further calls, or `open` it again. It can `end` the process of
    a sleeping model. `wait` means: do nothing until a call or an engine changes something, or until the time `until`.
    """

    kind: Literal["start", "unload", "close", "open", "end", "wait"]
    name: str = ""
    until: float = math.inf


def most_wanted(models: Sequence[ModelLoad]) -> ModelLoad | None:
    """Return the absent model with the most calls to serve."""
    absent = [m for m in models if m.away and m.load]
    return max(absent, key=lambda m: (m.load, m.name)) if absent else None


def choose(models: Sequence[ModelLoad], limit_gb: float, now: float) -> Swap:
    """Return the next move.

    Args:
        models: All models of the machine.
        limit_gb: The memory that they may take together.
        now: The time, on the clock of `behind_since`.
    """
    wanted = most_wanted(models)
    if wanted is None:
        return next((Swap("open", m.name) for m in models if m.place == "leaving"), Swap("wait"))
    free = limit_gb - sum(m.held_gb for m in models if m is not wanted)
    if wanted.memory_gb <= free:
        return Swap("start", wanted.name)
    if any(m.place == "moving" for m in models):
        return Swap("wait")  # It may free the memory that is needed.
    # A model on a server takes no memory of this machine, and unloading it frees none.
    here = [m for m in models if m.place in ("resident", "leaving") and m.memory_gb > 0]
    if wanted.memory_gb > free + sum(m.memory_gb - m.asleep_gb for m in here):
        asleep = [m for m in models if m.place == "asleep" and m.asleep_gb and m is not wanted]
        if asleep:
            return Swap("end", min(asleep, key=lambda m: (m.load, m.name)).name)
    for leaving in (m for m in here if m.place == "leaving"):
        if leaving.batch >= wanted.batch:
            return Swap("open", leaving.name)
        return Swap("wait") if leaving.running else Swap("unload", leaving.name)
    no_calls = not any(m.running for m in models if not m.away)
    candidates = [(_unload_at(m, wanted, no_calls), m.batch, m.name, m) for m in here if m.batch < wanted.batch]
    if not candidates:
        return Swap("wait")
    at, _, name, resident = min(candidates)
    if at > now:
        return Swap("wait", until=at)
    return Swap("close" if resident.load and not resident.asleep_gb else "unload", name)


def _unload_at(resident: ModelLoad, wanted: ModelLoad, no_calls: bool) -> float:
    """Return the time when the empty slots since `behind_since` equal those of one swap."""
    if no_calls and not resident.waiting:
        return resident.behind_since + IDLE_S
    lost_each_second = wanted.batch - resident.batch
    switches = (
        2 if resident.asleep_gb and resident.running else 1
    )  # paused calls resume only when their model is loaded again
    return resident.behind_since + max(IDLE_S, switches * wanted.switch_s * wanted.batch / lost_each_second)
