"""Queue the calls to an engine, so that the next prompt shares as much as possible with the last one.

Prompts of one role, and of one candidate, begin alike. An engine with a prefix cache reads a common beginning once when
the calls that share it come close together. Calls are sorted by prompt, and the next call is beside the last one. A
call that was passed over too often goes first, and the calls like it follow. That is limited in number. In a long
queue most calls are that old, and serving them by age would lose the order.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from os.path import commonprefix

# The batches that may pass a waiting call before it goes first. As many go in order before another call may do so.
_PATIENCE = 4

_Place = tuple[str, int]  # prompt, number of arrival


class PrefixQueue:
    """Let `slots` calls through at once."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._slots = slots
        self._queue: list[_Place] = []  # sorted by prompt
        self._arrived: dict[
            int, tuple[str, int, asyncio.Future[None]]
        ] = {}  # oldest first; with the number of the turn at which they arrived
        self._numbers = count()
        self._turns = 0
        self._jumped = 0  # the turn of the last call that went first for its age
        self._last: _Place = ("", -1)
        self._scheduled = False

    @asynccontextmanager
    async def turn(self, prompt: str) -> AsyncIterator[None]:
        """Hold one of the engine's places for the time of the block, once it is this prompt's turn."""
        number = next(self._numbers)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived[number] = (prompt, self._turns, mine)
        insort(self._queue, (prompt, number))
        self._schedule()
        try:
            await mine
        except asyncio.CancelledError:
            if number in self._arrived:
                self._leave(number)
            elif not mine.cancelled():
                self._give_back()  # it was admitted and cancelled in the same moment
            raise
        try:
            yield
        finally:
            self._give_back()

    def _schedule(self) -> None:
        """Admit calls after all that arrive at this moment are in the queue, so that they are sorted too."""
        if not self._scheduled and self._free and self._queue:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._admit)

    def _admit(self) -> None:
        self._scheduled = False
        while self._free and self._queue:
            number = self._next()
            mine = self._arrived[number][2]
            prompt = self._leave(number)
            if not mine.done():
                self._last = (prompt, number)
                self._free -= 1
                self._turns += 1
                mine.set_result(None)

    def _next(self) -> int:
        oldest, (_, came, _) = next(iter(self._arrived.items()))
        if self._turns - max(came, self._jumped) > _PATIENCE * self._slots:
            self._jumped = self._turns
            return oldest
        at = bisect_left(self._queue, self._last)
        near = self._queue[max(0, at - 1) : at + 1]
        return max(near, key=lambda place: len(commonprefix([place[0], self._last[0]])))[1]

    def _leave(self, number: int) -> str:
        prompt = self._arrived.pop(number)[0]
        del self._queue[bisect_left(self._queue, (prompt, number))]
        return prompt

    def _give_back(self) -> None:
        self._free += 1
        self._schedule()
