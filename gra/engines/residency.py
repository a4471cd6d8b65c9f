"""Which models are in memory: all at once when they fit, otherwise in turns.

A call holds its model while it runs. A model that does not fit waits until a resident one has nothing
to do; then that one is parked and the model with the most waiting calls is started. Switching only
when a queue has run dry keeps batches full.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager

from gra.core.errors import EngineUnavailable
from gra.engines.protocol import Engine

# A resident model is parked only after this long without a call: stories take turns between models, and a
# moment without a call is not an empty queue.
_GRACE_S = 2.0


class Residency:
    """Starts, holds and parks engines within a memory limit (GB)."""

    def __init__(self, engines: Mapping[str, Engine], memory_gb: float, grace_s: float = _GRACE_S) -> None:
        self._engines = engines
        self._limit = memory_gb
        self._grace = grace_s
        self._idle_since: dict[str, float] = {}
        self._resident: set[str] = set()
        self._holders: dict[str, int] = defaultdict(int)
        self._waiting: dict[str, int] = defaultdict(int)
        self._changed = asyncio.Event()
        self._moving: set[str] = set()
        self._moves: set[asyncio.Task[None]] = set()
        self._failed: dict[str, EngineUnavailable] = {}
        self.switches = 0

    @property
    def resident(self) -> frozenset[str]:
        """The models in memory now."""
        return frozenset(self._resident)

    def together(self) -> bool:
        """Whether all models fit at once."""
        return sum(engine.memory_gb for engine in self._engines.values()) <= self._limit

    async def warm(self) -> None:
        """Start every model at once when all of them fit, the most that fit otherwise."""
        chosen: list[str] = []
        for name, engine in sorted(self._engines.items(), key=lambda item: item[1].memory_gb):
            if self._used() + sum(self._engines[n].memory_gb for n in chosen) + engine.memory_gb <= self._limit:
                chosen.append(name)
        await asyncio.gather(*(self._start(name) for name in chosen))

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Keep a model resident for the time of the block, starting it first if need be.

        Raises:
            EngineUnavailable: when it does not fit even alone, or cannot be started.
        """
        if self._engines[name].memory_gb > self._limit:
            raise EngineUnavailable(
                f"the model `{name}` needs about {self._engines[name].memory_gb:.1f} GB and {self._limit:.1f} GB are "
                "allowed; raise `engine.memory_gb`, lower `engine.kv_cache_gb`, or choose a smaller model"
            )
        self._waiting[name] += 1
        try:
            while name not in self._resident or name in self._moving:
                await self._make_room(name)
            self._holders[name] += 1
        finally:
            self._waiting[name] -= 1
            if not self._holders[name]:
                self._notify()  # left without it: another model may come first now
        try:
            yield
        finally:
            self._holders[name] -= 1
            if not self._busy(name):
                self._idle_since[name] = time.monotonic()
                self._notify()

    async def _make_room(self, name: str) -> None:
        """One step towards residency: start, park an idle model, or wait for a change."""
        if name in self._failed:
            raise self._failed[name]
        changed = self._changed  # taken before looking, so that no change is missed
        if name in self._moving or self._more_wanted(name):
            await changed.wait()
        elif self._used() + self._engines[name].memory_gb <= self._limit:
            await self._move(name, self._start)
        elif self._moving:
            await changed.wait()  # what is on the move may make the room
        elif idle := [n for n in sorted(self._resident - self._moving) if not self._busy(n) and self._weighs(n)]:
            longest = min(idle, key=lambda n: self._idle_since[n])
            rest = self._idle_since[longest] + self._grace - time.monotonic()
            if rest <= 0:
                await self._move(longest, self._park)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), rest)
        else:
            await changed.wait()

    def _busy(self, name: str) -> bool:
        return self._holders[name] > 0 or self._waiting[name] > 0

    def _weighs(self, name: str) -> bool:
        """Whether parking it frees anything; a model behind a server has no weight here."""
        return self._engines[name].memory_gb > 0

    def _more_wanted(self, name: str) -> bool:
        """Whether another absent model has more calls waiting and should go first."""
        absent = {n for n in self._waiting if n not in self._resident and self._waiting[n] > 0}
        return self._waiting[name] < max((self._waiting[n] for n in absent), default=0)

    def _used(self) -> float:
        return sum(self._engines[name].memory_gb for name in self._resident | self._moving)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _move(self, name: str, move: Callable[[str], Coroutine[None, None, None]]) -> None:
        """Start or park a model; a call that is called off meanwhile does not call that off, half done."""
        self._moving.add(name)
        moving = asyncio.create_task(move(name))
        self._moves.add(moving)
        moving.add_done_callback(self._moves.discard)
        await asyncio.shield(moving)

    async def _start(self, name: str) -> None:
        self._moving.add(name)
        try:
            await self._engines[name].start()
            self._resident.add(name)
            self._idle_since[name] = time.monotonic()
        except EngineUnavailable as error:
            self._failed[name] = error
            raise
        finally:
            self._moving.discard(name)
            self._notify()

    async def _park(self, name: str) -> None:
        self._moving.add(name)
        self._resident.discard(name)
        try:
            await self._engines[name].park()
            self.switches += 1
        finally:
            self._moving.discard(name)
            self._notify()

    async def close(self) -> None:
        """Park everything, what is still starting too; nothing starts any more."""
        self._failed = dict.fromkeys(self._engines, EngineUnavailable("the engines are closed"))
        await asyncio.gather(*(self._engines[name].park() for name in self._resident | self._moving))
        self._resident.clear()
        self._notify()
