"""Which model gives way to which: the policy of `residency.py`, as a pure function of what is waiting where.

A full batch costs an engine little more than one call, so the loss of a bad turn is batch places that stay empty:
by serving a few stragglers while a hundred calls wait for a model that is away, or by switching when there is hardly
anything to serve. A resident model therefore keeps its place while its batch is the fuller one, and gives it up when
the places that staying has left empty since then are worth the switch. When nothing runs there is nothing to wait for.

Calls in flight fall asleep with a model that can sleep, and go on when it wakes: nobody waits for the longest of them.
A model that cannot is ended, and first closed until its calls have ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Between two calls of one story lies a commit of the ledger; a model without a call for less than this is not idle.
LULL_S = 0.25


Residence = Literal["resident", "leaving", "moving", "asleep", "out"]


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """One model as the policy sees it; sizes in GB, times in seconds on one clock."""

    name: str
    place: Residence
    memory_gb: float  # while it serves
    asleep_gb: float = 0.0  # while it sleeps; 0: it cannot
    running: int = 0  # calls in flight, or asleep with it
    waiting: int = 0
    slots: int = 1  # calls it computes at once
    switch_s: float = 0.0  # what parking and bringing it back costs
    behind_since: float = math.inf  # since when its batch has been smaller than what waits for an absent model

    @property
    def load(self) -> int:
        """The calls that it is there for, or is missed by."""
        return self.running + self.waiting

    @property
    def batch(self) -> int:
        """The calls it would serve at once if it were resident."""
        return min(self.load, self.slots)

    @property
    def away(self) -> bool:
        """Neither in memory nor on its way."""
        return self.place in ("asleep", "out")

    @property
    def held_gb(self) -> float:
        """The memory it has now."""
        return {"asleep": self.asleep_gb, "out": 0.0}.get(self.place, self.memory_gb)


@dataclass(frozen=True, slots=True)
class Swap:
    """What to do now: `start` or `park` a model, let it take no more calls (`close`), or again after all (`open`).

    `end`: the process of a sleeping one. `wait`: nothing before a call or an engine changes something, or `until`.
    """

    kind: Literal["start", "unload", "close", "open", "end", "wait"]
    name: str = ""
    until: float = math.inf


def most_wanted(models: Sequence[ModelLoad]) -> ModelLoad | None:
    """The absent model with the most calls to serve."""
    absent = [m for m in models if m.away and m.load]
    return max(absent, key=lambda m: (m.load, m.name)) if absent else None


def choose(models: Sequence[ModelLoad], limit_gb: float, now: float) -> Swap:
    """The next move on a machine with so much memory."""
    wanted = most_wanted(models)
    if wanted is None:
        return next((Swap("open", m.name) for m in models if m.place == "leaving"), Swap("wait"))
    free = limit_gb - sum(m.held_gb for m in models if m is not wanted)
    if wanted.memory_gb <= free:
        return Swap("start", wanted.name)
    if any(m.place == "moving" for m in models):
        return Swap("wait")  # what is on the move may make the room
    # A model behind a server has no weight here, and parking it frees nothing.
    here = [m for m in models if m.place in ("resident", "leaving") and m.memory_gb > 0]
    if wanted.memory_gb > free + sum(m.memory_gb - m.asleep_gb for m in here):
        asleep = [m for m in models if m.place == "asleep" and m.asleep_gb and m is not wanted]
        if asleep:
            return Swap("end", min(asleep, key=lambda m: (m.load, m.name)).name)
    for leaving in (m for m in here if m.place == "leaving"):
        if leaving.batch >= wanted.batch:
            return Swap("open", leaving.name)
        return Swap("wait") if leaving.running else Swap("unload", leaving.name)
    quiet = not any(m.running for m in models if not m.away)
    givers = [(_gives_way_at(m, wanted, quiet), m.batch, m.name, m) for m in here if m.batch < wanted.batch]
    if not givers:
        return Swap("wait")
    at, _, name, giver = min(givers)
    if at > now:
        return Swap("wait", until=at)
    return Swap("close" if giver.load and not giver.asleep_gb else "unload", name)


def _gives_way_at(resident: ModelLoad, wanted: ModelLoad, quiet: bool) -> float:
    """When the places left empty since it fell behind are as many as those that a switch leaves empty."""
    if quiet and not resident.waiting:
        return resident.behind_since + LULL_S
    lost_each_second = wanted.batch - resident.batch
    switches = 2 if resident.asleep_gb and resident.running else 1  # calls that fall asleep have to be come back for
    return resident.behind_since + max(LULL_S, switches * wanted.switch_s * wanted.batch / lost_each_second)
