"""Let engines on the same CPU cores compute in turns.

Two engines that compute at once take twice as many threads as there are cores. Each product of matrices then waits for
threads that do not run. In turns, the same two engines do more work in the same time (docs/benchmarks.md, "Engines on
the same cores"). A lock on a file passes between the processes. An engine keeps its turn for a few steps: many short
steps of a small model count as much as a long one of a large model.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of the process that computes: the file whose lock is the turn.
CORES_FILE = "GRA_CORES_FILE"
# With more cores, a small model leaves many of them idle in turns, and long steps take less time. Measured on 2 cores.
MOST_CORES = 8
# Tokens of a step on a CPU. vLLM's own limit is 2,048. A 1.5B model then takes 45 s on two cores, and answers no call.
STEP_TOKENS = 256
_TURN_S = 2.0  # a turn ends with the first step that ends later than this
_PAUSE_S = 0.05  # between two steps of one turn; an engine that pauses longer has nothing to do


class CoreTurns:
    """Hold the cores during steps, for turns of a few seconds."""

    def __init__(self, file: Path) -> None:
        """Open the file that all engines on these cores share.

        Raises:
            OSError: it cannot be opened.
        """
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._state = threading.Lock()
        self._held = False
        self._begun = 0.0
        self._steps = 0
        self._leaving: threading.Timer | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Compute one step in the block, after waiting for a turn where none is held."""
        with self._state:
            self._steps += 1
            if self._leaving is not None:
                self._leaving.cancel()
                self._leaving = None
            if not self._held:
                fcntl.flock(self._file, fcntl.LOCK_EX)
                self._held, self._begun = True, time.monotonic()
        try:
            yield
        finally:
            with self._state:
                if time.monotonic() - self._begun >= _TURN_S:
                    self._release()
                else:
                    self._leaving = threading.Timer(_PAUSE_S, self._leave, [self._steps])
                    self._leaving.daemon = True
                    self._leaving.start()

    def _leave(self, steps: int) -> None:
        """End the turn, unless another step has begun since."""
        with self._state:
            if self._held and self._steps == steps:
                self._release()

    def _release(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._held = False


def cores_file() -> Path:
    """Return the file whose lock is the turn of this user's engines on this machine."""
    return Path(tempfile.gettempdir()) / f"gra-cores-{os.getuid()}.lock"


def open_turns() -> CoreTurns | None:
    """Return the turns that the environment names, or None where their file cannot be opened."""
    try:
        return CoreTurns(Path(os.environ[CORES_FILE]))
    except (KeyError, OSError):
        return None
