"""Test which model is unloaded, as pure logic and on a simulated clock, and the order of an engine's queue."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from gra.engines.broker import EnginePool
from gra.engines.scheduling.prefix_queue import PrefixQueue
from gra.engines.scheduling.swap_policy import IDLE_S, ModelLoad, Swap, choose
from gra.engines.scheduling.swapper import Policy
from gra.engines.types import (
    Call,
    Completion,
    EngineStats,
    ModelId,
    SamplingSettings,
    Text,
    calls_at_once,
)


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    """benchmarks/switching.py."""
    file = ROOT / "benchmarks" / "switching.py"
    spec = importlib.util.spec_from_file_location("switching_benchmark", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def model(name: str, place: str, running: int = 0, waiting: int = 0, **changes: float) -> ModelLoad:
    facts = {"memory_gb": 10.0, "slots": 8, "switch_s": 4.0} | changes
    return ModelLoad(name, place, running=running, waiting=waiting, **facts)  # type: ignore[arg-type]


def test_no_model_moves_while_no_call_waits_for_an_absent_one() -> None:
    assert choose([model("a", "resident", 3, 9), model("b", "out")], 10, 0.0) == Swap("wait")


def test_the_model_with_most_waiting_calls_is_started_where_there_is_room() -> None:
    models = [model("a", "resident"), model("b", "out", waiting=2), model("c", "asleep", waiting=5, asleep_gb=1)]
    assert choose(models, 20, 0.0) == Swap("start", "c")  # its own sleeping place is part of the room


def test_a_fuller_batch_is_left_alone_however_long_others_wait() -> None:
    models = [model("a", "resident", 8, 50, behind_since=0.0), model("b", "out", waiting=900)]
    assert choose(models, 10, 1e6) == Swap("wait")


def test_stragglers_hold_their_model_until_the_empty_places_are_worth_the_switch() -> None:
    models = [model("a", "resident", 2, behind_since=100.0), model("b", "out", waiting=8)]
    # Six of eight places are empty. A swap of 4 s leaves as many empty as 4 * 8 / 6 s of that.
    assert choose(models, 10, 103.0) == Swap("wait", until=pytest.approx(100 + 4 * 8 / 6))
    assert choose(models, 10, 105.4) == Swap("close", "a")
    # More stragglers, more patience.
    more = [model("a", "resident", 6, behind_since=100.0), models[1]]
    assert choose(more, 10, 115.9).until == pytest.approx(116.0)


def test_a_model_that_can_sleep_takes_its_calls_with_it_and_they_count_for_its_return() -> None:
    # Two swaps of 4 s, because paused calls need their model again: 2 * 4 * 8 / (8 - 3) s.
    stragglers = [model("a", "resident", 3, asleep_gb=1.0, behind_since=0.0), model("b", "asleep", waiting=8)]
    assert choose(stragglers, 10, 0.0).until == pytest.approx(12.8)
    models = [model("a", "resident", 2, 1, asleep_gb=1.0, behind_since=0.0), model("b", "asleep", 8, asleep_gb=1.0)]
    assert choose(models, 11, 99.0) == Swap("unload", "a")
    # No call waits for `b`, but eight are paused with it. One alone is no reason to load it at once.
    fuller = [model("a", "resident", 8, asleep_gb=1.0, behind_since=0.0), model("b", "asleep", 1, asleep_gb=1.0)]
    assert choose(fuller, 11, 99.0) == Swap("wait")
    assert choose([model("a", "resident", asleep_gb=1.0), model("b", "asleep", asleep_gb=1.0)], 11, 99.0) == Swap(
        "wait"
    )


def test_closed_model_is_opened_again_when_no_other_is_wanted() -> None:
    assert choose([model("a", "leaving", 1, 3), model("b", "out")], 10, 0.0) == Swap("open", "a")


def test_when_nothing_runs_there_is_nothing_to_wait_for() -> None:
    models = [model("a", "resident", behind_since=100.0), model("b", "out", waiting=1, switch_s=60.0)]
    assert choose(models, 10, 100.1) == Swap("wait", until=100.0 + IDLE_S)
    assert choose(models, 10, 101.0) == Swap("unload", "a")
    busy_elsewhere = [*models, model("c", "resident", 8)]
    assert choose(busy_elsewhere, 20, 101.0) == Swap("wait", until=160.0)  # c's candidates may need `a` again


def test_closed_model_is_unloaded_when_empty_and_reopened_when_fuller() -> None:
    other = model("b", "out", waiting=5)
    assert choose([model("a", "leaving", 1), other], 10, 0.0) == Swap("wait")
    assert choose([model("a", "leaving"), other], 10, 0.0) == Swap("unload", "a")
    assert choose([model("a", "leaving", 1, 7), other], 10, 0.0) == Swap("open", "a")


def test_a_large_model_makes_room_one_by_one_and_a_remote_one_never_gives_way() -> None:
    remote = model("server", "resident", memory_gb=0.0, behind_since=0.0)
    small = [model(name, "resident", behind_since=float(i)) for i, name in enumerate("ab")]
    assert choose([remote, *small, model("big", "out", waiting=3, memory_gb=20.0)], 20, 99.0) == Swap("unload", "a")


def test_a_sleeper_is_ended_only_when_room_cannot_be_made_otherwise() -> None:
    asleep = [model(name, "asleep", asleep_gb=4.0) for name in "ab"]
    wanted = model("c", "out", waiting=1)
    assert choose([*asleep, wanted], 12, 0.0) == Swap("end", "a")
    assert choose([*asleep, wanted], 18, 0.0) == Swap("start", "c")


places = st.sampled_from(["resident", "leaving", "moving", "asleep", "out"])
standings = st.builds(
    ModelLoad, st.uuids().map(str), places, st.floats(1, 10), st.sampled_from([0.0, 0.5]), st.integers(0, 9),
    st.integers(0, 30), st.integers(1, 16), st.floats(0, 60), st.floats(0, 100),
)  # fmt: skip


@given(st.lists(standings, min_size=1, max_size=6), st.floats(10, 40))
def test_no_move_breaks_the_limit_and_every_state_leads_to_a_move(models, limit) -> None:
    models = [m for m in models if m.place != "out" or not m.running]
    move = choose(models, limit, 1e9)
    named = {m.name: m for m in models}.get(move.name)
    if move.kind == "start":
        assert named is not None
        assert named.away
        assert sum(m.held_gb for m in models if m is not named) + named.memory_gb <= limit
    if move.kind == "unload":
        assert named is not None
        assert named.asleep_gb or not named.running
    waits_for_nothing = any(m.away and m.load for m in models) and not any(
        m.place == "moving" or (not m.away and m.running) or (m.place == "resident" and m.waiting) for m in models
    )
    if waits_for_nothing:
        assert move.kind != "wait", "every call would wait without end"


@pytest.mark.slow
def test_on_a_simulated_clock_it_beats_turns_in_a_circle_and_reloading(simulation: ModuleType) -> None:
    def makespan(policy: Policy, sleeps: bool) -> float:
        return float(simulation.simulate(policy, 1, sleeps, 240, 80, simulation.Costs())["makespan_s"])

    ours = makespan(choose, True)
    assert ours < 0.8 * makespan(simulation.RoundRobin(20.0, False), True)
    assert ours < 0.95 * makespan(simulation.after_its_calls(choose), True)  # calls sleep with their model
    assert ours < makespan(choose, False)
    assert ours < 0.5 * makespan(simulation.Reload(), False)


# --- the queue before an engine ---------------------------------------------------------------------------------------


def let_in(prompts: list[str], slots: int, **options: float) -> list[str]:
    order: list[str] = []

    async def scenario() -> None:
        queue = PrefixQueue(slots)

        async def call(prompt: str) -> None:
            async with queue.turn(prompt):
                order.append(prompt)
                await asyncio.sleep(options.get("seconds", 0))

        async with asyncio.timeout(20):
            await asyncio.gather(*map(call, prompts))

    asyncio.run(scenario())
    return order


def test_prompts_that_begin_alike_follow_each_other() -> None:
    prompts = [f"{role} asked about candidate {number}: {part}" for part in "xyz" for number in (1, 2) for role in "AB"]
    order = let_in(prompts, 2)
    assert sorted(order) == sorted(prompts)
    groups = [prompt[:-1] for prompt in order]
    assert sum(a != b for a, b in pairwise(groups)) == 3  # four groups, each in one piece


def test_long_queue_keeps_its_order_although_all_calls_wait_long() -> None:
    prompts = [f"candidate {number:03}: question {part}" for number in range(60) for part in range(6)]
    random.Random(0).shuffle(prompts)
    changes = sum(a[:13] != b[:13] for a, b in pairwise(let_in(prompts, 8)))
    assert changes < 59 + 2 * len(prompts) / 32 + 8, "sixty groups, two changes for each call that goes first"


@given(st.lists(st.text("ab", max_size=6), max_size=40), st.integers(1, 5))
def test_every_call_gets_a_turn_and_never_too_many_at_once(prompts: list[str], slots: int) -> None:
    assert sorted(let_in(prompts, slots)) == sorted(prompts)


def test_a_call_with_a_beginning_of_its_own_is_passed_over_only_so_often() -> None:
    async def scenario() -> int:
        queue, served, ended = PrefixQueue(1), 0, asyncio.Event()

        async def popular() -> None:
            nonlocal served
            while not ended.is_set():
                async with queue.turn(f"the usual beginning {served}"):
                    served += 1
                    await asyncio.sleep(0)

        async def odd() -> None:
            async with queue.turn("zzz"):
                ended.set()

        async with asyncio.timeout(20):
            await asyncio.gather(*(popular() for _ in range(4)), odd())
        return served

    assert asyncio.run(scenario()) < 20


def test_a_caller_that_gives_up_as_the_queue_is_gone_through_leaves_no_place_too_many() -> None:
    async def scenario() -> int:
        queue, inside, most = PrefixQueue(1), 0, 0

        async def caller() -> None:
            nonlocal inside, most
            async with queue.turn("x"):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        given_up = asyncio.create_task(caller())
        await asyncio.sleep(0)  # it has just asked to be let in
        given_up.cancel()
        await asyncio.gather(given_up, *(caller() for _ in range(4)), return_exceptions=True)
        return most

    assert asyncio.run(scenario()) == 1


def test_callers_that_give_up_leave_their_places_to_others() -> None:
    async def scenario() -> int:
        queue, luck, inside, most = PrefixQueue(3), random.Random(0), 0, 0

        async def call(number: int) -> None:
            nonlocal inside, most
            async with queue.turn(f"{number % 5} {number}"):
                inside += 1
                most = max(most, inside)
                try:
                    await asyncio.sleep(0.001)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(call(number)) for number in range(200)]
        for task in tasks:
            if luck.random() < 0.4:
                await asyncio.sleep(0)
                task.cancel()
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks, return_exceptions=True)
            await call(1)
        return most

    assert asyncio.run(scenario()) == 3


# --- at the engine's door ---------------------------------------------------------------------------------------------


class Steps:
    """Compute two calls in a step of 10 ms, and admit new ones between steps, as vLLM does."""

    name, concurrency, memory_gb, step_s = "m", 2, 0.0, 0.01

    def __init__(self, ahead: int) -> None:
        self.ahead, self.stats = ahead, EngineStats()
        self.steps: list[int] = []
        self._door: list[asyncio.Future[None]] = []
        self._working: asyncio.Task[None] | None = None

    async def start(self) -> None:
        pass

    async def unload(self) -> None:
        pass

    async def submit(self, call: Call) -> Completion:
        self._door.append(asyncio.get_running_loop().create_future())
        mine = self._door[-1]
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        await mine
        return Completion("said", "stop", 1, 1)

    async def _work(self) -> None:
        await asyncio.sleep(0)
        while self._door:
            batch, self._door = self._door[: self.concurrency], self._door[self.concurrency :]
            self.steps.append(len(batch))
            await asyncio.sleep(self.step_s)
            for call in batch:
                call.set_result(None)


@pytest.mark.parametrize("ahead", [0, 2])
def test_calls_wait_at_the_door_of_an_engine_and_no_further_than_that(ahead: int) -> None:
    engine = Steps(ahead)
    most = 0

    async def scenario() -> None:
        nonlocal most
        pool, inside = EnginePool({"m": engine}, 1.0), 0

        async def ask(number: int) -> None:
            nonlocal most, inside
            sampling = SamplingSettings(0.0, 1.0, 1.0, 1)
            call = Call(ModelId("m", "m", ""), (("user", str(number)),), Text(), sampling)
            async with pool.turn(call):
                inside += 1
                most = max(most, inside)
                await engine.submit(call)
                inside -= 1

        await asyncio.gather(*map(ask, range(20)))

    asyncio.run(scenario())
    assert most == calls_at_once(engine) == 2 + ahead
    if ahead:
        assert engine.steps == [2] * 10, "every step is full"
