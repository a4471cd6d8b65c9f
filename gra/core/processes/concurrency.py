"""Run coroutines together and cancel the rest on the first error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def at_once(*steps: Awaitable[T]) -> list[T]:
    """The results of steps taken at once; when one fails, the others are ended first and spend no more."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def together(*steps: Awaitable[T]) -> list[T]:
    """The results of steps taken at once, in their order.

    When some fail, all are still waited for and the first in order is raised, so that which question
    was answered soonest decides neither the reason a story gives nor what it says it cost.
    """
    results: list[T] = []
    for ended in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended
        results.append(ended)
    return results
