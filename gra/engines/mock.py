"""Answer calls by a function: for tests of logic, mock runs, and benchmarks of the overhead around engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gra.engines.types import Call, Completion, EngineStats, Fault

Script = Callable[[Call], Completion | Fault]


class MockEngine:
    """Answer by a function of the call, after an optional delay in seconds."""

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
        """Count the start; there is nothing to load."""
        self.stats.starts += 1

    async def submit(self, call: Call) -> Completion | Fault:
        """Return the script's answer."""
        if self._delay:
            await asyncio.sleep(self._delay)
        self.stats.calls += 1
        return self._script(call)

    async def unload(self) -> None:
        """Do nothing; no memory is held."""
