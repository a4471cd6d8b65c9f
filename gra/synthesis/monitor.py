"""Monitor the synthesis of datasets, with the same facts for the terminal, `log.jsonl` (events `load`) and W&B.

Of each model it reports its state, calls queued and in flight, tokens a second and their cached share. Of each
arm it reports candidates past each gate, costs and the time left. The monitor also charges each arm an
equal part of the time in which engines are up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gra.core.progress import View, duration
from gra.core.text.plain_text import printable, printable_line
from gra.engines.broker import EnginePool, Tokens
from gra.engines.scheduling.swapper import Swapper
from gra.ledger.budget import GpuTime
from gra.synthesis.context import SynthesisContext

_TICK_S = 1.0
_RATE_OVER_S = 20.0  # tokens are counted when an answer is whole, so a shorter window would jump
_PACE_OVER_S = 300.0
_SAY_EVERY_S = 10.0  # to the log and to W&B
_LINES_EVERY_S = 30.0  # where there is no terminal


@dataclass(frozen=True)
class ModelRates:
    """The load of one model at one moment; rates in tokens a second."""

    queued: int
    in_flight: int
    read_rate: float
    written_rate: float
    cached_share: float
    state: str  # resident | asleep | offloaded | served


@dataclass
class _ArmProgress:
    context: SynthesisContext
    held: GpuTime
    charged: float = 0.0  # GPU-seconds of this process
    # (time, rows accepted, candidates ended)
    pace: deque[tuple[float, int, int]] = field(default_factory=deque)


class Monitor:
    """Measure the engines and the arms that share them, once a second."""

    def __init__(
        self, view: View, arms: int, gpus: float, served: frozenset[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start to measure time.

        Args:
            view: shows the load to a person.
            arms: how many arms will be made.
            gpus: the GPUs held while engines are up; a machine without a GPU counts as one.
            served: the models behind a server or on a cluster.
            clock: returns seconds.
        """
        self._view = view
        self._gpus = gpus
        self._served = served
        self._clock = clock
        self._last = clock()
        self._said = clock()
        self._next_lines = 0.0
        self._board: RenderableType = Text()
        self._early = 0.0  # GPU-seconds of an arm before it joined
        self._awaited = max(1, arms)
        self._arms: list[_ArmProgress] = []
        self._joined = 0
        self._seen: deque[tuple[float, dict[str, Tokens]]] = deque()

    @asynccontextmanager
    async def over(self) -> AsyncIterator[None]:
        """Monitor during the block."""
        looking = asyncio.create_task(self._look())
        if self._view.live:
            self._view.board = lambda: self._board
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()
            if self._clock() - self._said >= _SAY_EVERY_S:
                self._said = self._clock()
                self.say()

    @contextmanager
    def arm(self, context: SynthesisContext, held: GpuTime) -> Iterator[None]:
        """Monitor an arm during the block, and charge it its part of the engines' time."""
        self.tick()
        arm = _ArmProgress(context, held)
        self._arms.append(arm)
        self._joined += 1
        self._charge(arm, self._early)
        try:
            yield
        finally:
            self.tick()
            self.say()
            self._arms.remove(arm)

    def tick(self) -> None:
        """Count the time since the last tick, and record the progress of every arm."""
        now = self._clock()
        seconds, self._last = (now - self._last) * self._gpus, now
        missing = self._awaited - self._joined
        part = seconds / max(1, len(self._arms) + max(0, missing))
        self._early += part if missing > 0 else 0.0
        for arm in self._arms:
            self._charge(arm, part)
            gates = arm.context.gates
            _keep(arm.pace, (now, gates["accepted"], gates["candidates"]), now - _PACE_OVER_S)
        _keep(self._seen, (now, self._tokens()), now - _RATE_OVER_S)
        if self._view.live:  # a thread refreshes the terminal, and must not read values that change
            self._board = self._draw()

    def _charge(self, arm: _ArmProgress, gpu_seconds: float) -> None:
        arm.charged += gpu_seconds
        arm.context.broker.account.gpu_seconds += gpu_seconds

    def _tokens(self) -> dict[str, Tokens]:
        """Return what each model read and wrote for the arms in progress."""
        total: dict[str, Tokens] = {}
        for arm in self._arms:
            for name, paid in arm.context.broker.progress.paid.items():
                sum_ = total.setdefault(name, Tokens())
                sum_.read += paid.read
                sum_.cached += paid.cached
                sum_.written += paid.written
        return total

    def loads(self) -> dict[str, ModelRates]:
        """Return the load of every model."""
        if not self._arms:
            return {}
        pool: EnginePool = self._arms[0].context.broker.pool
        then, before = self._seen[0] if self._seen else (self._last, {})
        seconds = max(self._last - then, 1e-9)
        now = self._tokens()
        found = {}
        for name in pool.engines:
            progress = [arm.context.broker.progress for arm in self._arms]
            in_flight = sum(p.in_flight[name] for p in progress)
            new, old = now.get(name, Tokens()), before.get(name, Tokens())
            found[name] = ModelRates(
                queued=sum(p.asking[name] for p in progress) - in_flight,
                in_flight=in_flight,
                # Tokens of an arm that has ended are no longer counted.
                read_rate=max(0.0, new.read - old.read) / seconds,
                written_rate=max(0.0, new.written - old.written) / seconds,
                cached_share=new.cached / new.read if new.read else 0.0,
                state=self._state(name, pool.swapper),
            )
        return found

    def _state(self, name: str, swapper: Swapper) -> str:
        if name in self._served:
            return "served"
        if name in swapper.resident:
            return "resident"
        return "asleep" if name in swapper.asleep else "offloaded"

    def left_s(self, context: SynthesisContext) -> float | None:
        """Return the seconds until an arm is done at its rate of the last minutes; None while there is no rate."""
        arm = next((arm for arm in self._arms if arm.context is context), None)
        if arm is None or len(arm.pace) < 2:
            return None
        (then, rows, candidates), (now, rows_now, candidates_now) = arm.pace[0], arm.pace[-1]
        estimates = [
            (goal - have) * (now - then) / (have - had)
            for goal, had, have in (
                (context.goal.rows, rows, rows_now),
                (context.goal.candidates, candidates, candidates_now),
            )
            if have > had
        ]
        return max(0.0, min(estimates)) if estimates else None

    def say(self) -> None:
        """Report the load to the log, to W&B, and as lines where there is no terminal."""
        loads = self.loads()
        models = {name: _rounded(load) for name, load in loads.items()}
        for arm in self._arms:
            context, account = arm.context, arm.context.broker.account
            arm.held.write(arm.charged)
            left, spent = self.left_s(context), account.to_json()
            self._view.event(
                "load", arm=context.recipe.name, models=models, gates=dict(context.gates), spent=spent,
                left_s=None if left is None else round(left),
            )  # fmt: skip
            series = _series(models)
            series |= {f"gates/{gate}": count for gate, count in context.gates.items()}
            series |= {f"synthesis/{state}": count for state, count in context.ended.items()}
            series |= {f"spent/{key}": value for key, value in spent.items()}
            context.tracker.log(series | ({} if left is None else {"synthesis/left_s": left}))
        if self._clock() >= self._next_lines:
            self._next_lines = self._clock() + _LINES_EVERY_S
            for name, load in loads.items():
                self._view.line(f"  {name}: {_words(load)}")

    def _draw(self) -> RenderableType:
        """Return what the terminal shows above the bars."""
        table = Table(
            "model", "", "queue", "in flight", "read/s", "written/s", "cached", box=None, padding=(0, 2, 0, 0)
        )
        for name, load in self.loads().items():
            table.add_row(
                Text(printable_line(name)), load.state, str(load.queued), str(load.in_flight), f"{load.read_rate:,.0f}",
                f"{load.written_rate:,.0f}", f"{load.cached_share:.0%}",
            )  # fmt: skip
        return Group(table, *(Text(printable(self._progress(arm.context)), overflow="fold") for arm in self._arms))

    def _progress(self, context: SynthesisContext) -> str:
        account, left = context.broker.account, self.left_s(context)
        gates = " → ".join(f"{count} {gate}" for gate, count in context.gates.items())
        cost = f", {account.usd:,.2f} US dollars" if account.usd else ""
        spent = f"{account.tokens:,} tokens, {account.gpu_hours:.2f} GPU-hours{cost} spent"
        time_left = "" if left is None else f"; about {duration(left)} left"
        return f"{context.recipe.name}: {gates or 'no candidate yet'}; {spent}{time_left}"


def _keep(seen: deque[Any], entry: tuple[Any, ...], since: float) -> None:
    """Append an entry, which begins with its time, and drop entries older than needed."""
    seen.append(entry)
    while len(seen) > 2 and seen[1][0] <= since:
        seen.popleft()


def _rounded(load: ModelRates) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(load).items()}


def _series(models: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the numbers of every model as W&B series; whether it is in memory as 0 or 1."""
    return {
        f"engines/{name}/{key}": float(value in ("resident", "served")) if key == "state" else float(value)
        for name, load in models.items()
        for key, value in load.items()
    }


def _words(load: ModelRates) -> str:
    return (
        f"{load.state}, {load.queued} queued, {load.in_flight} in flight, {load.read_rate:,.0f} tokens/s read "
        f"({load.cached_share:.0%} cached), {load.written_rate:,.0f} written"
    )
