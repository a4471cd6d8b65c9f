"""Call a function on untrusted input in a child process, which is killed at a limit of time or memory.

Some libraries take hours, or all memory, for a short input, and cannot be interrupted from within.
The kernel ends the child: a processor-time alarm and a limit on its address space.
Processor time is counted, not wall time, so that a busy machine changes no result.
This module is also the program that the child runs.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gra.core.errors import EngineUnavailable, GraError
from gra.core.processes.secrets import child_environment

# Bytes that calls may add to the size of the child when it is ready.
_MEMORY = 2 << 30
# Wall seconds: for the child's imports, and for a call that waits without computing.
_START, _WALL = 300.0, 120.0


class LimitExceeded(GraError):
    """A call needed more time or memory than it may have."""


class BoundedFunction:
    """A function that runs in a child process; calls from several threads wait for each other.

    The child starts with the first call, and again after a call that was stopped.

    Args:
        factory: "module:name" of a function that returns the function to call.
        arguments: JSON values for the factory.
        seconds: processor seconds that a call may take.
    """

    def __init__(self, factory: str, *arguments: Any, seconds: float = 3.0) -> None:
        self._job = json.dumps([factory, arguments, seconds])
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def __call__(self, *arguments: Any) -> Any:
        """Call the function with JSON values and return its JSON value.

        Raises:
            LimitExceeded: when the call was stopped, or the function failed.
            EngineUnavailable: when the child process cannot be started.
        """
        request = json.dumps(arguments).encode() + b"\n"
        with self._lock:
            if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
                self._start()
            reply = self._exchange(request, _WALL)
            if reply is None:
                self._stop()
        if reply is None or "error" in reply:
            raise LimitExceeded((reply or {}).get("error", "the call needed too much time or memory"))
        return reply["value"]

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._stop()
        paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        self._owner = os.getpid()
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "gra.core.processes.bounded"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=child_environment(PYTHONPATH=os.pathsep.join(filter(None, paths))),
        )  # fmt: skip
        reply = self._exchange(self._job.encode() + b"\n", _START)
        if reply is None or "error" in reply:
            self._stop()
            reason = (reply or {}).get("error", "it ended at once")
            raise EngineUnavailable(f"the process that checks answers cannot be started: {reason}")

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _exchange(self, request: bytes, seconds: float) -> dict[str, Any] | None:
        """Send one line and read one; None when the child ends or does not reply in time."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(request)
            child.stdin.flush()
        except OSError:
            return None
        poll = select.poll()
        poll.register(child.stdout, select.POLLIN)
        end, received = time.monotonic() + seconds, b""
        while not received.endswith(b"\n"):
            ready = poll.poll(1000 * max(0.0, end - time.monotonic()))
            part = os.read(child.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                return None
            received += part
        reply: dict[str, Any] = json.loads(received)
        return reply


def _serve() -> None:
    """Read a job and then calls from standard input, one JSON value a line; write one JSON object for each."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply

    def reply(**content: Any) -> None:
        channel.write(json.dumps(content) + "\n")
        channel.flush()

    factory, arguments, seconds = json.loads(sys.stdin.buffer.readline())
    try:
        module, _, name = factory.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)(*arguments)
        _limit_memory()
    except Exception as error:
        reply(error=f"{type(error).__name__}: {error}")
        return
    reply(value=None)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default action ends the process
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            value = function(*request)
        except Exception as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            reply(error=f"{type(error).__name__}: {error}"[:1000])
            continue
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply(value=value)


def _limit_memory() -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return  # not Linux: the time limit holds alone
    limit = pages * resource.getpagesize() + _MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    _serve()
