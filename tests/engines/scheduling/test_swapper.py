"""Test which models are in memory: never more than fit, each in its turn, and failures reach waiting calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded import Loaded, Machine, hasty, run, use

from gra.core.errors import EngineUnavailable
from gra.engines.scheduling.swap_policy import ModelLoad, Swap
from gra.engines.scheduling.swapper import Swapper


def make(limit: float, sizes: dict[str, float], **options: Any) -> tuple[Swapper, dict[str, Loaded]]:
    machine = Machine(limit)
    engines = {name: Loaded(name, size, machine, **options) for name, size in sizes.items()}
    return Swapper(engines, limit, hasty), engines


def test_models_that_fit_are_all_resident_and_never_switched() -> None:
    swapper, engines = make(10, {"a": 4, "b": 6})
    assert swapper.together()

    async def scenario() -> None:
        await swapper.warm()
        await asyncio.gather(*(use(swapper, engines, name) for name in "abababab"))

    run(scenario())
    assert swapper.resident == {"a", "b"}
    assert [engine.stats.starts for engine in engines.values()] == [1, 1]
    assert swapper.switches == 0


def test_two_models_that_do_not_fit_take_turns_a_queue_at_a_time() -> None:
    swapper, engines = make(10, {"a": 6, "b": 6})
    assert not swapper.together()
    run(asyncio.wait_for(_gather(use(swapper, engines, name, 0.001) for name in "ab" * 40), 10))
    assert sum(engine.stats.starts for engine in engines.values()) == 2  # one switch serves forty calls


async def _gather(steps: Any) -> None:
    await asyncio.gather(*steps)


def test_warm_starts_what_fits_and_no_more() -> None:
    swapper, engines = make(10, {"big": 9, "mid": 5, "small": 3})
    run(swapper.warm())
    assert swapper.resident == {"mid", "small"}
    assert engines["big"].stats.starts == 0


def test_no_more_models_are_unloaded_than_needed() -> None:
    swapper, engines = make(10, {"a": 3, "b": 3, "c": 3, "d": 3})

    async def scenario() -> None:
        await asyncio.gather(*(use(swapper, engines, name) for name in "abc"))
        await asyncio.gather(*(use(swapper, engines, "d") for _ in range(20)))

    run(scenario())
    assert swapper.switches == 1
    assert len(swapper.resident) == 3


def test_a_moment_without_a_call_is_not_an_empty_queue() -> None:
    machine = Machine(10)
    engines = {name: Loaded(name, 6, machine) for name in "ab"}
    swapper = Swapper(engines, 10)

    async def busy() -> None:
        for _ in range(10):
            await use(swapper, engines, "a", 0.001)
            await asyncio.sleep(0.002)

    async def scenario() -> None:
        await use(swapper, engines, "a")
        await asyncio.gather(busy(), use(swapper, engines, "b"))

    run(scenario())
    assert engines["a"].stats.starts == 1


def test_a_model_that_cannot_fit_is_refused_with_what_to_do() -> None:
    swapper, engines = make(4, {"big": 9, "small": 1})
    with pytest.raises(EngineUnavailable, match=r"`big` needs about 9\.0 GB and 4\.0 GB are allowed; raise"):
        run(use(swapper, engines, "big"))
    run(use(swapper, engines, "small"))


@pytest.mark.parametrize("limit", [6, 100])
@pytest.mark.parametrize("bad_first", [True, False])
def test_an_engine_that_does_not_start_is_reported_to_all_who_wait(limit: float, bad_first: bool) -> None:
    machine = Machine(limit)
    engines = {
        "good": Loaded("good", 4, machine),
        "bad": Loaded("bad", 4, machine, broken="no weights", start_s=0.01),
        "late": Loaded("late", 4, machine),
    }
    swapper = Swapper(engines, limit)

    # More wait for the broken one than for `late`, which must not wait for it for ever.
    names = ["good", *(["bad"] * 5 + ["late"] * 2 if bad_first else ["late"] * 2 + ["bad"] * 5)]

    async def scenario() -> list[Any]:
        return await asyncio.gather(*(use(swapper, engines, n, 0.001) for n in names), return_exceptions=True)

    ended = run(scenario())
    assert [str(end) for end in ended] == ["no weights" if name == "bad" else "None" for name in names]
    assert all(isinstance(end, EngineUnavailable) for end in ended if end is not None)
    assert engines["bad"].stats.starts == 1
    with pytest.raises(EngineUnavailable, match="no weights"):
        run(use(swapper, engines, "bad"))


def test_callers_that_give_up_do_not_hold_up_the_others() -> None:
    swapper, engines = make(6, {"a": 4, "b": 4, "c": 4})

    async def scenario() -> None:
        async with swapper.hold("a"):
            given_up = [asyncio.create_task(use(swapper, engines, "b")) for _ in range(5)]
            patient = asyncio.create_task(use(swapper, engines, "c"))
            await asyncio.sleep(0.005)
            for task in given_up:
                task.cancel()
        await patient

    run(scenario())
    assert engines["b"].stats.starts == 0


def test_close_unloads_every_model_and_starts_none() -> None:
    machine = Machine(100)
    engines = {name: Loaded(name, 1, machine, start_s=0.01 * i) for i, name in enumerate("abc")}
    swapper = Swapper(engines, 100)

    async def scenario() -> None:
        starting = asyncio.gather(*(use(swapper, engines, name) for name in "abc"), return_exceptions=True)
        await asyncio.sleep(0.005)
        await swapper.close()
        assert machine.taken == {}
        starting.cancel()

    run(scenario())
    with pytest.raises(EngineUnavailable, match="closed"):
        run(use(swapper, engines, "a"))


def test_a_start_is_not_called_off_with_the_call_that_began_it() -> None:
    machine = Machine(1)
    engines = {"a": Loaded("a", 1, machine, start_s=0.01)}
    swapper = Swapper(engines, 1)

    async def scenario() -> None:
        begun = asyncio.create_task(use(swapper, engines, "a"))
        await asyncio.sleep(0.002)
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)
        await use(swapper, engines, "a")

    run(scenario())
    assert engines["a"].stats.starts == 1


def test_engine_that_fails_to_unload_is_reported_and_blocks_no_call() -> None:
    class Stuck(Loaded):
        async def unload(self) -> None:
            raise OSError("no such process")

    machine = Machine(5)
    engines = {"a": Stuck("a", 4, machine), "b": Loaded("b", 1, machine)}
    swapper = Swapper(engines, 4)

    async def scenario() -> None:
        await use(swapper, engines, "a")
        await use(swapper, engines, "b")
        with pytest.raises(OSError, match="no such process"):
            await use(swapper, engines, "a")

    run(scenario())


def test_a_policy_that_breaks_is_reported_to_all_who_wait() -> None:
    def broken(models: Sequence[ModelLoad], limit_gb: float, now: float) -> Swap:
        raise ZeroDivisionError("no idea")

    engines = {name: Loaded(name, 4, Machine(10)) for name in "ab"}
    swapper = Swapper(engines, 10, broken)

    async def scenario() -> list[Any]:
        return await asyncio.gather(*(use(swapper, engines, n) for n in "aab"), return_exceptions=True)

    assert [str(error) for error in run(scenario())] == ["no idea"] * 3


workloads = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 6), min_size=1, max_size=5),
        "spare": st.integers(0, 8),
        "calls": st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)), max_size=60),
        "broken": st.sets(st.integers(0, 4), max_size=2),
        "asleep": st.lists(st.sampled_from([0, 0.5, 1, 3]), min_size=5, max_size=5),
        "seed": st.integers(0, 9999),
    }
)


@settings(max_examples=150)
@given(workloads)
def test_any_workload_ends_within_memory(workload: dict[str, Any]) -> None:
    """Candidates of several calls, models of any size, some broken, canceled calls: all end within the limit."""
    sizes = workload["sizes"]
    machine = Machine(max(sizes) + workload["spare"])
    engines = {
        str(i): Loaded(
            str(i), size, machine, broken="broken" if i in workload["broken"] else "",
            asleep_gb=min(size, workload["asleep"][i]),
        )
        for i, size in enumerate(sizes)
    }  # fmt: skip
    swapper = Swapper(engines, machine.limit, hasty)
    luck = random.Random(workload["seed"])

    async def scenario(first: int, second: int, pause: int) -> None:
        for model in (first, second, first):
            await use(swapper, engines, str(model % len(sizes)), 0.0005 * pause)
            for _ in range(luck.randrange(3)):
                await asyncio.sleep(0)

    async def everything() -> list[Any]:
        tasks = [asyncio.create_task(scenario(*call)) for call in workload["calls"]]
        for task in tasks:
            if luck.random() < 0.1:
                await asyncio.sleep(0)
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for ended in run(everything()):
        assert ended is None or isinstance(ended, asyncio.CancelledError | EngineUnavailable), ended
    assert swapper.resident <= {name for name, engine in engines.items() if engine.up}
    assert sum(machine.taken.values()) <= machine.limit
