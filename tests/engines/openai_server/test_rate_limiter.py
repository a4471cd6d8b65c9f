"""The gate before a server: how many requests at once, and when none."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.engines.openai_server.rate_limiter import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_no_more_than_the_limit_are_inside_and_all_get_their_turn() -> None:
    gate, inside, most, done = RateLimiter(5), 0, 0, 0

    async def one() -> None:
        nonlocal inside, most, done
        async with gate:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1
            done += 1

    async def scenario() -> None:
        await asyncio.gather(*(one() for _ in range(60)))

    asyncio.run(scenario())
    assert (most, done) == (5, 60)


def test_overload_halves_the_limit_once_a_round_trip_and_answers_raise_it_again() -> None:
    clock = Clock()
    gate = RateLimiter(64, clock=clock)
    clock.time = 1.0
    for _ in range(64):  # sixty-four requests of one moment say one thing
        gate.failed(0.0, overloaded=True)
    assert gate.limit == 32
    clock.time = 2.0
    gate.failed(1.5, overloaded=True)
    assert gate.limit == 16
    for _ in range(16):  # one round trip
        gate.answered()
    assert 16.9 < gate.limit <= 17
    for _ in range(10_000):
        gate.answered()
    assert gate.limit == 64


def test_a_failure_that_is_no_overload_leaves_the_limit() -> None:
    gate = RateLimiter(64)
    gate.failed(gate.now(), overloaded=False)
    assert gate.limit == 64


@given(st.lists(st.sampled_from(["answer", "fail", "overload"]), max_size=60))
def test_the_limit_stays_between_one_and_the_most(events: list[str]) -> None:
    clock = Clock()
    gate = RateLimiter(8, clock=clock)
    for event in events:
        clock.time += 1
        gate.answered() if event == "answer" else gate.failed(clock.time, overloaded=event == "overload")
        assert 1 <= gate.limit <= 8


def test_retry_after_closes_the_gate_for_all_requests() -> None:
    async def scenario() -> float:
        gate = RateLimiter(8)
        gate.failed(gate.now(), overloaded=True, wait_s=0.15)
        begun = gate.now()
        async with asyncio.timeout(5):
            await asyncio.gather(*(pass_through(gate) for _ in range(8)))
        return gate.now() - begun

    assert 0.14 < asyncio.run(scenario()) < 2


async def pass_through(gate: RateLimiter) -> None:
    async with gate:
        pass


def test_a_server_out_of_order_is_tried_one_request_at_a_time_until_it_answers() -> None:
    async def scenario() -> None:
        gate = RateLimiter(16)
        for _ in range(3):
            gate.failed(gate.now(), overloaded=False)
        assert gate.silent_for() > 0
        inside = [asyncio.create_task(gate.__aenter__()) for _ in range(8)]
        await asyncio.sleep(0.4)  # the first pause is a quarter of a second
        assert sum(task.done() for task in inside) == 1
        gate.answered()
        await gate.__aexit__()
        await asyncio.sleep(0.01)
        assert all(task.done() for task in inside)
        assert gate.silent_for() == 0

    asyncio.run(scenario())


def test_the_silence_is_measured_from_the_first_failure() -> None:
    clock = Clock()
    gate = RateLimiter(4, clock=clock)
    for clock.time in (10.0, 11.0, 20.0):
        gate.failed(clock.time, overloaded=True)
    clock.time = 25.0
    assert gate.silent_for() == 15.0


def test_one_who_is_called_off_while_waiting_leaves_no_place_taken() -> None:
    async def scenario() -> None:
        gate = RateLimiter(1)
        async with gate:
            waiting = asyncio.create_task(pass_through(gate))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            second = asyncio.create_task(pass_through(gate))
            await asyncio.sleep(0)
        # Let in at the moment it is called off: its place goes to the next.
        second.cancel()
        async with asyncio.timeout(1):
            await pass_through(gate)
            await asyncio.gather(second, return_exceptions=True)
            await pass_through(gate)

    asyncio.run(scenario())
