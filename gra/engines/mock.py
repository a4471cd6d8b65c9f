"""A deterministic engine for tests of logic and benchmarks of our own overhead; never the main job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gra.engines.types import Call, Completion, EngineStats, Fault

Script = Callable[[Call], Completion | Fault]


class MockEngine:
    """Answers by a function of the call, after an optional delay in seconds."""

    def __init__(
        self, name: str, script: Script, *, concurrency: int = 64, memory_gb: float = 1.0, delay_s: float = 0.0
    ) -> None:
        self.name = name
        self.concurrency = concurrency
        self.memory_gb = memory_gb
        self.stats = EngineStats()
        self._script = script
        self._delay = delay_s

    async def start(self) -> None:
        """Nothing to load."""
        self.stats.starts += 1

    async def submit(self, call: Call) -> Completion | Fault:
        """The script's answer."""
        if self._delay:
            await asyncio.sleep(self._delay)
        self.stats.calls += 1
        return self._script(call)

    async def unload(self) -> None:
        """Nothing to give back."""
