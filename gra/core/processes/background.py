"""Run coroutines from synchronous code, also inside a running event loop, and stop them from another thread.

Jupyter runs an event loop in the main thread, and `asyncio.run` refuses to start a second one there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Stop:
    """The request to end the coroutines of one thread, which may come before, while or after they run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self.asked = False

    def ask(self) -> None:
        """Cancel what runs now, and refuse what would start later."""
        with self._lock:
            self.asked = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end in a loop of its own; `ask` cancels it."""

        async def stoppable() -> T:
            with self._lock:
                if self.asked:
                    work.close()
                    raise asyncio.CancelledError
                self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            try:
                return await work
            finally:
                with self._lock:
                    self._loop = self._task = None

        return asyncio.run(stoppable())


_STOP: ContextVar[_Stop | None] = ContextVar("stop", default=None)


class BackgroundCall(Generic[T]):
    """A function that runs in a thread of its own and can be stopped where it waits in `run`."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._stop = _Stop()
        self._done = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="gra", daemon=True).start()

    def _run(self) -> None:
        _STOP.set(self._stop)
        try:
            self._value.append(self._work())
        except BaseException as error:  # every failure is raised again in the thread that asks for the result
            self._error = error
        finally:
            self._done.set()

    def result(self) -> T:
        """Wait for the end of the function.

        Returns:
            What the function returned.

        Raises:
            BaseException: what the function raised.
            KeyboardInterrupt: when the waiting thread was interrupted; the function has ended before it is raised.
        """
        try:
            self._done.wait()
        except KeyboardInterrupt:
            self.stop()
            raise
        if self._error is not None:
            raise self._error
        return self._value[0]

    def stop(self) -> None:
        """End the function and wait until it has ended; what it raises then is dropped."""
        self._stop.ask()
        self._done.wait()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end.

    It runs in this thread where no event loop is running, else in a thread of its own. Ctrl-C cancels it either way.

    Args:
        work: the coroutine.

    Returns:
        What the coroutine returned.
    """
    if (stop := _STOP.get()) is not None:
        return stop.run(work)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # The thread's own call of `run` finds the stop of its `BackgroundCall`.
    return BackgroundCall(lambda: run(work)).result()
