"""Engines that only take memory, and time to start and unload."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from gra.core.errors import EngineUnavailable
from gra.engines.scheduling.swap_policy import ModelLoad, Swap, choose
from gra.engines.scheduling.swapper import Swapper
from gra.engines.types import Call, Completion, EngineStats


class Machine:
    """Memory that engines take while they start, serve and unload; more than the limit fails the test."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.taken: dict[str, float] = {}

    def take(self, engine: Loaded) -> None:
        self.taken[engine.name] = engine.memory_gb
        assert sum(self.taken.values()) <= self.limit, f"out of memory: {self.taken}"


class Loaded:
    """An engine that takes a little time to start and to unload."""

    def __init__(
        self,
        name: str,
        memory_gb: float,
        machine: Machine,
        *,
        broken: str = "",
        start_s: float = 0.0,
        asleep_gb: float = 0.0,
        cannot_sleep: bool = False,
    ) -> None:
        self.name, self.memory_gb, self.concurrency = name, memory_gb, 4
        self.stats = EngineStats()
        self.up = False
        self.asleep_gb = asleep_gb
        self.sleeps = 0
        self._machine, self._broken, self._start_s, self._cannot_sleep = machine, broken, start_s, cannot_sleep

    async def start(self) -> None:
        assert not self.up
        self._machine.take(self)
        self.stats.starts += 1
        try:
            await asyncio.sleep(self._start_s)
            if self._broken:
                raise EngineUnavailable(self._broken)
        except BaseException:
            self._machine.taken.pop(self.name, None)
            raise
        self.up = True

    async def submit(self, call: Call) -> Completion:
        raise AssertionError("residency asks nothing")

    async def sleep(self) -> None:
        if self._cannot_sleep:
            self.asleep_gb = 0.0
            await self.unload()
            return
        self.up, self.sleeps = False, self.sleeps + 1
        await asyncio.sleep(0)
        self._machine.taken[self.name] = self.asleep_gb

    async def unload(self) -> None:
        self.up = False
        try:
            await asyncio.sleep(0)
        finally:
            self._machine.taken.pop(self.name, None)


def hasty(models: Sequence[ModelLoad], limit_gb: float, now: float) -> Swap:
    """Return the policy's move an hour later, so that no idle time is waited for."""
    return choose(models, limit_gb, now + 3600)


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    async def guarded() -> Any:
        async with asyncio.timeout(20):  # a deadlock is a failure, not a hanging test
            return await scenario

    return asyncio.run(guarded())


async def use(swapper: Swapper, engines: Mapping[str, Loaded], name: str, seconds: float = 0.0) -> None:
    async with swapper.hold(name):
        assert engines[name].up
        await asyncio.sleep(seconds)
        assert engines[name].up or engines[name].asleep_gb, "only a sleeper may go while a call is in flight"
