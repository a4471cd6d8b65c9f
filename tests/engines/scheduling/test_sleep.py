"""Models that sleep while others have their turn, and calls that sleep with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from loaded import Loaded, Machine, hasty, run, use

from gra.engines.scheduling.swapper import Swapper


def test_models_that_can_sleep_keep_their_process_and_close_ends_it() -> None:
    machine = Machine(10)
    engines = {name: Loaded(name, 6, machine, asleep_gb=1) for name in "abc"}
    swapper = Swapper(engines, 10)

    async def scenario() -> None:
        for name in "abcab":
            await use(swapper, engines, name)
        assert machine.taken == {"a": 1, "b": 6, "c": 1}
        await swapper.close()

    run(scenario())
    assert sum(engine.sleeps for engine in engines.values()) == 4
    assert machine.taken == {}


class Dozing(Loaded):
    """Calls in flight do not end while it is away."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.awake = asyncio.Event()

    async def start(self) -> None:
        await super().start()
        self.awake.set()

    async def sleep(self) -> None:
        self.awake.clear()
        await super().sleep()

    async def serve(self, steps: int) -> None:
        while steps:
            await self.awake.wait()
            await asyncio.sleep(0.001)
            steps -= self.awake.is_set()


def test_calls_in_flight_sleep_with_their_model_and_it_comes_back_for_them() -> None:
    machine = Machine(10)
    engines = {name: Dozing(name, 6, machine, asleep_gb=1) for name in "ab"}
    swapper = Swapper(engines, 10, hasty)
    ended: list[str] = []

    async def scenario(name: str, steps: int) -> None:
        async with swapper.hold(name), swapper.clock(name, 5):
            await engines[name].serve(steps)
        ended.append(f"{name}{steps}")

    async def both() -> None:
        long = asyncio.create_task(scenario("a", 300))
        await asyncio.sleep(0.02)
        await asyncio.gather(*(scenario("b", 10) for _ in range(4)))
        assert not long.done(), "no other call waited for it"
        await long

    run(both())
    assert ended == ["b10"] * 4 + ["a300"]
    assert engines["a"].sleeps == 1
    assert engines["a"].stats.starts == 2


def test_the_time_that_a_call_sleeps_is_not_counted_against_its_limit_and_other_time_is() -> None:
    machine = Machine(10)
    engines = {name: Dozing(name, 6, machine, asleep_gb=1) for name in "ab"}
    swapper = Swapper(engines, 10, hasty)

    slept: list[float] = []

    async def scenario(name: str, seconds: float, limit_s: float) -> str:
        try:
            async with swapper.hold(name), swapper.clock(name, limit_s) as clock:
                await asyncio.sleep(seconds)
        except TimeoutError:
            return "late"
        slept.append(clock.slept_s)
        return "in time"

    async def both() -> list[str]:
        early = [asyncio.create_task(scenario("a", 0.6, limit_s)) for limit_s in (0.15, 9.0)]
        await asyncio.sleep(0.02)
        # Four calls of the other model fill its batch for longer than the first of `a` may take.
        await asyncio.gather(*(scenario("b", 0.2, 9.0) for _ in range(4)))
        assert not early[0].done()
        return await asyncio.gather(*early)

    assert run(both()) == ["late", "in time"]
    assert slept[:4] == [0.0] * 4
    assert slept[4] >= 0.2, "which is no time that the call took"
    assert engines["a"].sleeps == 1


def test_where_falling_asleep_fails_the_calls_in_flight_still_end_at_their_limit() -> None:
    class Sleepless(Dozing):
        async def sleep(self) -> None:
            self._machine.taken.pop(self.name)
            raise OSError("no space left on device")

    machine = Machine(10)
    engines = {name: Sleepless(name, 6, machine, asleep_gb=1) for name in "ab"}
    swapper = Swapper(engines, 10, hasty)

    async def both() -> None:
        async def forever() -> None:
            async with swapper.hold("a"), swapper.clock("a", 0.1):
                await asyncio.sleep(60)

        stuck = asyncio.create_task(forever())
        await asyncio.sleep(0.02)
        await asyncio.gather(*(use(swapper, engines, "b", 0.01) for _ in range(4)))
        with pytest.raises(TimeoutError):
            await stuck
        with pytest.raises(OSError, match="no space"):
            await use(swapper, engines, "a")

    run(both())


def test_calls_that_give_up_while_their_model_sleeps_do_not_bring_it_back() -> None:
    machine = Machine(10)
    engines = {name: Dozing(name, 6, machine, asleep_gb=1) for name in "ab"}
    swapper = Swapper(engines, 10, hasty)

    async def scenario(name: str, steps: int) -> None:
        async with swapper.hold(name):
            await engines[name].serve(steps)

    async def both() -> None:
        long = asyncio.create_task(scenario("a", 10**6))
        await asyncio.sleep(0.02)
        others = [asyncio.create_task(scenario("b", 50)) for _ in range(4)]
        while not engines["a"].sleeps:
            await asyncio.sleep(0.001)
        long.cancel()
        await asyncio.gather(*others)

    run(both())
    assert engines["a"].stats.starts == 1


def test_sleepers_that_leave_no_room_are_ended() -> None:
    machine = Machine(8)
    engines = {name: Loaded(name, 6, machine, asleep_gb=2) for name in "abc"}
    swapper = Swapper(engines, 8)

    async def scenario() -> None:
        for name in "abc":
            await use(swapper, engines, name)

    run(scenario())
    assert swapper.resident == {"c"}
    assert sum(machine.taken.values()) <= 8


def test_a_model_that_cannot_sleep_after_all_is_taken_for_ended() -> None:
    machine = Machine(6)
    engines = {
        "a": Loaded("a", 4, machine, asleep_gb=1, cannot_sleep=True),
        "b": Loaded("b", 5, machine, asleep_gb=1, cannot_sleep=True),
    }
    swapper = Swapper(engines, 6)

    async def scenario() -> None:
        for name in "aba":
            await use(swapper, engines, name)

    run(scenario())
    assert machine.taken == {"a": 4}


def test_a_call_has_more_time_while_its_engine_answers_others_but_not_for_ever() -> None:
    engines = {"a": Dozing("a", 6, Machine(10), asleep_gb=1)}
    swapper = Swapper(engines, 10)

    async def wait(seconds: float) -> float | None:
        begun = asyncio.get_running_loop().time()
        try:
            async with swapper.hold("a"), swapper.clock("a", 0.1):
                await asyncio.sleep(seconds)
        except TimeoutError:
            return asyncio.get_running_loop().time() - begun
        return None

    async def answer(every_s: float, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(every_s)
            swapper.answered("a", 0.1)

    async def beside(seconds: float, count: int) -> float | None:
        return (await asyncio.gather(wait(seconds), answer(0.04, count)))[0]

    assert run(beside(0.3, 8)) is None
    silent = run(beside(0.5, 2))
    assert silent is not None
    assert 0.1 < silent < 0.3
    stuck = run(beside(2.0, 30))
    assert stuck is not None
    assert 0.5 < stuck < 0.9
