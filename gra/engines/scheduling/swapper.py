"""Keep models in memory: all at once when they fit, otherwise in turns.

A call holds its model while it runs. A model that does not fit waits until the policy of `swap_policy.py` unloads a
resident one. An engine that can sleep is put to sleep with its calls in flight; another one is ended. Callers only
wait. One task, the scheduler, makes the moves, and it runs only while calls wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any

from gra.core.errors import EngineUnavailable
from gra.engines.scheduling.swap_policy import ModelLoad, Residence, Swap, choose, most_wanted
from gra.engines.types import Engine, Sleepable

Policy = Callable[[Sequence[ModelLoad], float, float], Swap]
Turn = Callable[[], AbstractAsyncContextManager[None]]

_MOMENT_S = 0.001
_MOST_LIMITS = 6  # a call is given up after this many limits, also while its engine answers others
# The assumed cost of loading a model before it was measured: from sleep, and from the disk.
_GUESS_S_PER_GB = {"asleep": 0.1, "out": 5.0}


class Clock:
    """Measure the time of one call without the time that its model sleeps; cancel the call at its limit.

    The limit is longer while the engine answers other calls: a slow machine needs time for a long queue.
    """

    def __init__(self, limit: asyncio.Timeout, limit_s: float) -> None:
        """Begin to measure.

        Args:
            limit: ends the call.
            limit_s: seconds without any answer of the engine.
        """
        self.slept_s = 0.0
        self._limit = limit
        self._limit_s = limit_s
        self._begun = asyncio.get_running_loop().time()
        self._stopped = 0.0
        self._ends: float | None = None  # the end of the limit, at the time of the pause

    def postpone(self, now: float) -> None:
        """Begin the limit anew, because the engine works; a call ends after a few limits all the same."""
        if self._limit.when() is not None and not self._limit.expired():
            latest = self._begun + self.slept_s + _MOST_LIMITS * self._limit_s
            self._limit.reschedule(min(now + self._limit_s, latest))

    def pause(self, now: float) -> None:
        """Pause, because the model is put to sleep."""
        self._stopped, self._ends = now, self._limit.when()
        if not self._limit.expired():
            self._limit.reschedule(None)

    def resume(self, now: float) -> None:
        """Resume, because the model is loaded again or cannot be."""
        self.slept_s += now - self._stopped
        if self._ends is not None and not self._limit.expired():
            self._limit.reschedule(self._ends + now - self._stopped)


class Swapper:
    """Start, hold and unload engines within a memory limit (GB)."""

    def __init__(self, engines: Mapping[str, Engine], memory_gb: float, policy: Policy = choose) -> None:
        self._engines = engines
        self._limit = memory_gb
        self._policy = policy
        self._resident: set[str] = set()
        self._leaving: set[str] = set()  # resident, but taking no more calls
        self._moving: set[str] = set()
        self._asleep: set[str] = set()
        self._running: dict[str, int] = defaultdict(int)
        self._waiting: dict[str, int] = defaultdict(int)
        self._behind: dict[str, float] = {}  # Since when a model that is not resident has had the larger batch.
        self._took: dict[tuple[str, str], float] = {}  # Seconds to load a model, by its place, or to "unload" it.
        self._failed: dict[str, Exception] = {}
        self._clocks: dict[str, set[Clock]] = defaultdict(set)  # of calls in flight
        self._postponed: dict[str, float] = {}  # when the limits of a model's calls were last moved
        self._paused: set[str] = set()  # models whose clocks are paused
        self._moves: set[asyncio.Task[None]] = set()
        self._scheduler: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # wakes the scheduler
        self._arrived = {
            name: asyncio.Event() for name in engines
        }  # wakes callers: the model takes calls, or has failed
        self.switches = 0

    @property
    def resident(self) -> frozenset[str]:
        """Return the models in memory now."""
        return frozenset(self._resident)

    @property
    def asleep(self) -> frozenset[str]:
        """Return the models that have freed most of their memory and keep their process."""
        return frozenset(self._asleep)

    def together(self) -> bool:
        """Return whether all models fit at once."""
        return sum(engine.memory_gb for engine in self._engines.values()) <= self._limit

    async def warm(self) -> None:
        """Start every model at once when all of them fit, the most that fit otherwise."""
        chosen: list[str] = []
        for name, engine in sorted(self._engines.items(), key=lambda item: item[1].memory_gb):
            if sum(self._engines[n].memory_gb for n in chosen) + engine.memory_gb <= self._limit:
                chosen.append(name)
        await asyncio.gather(*(self._start_or_raise(name) for name in chosen))

    async def _start_or_raise(self, name: str) -> None:
        await self._start(name)
        if name in self._failed:
            raise self._failed[name]

    @asynccontextmanager
    async def hold(self, name: str, turn: Turn = nullcontext) -> AsyncIterator[None]:
        """Hold a model and a place at its engine for the time of the block.

        The model is started first where it is not resident. One that can sleep may be put to sleep meanwhile, with its
        calls.

        Args:
            name: of the model.
            turn: opens a place at its engine.

        Raises:
            EngineUnavailable: when it does not fit even alone, or cannot be started.
        """
        if self._engines[name].memory_gb > self._limit:
            raise EngineUnavailable(
                f"the model `{name}` needs about {self._engines[name].memory_gb:.1f} GB and {self._limit:.1f} GB are "
                "allowed; raise `engine.memory_gb`, lower `engine.kv_cache_gb`, or choose a smaller model"
            )
        async with AsyncExitStack() as stack:
            await self._enter(name, turn, stack)
            try:
                yield
            finally:
                self._running[name] -= 1
                self._changed.set()

    @asynccontextmanager
    async def clock(self, name: str, limit_s: float) -> AsyncIterator[Clock]:
        """Limit the time of a call to a model that is held, without the time that the model sleeps.

        Args:
            name: of the model.
            limit_s: seconds; `answered` begins them anew.

        Raises:
            TimeoutError: when they are over.
        """
        async with asyncio.timeout(limit_s) as limit:
            clock = Clock(limit, limit_s)
            self._clocks[name].add(clock)
            try:
                yield clock
            finally:
                self._clocks[name].discard(clock)

    def answered(self, name: str, limit_s: float) -> None:
        """Begin the limits of a model's other calls anew: it works.

        Args:
            name: of the model.
            limit_s: seconds; limits are moved once in a tenth of them.
        """
        now = asyncio.get_running_loop().time()
        if now - self._postponed.get(name, -math.inf) >= limit_s / 10:
            self._postponed[name] = now
            for clock in self._clocks[name]:
                clock.postpone(now)

    async def _enter(self, name: str, turn: Turn, stack: AsyncExitStack) -> None:
        self._waiting[name] += 1
        try:
            while True:
                while not self._arrived[name].is_set():
                    self._run_scheduler()
                    await self._arrived[name].wait()
                if name in self._failed:
                    raise self._failed[name]
                await stack.enter_async_context(turn())
                if self._arrived[name].is_set():
                    break
                await stack.aclose()  # it was unloaded while this call was in its queue
            self._running[name] += 1
        finally:
            self._waiting[name] -= 1
            self._changed.set()

    def _run_scheduler(self) -> None:
        """Start the scheduler, which ends when no call waits."""
        self._changed.set()
        if self._scheduler is None or self._scheduler.done():
            self._scheduler = asyncio.create_task(self._make_moves())
            self._scheduler.add_done_callback(self._fail_if_broken)

    def _fail_if_broken(self, scheduler: asyncio.Task[None]) -> None:
        """Fail every waiting call when the scheduler has failed, because no move would follow."""
        error = None if scheduler.cancelled() else scheduler.exception()
        if isinstance(error, Exception):
            self._failed |= dict.fromkeys(self._engines, error)
            for name, arrived in self._arrived.items():
                arrived.set()
                self._resume_clocks(name)

    async def _make_moves(self) -> None:
        """Make the moves of the policy until no call waits for an absent model."""
        while any(self._waiting[n] + self._running[n] and not self._arrived[n].is_set() for n in self._engines):
            self._changed.clear()
            now = asyncio.get_running_loop().time()
            move = self._policy(self._loads(now), self._limit, now)
            match move.kind:
                case "close":
                    self._leaving.add(move.name)
                    self._arrived[move.name].clear()
                case "open":
                    self._leaving.discard(move.name)
                    self._arrived[move.name].set()
                case "start":
                    self._spawn(move.name, self._start(move.name))
                case "unload":
                    self._spawn(move.name, self._unload(move.name))
                case "end":
                    self._spawn(move.name, self._end(move.name))
                case "wait":
                    with contextlib.suppress(TimeoutError):
                        # At least a moment: rounding may leave less than the clock resolves.
                        pause = None if math.isinf(move.until) else max(_MOMENT_S, move.until - now)
                        async with asyncio.timeout(pause):
                            await self._changed.wait()

    def _spawn(self, name: str, move: Coroutine[Any, Any, None]) -> None:
        # Closed at once: no call may enter before the task has begun.
        self._moving.add(name)
        self._arrived[name].clear()
        task = asyncio.create_task(move)
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    def _loads(self, now: float) -> list[ModelLoad]:
        loads = [self._load(name) for name in self._engines]
        wanted = most_wanted(loads)
        for model in loads:
            if model.place == "resident" and wanted is not None and model.batch < wanted.batch:
                self._behind.setdefault(model.name, now)
            else:
                self._behind.pop(model.name, None)
        return [replace(model, behind_since=self._behind.get(model.name, math.inf)) for model in loads]

    def _load(self, name: str) -> ModelLoad:
        engine = self._engines[name]
        asleep_gb = engine.asleep_gb if isinstance(engine, Sleepable) else 0.0
        running, waiting = (0, 0) if name in self._failed else (self._running[name], self._waiting[name])
        return ModelLoad(
            name, self._place(name), engine.memory_gb, asleep_gb, running, waiting, engine.concurrency,
            self._switch_s(name),
        )  # fmt: skip

    def _place(self, name: str) -> Residence:
        if name in self._moving:
            return "moving"
        if name in self._resident:
            return "leaving" if name in self._leaving else "resident"
        return "asleep" if name in self._asleep else "out"

    def _switch_s(self, name: str) -> float:
        """Return the seconds that unloading a model and loading it again took last, or are assumed to take."""
        way = "asleep" if self._sleeps(name) else "out"
        back = self._took.get((name, way), _GUESS_S_PER_GB[way] * self._engines[name].memory_gb)
        return back + self._took.get((name, "unload"), 0.0)

    def _sleeps(self, name: str) -> bool:
        engine = self._engines[name]
        return isinstance(engine, Sleepable) and engine.asleep_gb > 0

    @asynccontextmanager
    async def _move(self, name: str) -> AsyncIterator[None]:
        self._moving.add(name)
        self._arrived[name].clear()
        try:
            yield
        except asyncio.CancelledError:
            self._failed[name] = EngineUnavailable(
                f"the engine of `{name}` was stopped while it was loaded or unloaded"
            )
            raise
        except Exception as error:  # it is raised in the calls that wait for the model
            self._failed[name] = error
        finally:
            self._moving.discard(name)
            if name in self._resident or name in self._failed:
                self._resume_clocks(name)
                self._arrived[name].set()
            self._changed.set()

    async def _start(self, name: str) -> None:
        way, begun = "asleep" if name in self._asleep else "out", asyncio.get_running_loop().time()
        async with self._move(name):
            await self._engines[name].start()
            self._asleep.discard(name)
            self._resident.add(name)
            self._took[name, way] = asyncio.get_running_loop().time() - begun

    def _pause_clocks(self, name: str) -> None:
        self._paused.add(name)
        for clock in self._clocks[name]:
            clock.pause(asyncio.get_running_loop().time())

    def _resume_clocks(self, name: str) -> None:
        if name in self._paused:
            self._paused.discard(name)
            for clock in self._clocks[name]:
                clock.resume(asyncio.get_running_loop().time())

    async def _unload(self, name: str) -> None:
        begun = asyncio.get_running_loop().time()
        async with self._move(name):
            self._resident.discard(name)
            self._leaving.discard(name)
            engine = self._engines[name]
            if isinstance(engine, Sleepable) and self._sleeps(name):
                self._pause_clocks(name)
                await engine.sleep()
                if self._sleeps(name):  # one that could not sleep has ended
                    self._asleep.add(name)
            else:
                await engine.unload()
            self._took[name, "unload"] = asyncio.get_running_loop().time() - begun
            self.switches += 1

    async def _end(self, name: str) -> None:
        async with self._move(name):
            self._asleep.discard(name)
            await self._engines[name].unload()

    async def close(self) -> None:
        """End every engine, also one that is still starting; none starts afterwards."""
        closed: dict[str, Exception] = dict.fromkeys(self._engines, EngineUnavailable("the engines are closed"))
        self._failed = dict(closed)
        started = self._resident | self._moving | self._asleep
        tasks = [task for task in (self._scheduler, *self._moves) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self._engines[name].unload() for name in started))
        self._failed = closed
        self._resident.clear()
        self._asleep.clear()
        for arrived in self._arrived.values():
            arrived.set()
