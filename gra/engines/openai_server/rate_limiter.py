"""Limit the requests that a server gets at once, by how it answers.

The limit follows TCP (Chiu and Jain 1989). Each answer raises it a little. Each sign of overload halves it, at most
once per round trip. `Retry-After` closes the gate for all requests. After failures alone, one request at a time is let
through, at growing intervals, until the server answers again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

_CUT = 0.5
# Bursts of failures with no answer in between, after which the server counts as out of order.
_OUT_OF_ORDER = 3
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0


class RateLimiter:
    """Open an asynchronous gate: `async with` holds one place for the time of one request."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = float(most)
        self._most = most
        self._clock = clock
        self._inside = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._closed_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._bursts = 0
        self._last_burst = float("-inf")
        self._failing_since: float | None = None

    async def __aenter__(self) -> None:
        if not self._queue and self._open():
            self._inside += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # admitted and canceled in the same moment
                self._leave()
            raise

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._leave()

    def now(self) -> float:
        """Return the time of the gate's clock, in seconds."""
        return self._clock()

    def answered(self) -> None:
        """Count an answer of the server."""
        self._bursts = 0
        self._failing_since = None
        self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def failed(self, asked_at: float, *, overloaded: bool, wait_s: float = 0.0) -> None:
        """Count the failure of a request.

        Args:
            asked_at: When it was sent, on this gate's clock.
            overloaded: Whether the server has too much to do.
            wait_s: The seconds that the server asks to wait.
        """
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        self._closed_until = max(self._closed_until, now + wait_s)
        if asked_at < self._last_burst:
            return  # sent before the last failure was known, so it is no news
        self._last_burst = now
        self._bursts += 1
        if overloaded:
            self.limit = max(1.0, self.limit * _CUT)
        if self._bursts >= _OUT_OF_ORDER:
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._bursts - _OUT_OF_ORDER))
            self._closed_until = max(self._closed_until, now + pause)

    def silent_for(self) -> float:
        """Return the seconds since the first failure after the last answer; 0 while the server works."""
        if self._failing_since is None or self._bursts < _OUT_OF_ORDER:
            return 0.0
        return self._clock() - self._failing_since

    def _open(self) -> bool:
        room = 1 if self._bursts >= _OUT_OF_ORDER else int(self.limit)
        return self._inside < room and self._clock() >= self._closed_until

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._open():
            place = self._queue.popleft()
            if not place.done():
                self._inside += 1
                place.set_result(None)
        closed_for = self._closed_until - self._clock()
        if self._queue and closed_for > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(closed_for, self._reopen)

    def _reopen(self) -> None:
        self._timer = None
        self._admit()
