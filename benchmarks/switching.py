"""Simulate a machine whose memory does not hold all models: the policy of GRA against simpler ones.

Run as: python benchmarks/switching.py [--candidates N] [--in-flight N] [--fixed] [--json FILE]
Takes some minutes of one core. The clock and the engines are simulated; the queues, the swapper and its policy are not.

Five 8B models write and review candidates as in the paper. Of five, one, two or three fit at once. Policies:

- gra: The policy in `gra/engines/scheduling/swap_policy.py`. Engines sleep, and their calls in flight are paused.
- gra, calls end first: The same policy, but a model first ends its calls in flight.
- round-robin: The models take turns in a fixed order, with engines that sleep. A turn lasts its time slice, and of
  several slices the best is shown. Calls in flight end first.
- round-robin, drained: The same without time slices. It passes over a model that no call waits for, and a turn ends
  when no call is left.
- round-robin, calls sleep: Time slices, and calls in flight are paused with their model.
- reload: Models are ended and loaded anew. Next is the model of the oldest waiting call, once another has no call left.
- gra, restarts: The policy of GRA where engines cannot sleep (a CPU).
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.core.files import write_json
from gra.engines.broker import EnginePool
from gra.engines.scheduling.swap_policy import ModelLoad, Swap, choose
from gra.engines.scheduling.swapper import Policy, Swapper
from gra.engines.types import Call, Completion, EngineStats, ModelId, SamplingSettings, Text

MODELS = "abcde"
SLICES = (5.0, 10.0, 20.0, 40.0)
# Tokens per second of one sequence, and seconds before the first: an 8B model in bfloat16, bound by memory.
RATE, FIRST = 50.0, 0.1


@dataclass(frozen=True)
class Costs:
    """Set seconds of a swap and GB of an 8B model on a GPU, with vLLM's sleep at level 1."""

    load_s: float = 60.0
    end_s: float = 1.0
    sleep_s: float = 1.5
    wake_s: float = 2.0
    memory_gb: float = 22.5
    asleep_gb: float = 1.5
    slots: int = 64


class SimulatedClock(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next event."""

    def __init__(self) -> None:
        self._now = 0.0
        clock = self

        class Jump(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> Any:
                if timeout is None:
                    raise RuntimeError("every task waits for another one")
                clock._now += timeout
                return super().select(0)

        super().__init__(Jump())

    def time(self) -> float:
        """The simulated time in seconds."""
        return self._now


class Simulated:
    """Take simulated time and count its use; a paused call reads its prompt and answer again."""

    def __init__(self, name: str, costs: Costs, sleeps: bool) -> None:
        self.name, self.concurrency, self.memory_gb = name, costs.slots, costs.memory_gb
        self.asleep_gb = costs.asleep_gb if sleeps else 0.0
        self.stats = EngineStats()
        self.calls_s = 0.0
        self._costs, self._asleep = costs, False
        self._calls: dict[asyncio.Future[None], float] = {}  # when each ends; while asleep: the seconds left
        self._timers: dict[asyncio.Future[None], asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Load, or wake."""
        if self._asleep:
            self.stats.wakes += 1
        else:
            self.stats.starts += 1
        await asyncio.sleep(self._costs.wake_s if self._asleep else self._costs.load_s)
        self._asleep = False
        for call, left in self._calls.items():
            self._serve(call, left + FIRST)

    async def sleep(self) -> None:
        """Keep the process, and the calls in flight."""
        self._asleep = True
        for call, ends in self._calls.items():
            self._calls[call] = ends - asyncio.get_running_loop().time()
            self._timers.pop(call).cancel()
        await asyncio.sleep(self._costs.sleep_s)

    async def unload(self) -> None:
        """End."""
        await asyncio.sleep(self._costs.end_s)
        self._asleep = False

    async def submit(self, call: Call) -> Completion:
        """Take the time that the tokens take."""
        seconds = FIRST + call.sampling.max_tokens / RATE
        self.calls_s += seconds
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._asleep:
            self._calls[done] = seconds
        else:
            self._serve(done, seconds)
        try:
            await done
        finally:
            self._calls.pop(done, None)
            if timer := self._timers.pop(done, None):
                timer.cancel()
        return Completion("", "stop", 0, call.sampling.max_tokens)

    def _serve(self, call: asyncio.Future[None], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._calls[call] = loop.time() + seconds
        self._timers[call] = loop.call_at(self._calls[call], call.set_result, None)


def after_its_calls(policy: Policy) -> Policy:
    """The policy where no call sleeps: a model is closed first, and unloaded when its last call has ended."""

    def drained(models: Sequence[ModelLoad], limit_gb: float, now: float) -> Swap:
        move = policy(models, limit_gb, now)
        running = move.kind == "unload" and next(m for m in models if m.name == move.name).running
        return Swap("close", move.name) if running else move

    return drained


class RoundRobin:
    """Turns in a fixed order; `drained`: by what is in the queues, too; `keeps`: calls sleep with their model."""

    def __init__(self, slice_s: float, drained: bool, keeps: bool = False) -> None:
        self._slice, self._drained, self._keeps = slice_s, drained, keeps
        self._since: dict[str, float] = {}
        self._last = -1

    def __call__(self, models: Sequence[ModelLoad], limit_gb: float, now: float) -> Swap:
        """The next move."""
        for m in models:
            if m.place == "resident":
                self._since.setdefault(m.name, now)
            elif m.place != "leaving":
                self._since.pop(m.name, None)
        order = [models[(self._last + 1 + i) % len(models)] for i in range(len(models))]
        wanted = next((m for m in order if m.away and (m.load or not self._drained)), None)
        none_wanted = not any(m.away and m.load for m in models)
        if wanted is None or none_wanted or any(m.place == "moving" for m in models):
            return Swap("wait")
        if sum(m.held_gb for m in models if m is not wanted) + wanted.memory_gb <= limit_gb:
            self._last = models.index(wanted)
            return Swap("start", wanted.name)
        here = [m for m in models if m.place in ("resident", "leaving")]
        if gone := [m for m in here if m.place == "leaving"]:
            return Swap("unload", gone[0].name) if not gone[0].running else Swap("wait")
        if self._drained and (done := [m for m in here if not m.running and not m.waiting]):
            return Swap("unload", min(done, key=lambda m: self._since[m.name]).name)
        first = min(here, key=lambda m: self._since[m.name])
        until = self._since[first.name] + self._slice
        return Swap("unload" if self._keeps else "close", first.name) if until <= now else Swap("wait", until=until)


class Reload:
    """The model of the oldest waiting call is next."""

    def __init__(self) -> None:
        self._waits_since: dict[str, float] = {}

    def __call__(self, models: Sequence[ModelLoad], limit_gb: float, now: float) -> Swap:
        """The next move."""
        for m in models:
            if m.away and m.waiting:
                self._waits_since.setdefault(m.name, now)
            else:
                self._waits_since.pop(m.name, None)
        if not self._waits_since or any(m.place == "moving" for m in models):
            return Swap("wait")
        name = min(self._waits_since, key=lambda n: self._waits_since[n])
        wanted = next(m for m in models if m.name == name)
        if sum(m.held_gb for m in models if m is not wanted) + wanted.memory_gb <= limit_gb:
            return Swap("start", name)
        idle = [m for m in models if m.place == "resident" and not m.running and not m.waiting]
        return Swap("unload", idle[0].name) if idle else Swap("wait")


class Candidates:
    """The calls of candidates, as in the paper; what is drawn for one is the same under every policy."""

    def __init__(self, pool: EnginePool, fixed: bool) -> None:
        self._pool, self._fixed = pool, fixed

    async def ask(self, model: str, tokens: float, luck: random.Random) -> None:
        """Make one call of about this number of tokens."""
        length = max(1, round(tokens * luck.lognormvariate(-0.125, 0.5)))
        sampling = SamplingSettings(0.7, 0.95, 1.0, length)
        call = Call(ModelId(model, model, ""), (("user", str(luck.random())),), Text(), sampling)
        async with self._pool.turn(call):
            await self._pool.engines[model].submit(call)

    async def run(self, number: int) -> None:
        """Run one candidate to its end."""
        luck = random.Random(number)
        generator, *others = MODELS if self._fixed else luck.sample(MODELS, 5)
        reviewers, adjudicator = others[:3], others[3]
        lucks = {name: random.Random(f"{number} {name}") for name in MODELS}
        await self.ask(generator, 30, luck)  # keywords
        await self.ask(generator, 150, luck)  # instruction
        await asyncio.gather(*(self.ask(r, 10, lucks[r]) for r in reviewers for _ in range(3)))
        if luck.random() < 0.2:
            return
        await self.ask(generator, 400, luck)  # response
        await asyncio.gather(*(self.ask(r, 150, lucks[r]) for r in reviewers))
        if luck.random() < 0.25:
            await self.ask(adjudicator, 150, luck)


def simulate(
    policy: Policy, fit: int, sleeps: bool, candidates: int, in_flight: int, costs: Costs, fixed: bool = False
) -> dict[str, Any]:
    """One run to its end: its makespan and what it was spent on."""

    async def run() -> dict[str, Any]:
        engines = {name: Simulated(name, costs, sleeps) for name in MODELS}
        limit = fit * costs.memory_gb + (len(MODELS) - fit) * costs.asleep_gb * sleeps + 0.1
        pool = EnginePool(engines, limit)
        pool.swapper = Swapper(engines, limit, policy)
        await pool.swapper.warm()
        work, room = Candidates(pool, fixed), asyncio.Semaphore(in_flight)

        async def one(number: int) -> None:
            async with room:
                await work.run(number)

        await asyncio.gather(*(one(number) for number in range(candidates)))
        seconds = asyncio.get_running_loop().time()
        busy = sum(engine.calls_s for engine in engines.values())
        return {
            "makespan_s": seconds, "switches": pool.swapper.switches,
            "starts": sum(engine.stats.starts for engine in engines.values()),
            "batch": busy / seconds / min(fit, len(MODELS)),
        }  # fmt: skip

    return on_simulated_clock(run())


def on_simulated_clock(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine where waiting takes no time."""
    with asyncio.Runner(loop_factory=SimulatedClock) as runner:
        return runner.run(work)


def compare(fit: int, candidates: int, in_flight: int, costs: Costs, fixed: bool) -> dict[str, dict[str, Any]]:
    """Run every policy on the same candidates."""
    rest = (candidates, in_flight, costs, fixed)

    def in_turns(keeps: bool) -> dict[str, Any]:
        turns = {s: simulate(RoundRobin(s, False, keeps), fit, True, *rest) for s in SLICES}
        best = min(turns.values(), key=lambda found: found["makespan_s"])
        return best | {"by_slice": {s: found["makespan_s"] for s, found in turns.items()}}

    return {
        "gra": simulate(choose, fit, True, *rest),
        "gra, calls end first": simulate(after_its_calls(choose), fit, True, *rest),
        "round-robin": in_turns(False),
        "round-robin, drained": simulate(RoundRobin(math.inf, True), fit, True, *rest),
        "round-robin, calls sleep": in_turns(True),
        "gra, restarts": simulate(choose, fit, False, *rest),
        "reload": simulate(Reload(), fit, False, *rest),
    }


def main(
    candidates: int = 400,
    in_flight: Annotated[list[int] | None, typer.Option()] = None,
    fixed: Annotated[
        bool, typer.Option(help="the same roles for all candidates: one model writes, one rarely adjudicates")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Simulate and print one table."""
    costs, rows = Costs(), []
    print("| fit | candidates in flight | policy | makespan s | of gra's | switches | loads | calls at once, a place |")
    print("|---|---|---|---|---|---|---|---|")
    for fit in (1, 2, 3):
        for number in in_flight or [60, 320]:
            found = compare(fit, candidates, number, costs, fixed)
            for policy, row in found.items():
                share = found["gra"]["makespan_s"] / row["makespan_s"]
                rows.append({"fit": fit, "in_flight": number, "policy": policy, "gra_takes": share, **row})
                seconds, switches, starts = f"{row['makespan_s']:,.0f}", row["switches"], row["starts"]
                print(
                    f"| {fit} of 5 | {number} | {policy} | {seconds} | {share:.2f} | {switches} | {starts} | "
                    f"{row['batch']:.0f} |",
                    flush=True,
                )
    if json_file:
        write_json(json_file, {"candidates": candidates, "fixed": fixed, "costs": vars(costs), "rows": rows})


if __name__ == "__main__":
    typer.run(main)
