"""A story's accounts: every question goes through here, so that a candidate knows what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from gra.core.types import Usage
from gra.engines.broker import Broker
from gra.engines.types import Answer, Call, EngineFailed, Outcome, Refused, TimedOut, Truncated, Unparsable
from gra.ledger.ledger import Recorded

T = TypeVar("T")


class Unanswered(Exception):
    """A question that got no usable answer in any attempt; it ends the story as failed, with this reason."""

    def __init__(self, call: Call, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(f"{call.role} {call.member}: {_why(outcome)}")


def _why(outcome: Outcome) -> str:
    match outcome:
        case Unparsable(why=why):
            return f"unusable answer ({why})"
        case Truncated():
            return "answer cut off at the length limit"
        case Refused():
            return "refused"
        case TimedOut(message) | EngineFailed(message):
            return message
        case Answer():
            return "answered"


@dataclass
class Notebook:
    """Asks on behalf of one candidate and adds up what it used."""

    broker: Broker
    candidate: str
    usage: dict[str, Usage] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    async def ask(self, call: Call) -> Answer:
        """The answer to a call.

        Raises:
            Unanswered: when there is none.
        """
        outcome = await self.broker.ask(call, partial(self._paid, call.role))
        if not isinstance(outcome, Answer):
            raise Unanswered(call, outcome)
        return outcome

    def _paid(self, role: str, answer: Recorded) -> None:
        """Whatever was answered was paid for, whether or not it could be used."""
        spent = Usage(1, answer.prompt_tokens, answer.completion_tokens)
        self.usage[role] = self.usage.get(role, Usage()) + spent
        self.calls.append(answer.key)


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
