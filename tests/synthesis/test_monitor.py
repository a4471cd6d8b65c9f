"""The live view: what the engines and the arms are at, the same on the screen, in the log and in W&B."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scripted_run import fake_resolve, make_recipe

from gra.config.loader import Loaded
from gra.core.progress import View, read_events
from gra.core.run_folder import RunFolder
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Completion, ModelId, SamplingSettings, Text
from gra.ledger.budget import BudgetAccount, GpuTime
from gra.ledger.ledger import Ledger
from gra.serving.models import ModelRegistry
from gra.synthesis.context import SynthesisContext
from gra.synthesis.job import Job
from gra.synthesis.monitor import Monitor
from gra.tracking import NullTracker

SAMPLING = SamplingSettings(0.7, 1.0, 1.0, 9)


class Series(NullTracker):
    """Keep every event."""

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []

    def log(self, values: Any, step: int | None = None) -> None:
        self.points.append(dict(values))


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(call: Call) -> Completion:
    return Completion(f"Answer {call.sample}", "stop", 100, 20, cached_tokens=25)


def context_on(folder: Path, name: str, pool: EnginePool, view: View) -> SynthesisContext:
    recipe = make_recipe(name=name)
    job = Job(Loaded(recipe, folder / "recipe.yaml", {}), RunFolder(folder), folder / "ledger.sqlite")
    ledger = Ledger(job.ledger, name)
    broker = Broker(ledger, pool, account=BudgetAccount(ledger))
    registry = ModelRegistry(recipe.engine, {"model-a": fake_resolve("model-a")})
    return SynthesisContext(job, registry, broker, ledger, view, Series())


def ask(context: SynthesisContext, sample: int) -> Any:
    question = (("user", f"{context.recipe.name}, number {sample}"),)
    return context.broker.ask(Call(ModelId("model-a", "a", "t"), question, Text(), SAMPLING, sample=sample))


@pytest.fixture
def view(tmp_path: Path) -> View:
    return View(tmp_path / "log.jsonl", quiet=True)


def test_a_load_says_what_is_queued_in_flight_and_how_fast(tmp_path: Path, view: View) -> None:
    clock = Clock()

    async def scenario() -> None:
        engine = MockEngine("model-a", answer, concurrency=3, delay_s=0.02)
        pool = EnginePool({"model-a": engine, "model-b": MockEngine("model-b", answer)}, 1.0)
        await pool.swapper.warm()
        context = context_on(tmp_path, "one", pool, view)
        watch, held = Monitor(view, 1, 1, frozenset(), clock), GpuTime(context.job.ledger, "one")
        with watch.arm(context, held):
            asking = [asyncio.create_task(ask(context, i)) for i in range(8)]
            await asyncio.sleep(0.01)
            load = watch.loads()["model-a"]
            assert (load.in_flight, load.queued, load.state) == (3, 5, "resident")
            assert watch.loads()["model-b"].state == "offloaded"
            await asyncio.gather(*asking)
            clock.now += 10.0
            watch.tick()
            load = watch.loads()["model-a"]
            assert (load.in_flight, load.queued) == (0, 0)
            assert (load.read_rate, load.written_rate, load.cached_share) == (80.0, 16.0, 0.25)
            watch.say()
        context.ledger.close()
        events = [event for event in read_events(tmp_path / "log.jsonl") if event["event"] == "load"]
        assert events[0]["models"]["model-a"] == {
            "queued": 0, "in_flight": 0, "read_rate": 80.0, "written_rate": 16.0, "cached_share": 0.25,
            "state": "resident",
        }  # fmt: skip
        assert events[0]["spent"]["tokens"] == 8 * 120
        assert isinstance(context.tracker, Series)
        point = context.tracker.points[0]
        assert (point["engines/model-a/written_rate"], point["engines/model-b/state"]) == (16.0, 0.0)
        assert point["spent/tokens"] == 960

    asyncio.run(scenario())


def test_sleeping_and_offloaded_models_have_different_states(tmp_path: Path, view: View) -> None:
    class Sleeping(MockEngine):
        asleep_gb = 0.5

        async def sleep(self) -> None:
            """Accept any call."""

    async def scenario() -> None:
        pool = EnginePool({f"model-{name}": Sleeping(f"model-{name}", answer, memory_gb=1.0) for name in "abc"}, 1.5)
        context = context_on(tmp_path, "one", pool, view)
        watch = Monitor(view, 1, 1, frozenset(), Clock())
        with watch.arm(context, GpuTime(context.job.ledger, "one")):
            for name in ("model-a", "model-b"):
                async with pool.swapper.hold(name):
                    pass
            states = {name: load.state for name, load in watch.loads().items()}
            watch.say()
        await pool.swapper.close()
        context.ledger.close()
        assert states == {"model-a": "asleep", "model-b": "resident", "model-c": "offloaded"}
        assert isinstance(context.tracker, Series)
        assert [context.tracker.points[0][f"engines/model-{name}/state"] for name in "abc"] == [0.0, 1.0, 0.0]

    asyncio.run(scenario())


def test_arms_that_share_engines_share_their_time_and_nothing_is_charged_twice(tmp_path: Path, view: View) -> None:
    clock = Clock()
    pool = EnginePool({"model-a": MockEngine("model-a", answer)}, 1.0)
    one, two = (context_on(tmp_path, name, pool, view) for name in ("one", "two"))
    held = {context.recipe.name: GpuTime(context.job.ledger, context.recipe.name) for context in (one, two)}
    watch = Monitor(view, 2, 1, frozenset(), clock)
    clock.now += 60.0  # models are loaded
    first = watch.arm(one, held["one"])
    second = watch.arm(two, held["two"])
    with first:
        with second:
            clock.now += 100.0
        clock.now += 40.0
    spent = [context.broker.account.gpu_seconds for context in (one, two)]
    assert spent == [30.0 + 50.0 + 40.0, 30.0 + 50.0]
    assert sum(spent) == 200.0
    assert GpuTime(one.job.ledger, "one").before() == 120.0
    for context in (one, two):
        context.ledger.close()


def test_time_left_follows_the_pace_of_the_last_minutes(tmp_path: Path, view: View) -> None:
    clock = Clock()
    context = context_on(tmp_path, "one", EnginePool({}, 1.0), view)
    context.goal.rows, context.goal.candidates = 100, 1000
    watch = Monitor(view, 1, 1, frozenset(), clock)
    with watch.arm(context, GpuTime(context.job.ledger, "one")):
        assert watch.left_s(context) is None
        for _ in range(10):
            clock.now += 6.0
            context.gates.update({"accepted": 1, "candidates": 4})
            watch.tick()
        assert watch.left_s(context) == pytest.approx(90 * 6.0)
    context.ledger.close()


def test_a_terminal_shows_the_board_and_the_bars_and_elsewhere_there_are_lines(tmp_path: Path, view: View) -> None:
    pool = EnginePool({"model-a": MockEngine("model-a", answer)}, 1.0)
    shown: dict[bool, str] = {}
    for live in (True, False):
        terminal = io.StringIO()
        screen = View(tmp_path / "other.jsonl")
        screen.console = Console(file=terminal, force_terminal=live, width=140, height=40, highlight=False)
        screen.live = live
        context = context_on(tmp_path, "one", pool, screen)
        watch = Monitor(screen, 1, 1, frozenset({"model-a"}))

        async def scenario(screen: View = screen, watch: Monitor = watch, context: SynthesisContext = context) -> None:
            with screen.bars():
                async with watch.over():
                    with watch.arm(context, GpuTime(context.job.ledger, "one")):
                        await ask(context, 0)
                        context.gates.update({"candidates": 3, "scored": 2})
                        screen.progress("one accepted", 1, 4)
                        watch.tick()
                        await asyncio.sleep(0.6 if screen.live else 0.0)

        asyncio.run(scenario())
        context.ledger.close()
        shown[live] = terminal.getvalue()
    assert "3 candidates → 2 scored" in shown[True]
    assert "in flight" in shown[True]
    assert "one accepted" in shown[True]
    assert "model-a: served, 0 queued, 0 in flight" in shown[False]
    assert "\x1b[" not in shown[False]
