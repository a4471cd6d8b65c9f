"""Run coroutines together and cancel the rest on the first error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def at_once(*steps: Awaitable[T]) -> list[T]:
    """Run steps together and return their results; when one fails, the others are canceled before it is raised."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_turn(items: Iterable[U], one: Callable[[U], Awaitable[None]], at_most: int) -> None:
    """Work on items in order, at most `at_most` at once; when one fails, the others are canceled."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await one(item)

    await at_once(*(worker() for _ in range(at_most)))


async def together(*steps: Awaitable[T]) -> list[T]:
    """Run steps together and return their results in order.

    When steps fail, all others still finish, and the failure of the first step in order is raised. So neither the
    reason of a candidate nor its cost depends on which answer came first.
    """
    results: list[T] = []
    for ended in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended
        results.append(ended)
    return results
