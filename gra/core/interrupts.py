"""SIGTERM, which schedulers and supervisors send, stops a run as Ctrl-C does: cleanly, and to be gone on with."""

from __future__ import annotations

import signal
from types import FrameType


def stop_on_sigterm() -> None:
    """Treat SIGTERM as an interrupt from now on; for entry points, in the main thread."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # asyncio has its own handler while a loop runs; a job in the background of a script has none at all.
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)
