"""Limit the time in which a chat template renders one conversation.

A template comes with a model. Loops in it may depend on the conversation, so a trial run cannot find all of them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gra.core.errors import RecipeError


class TemplateTooSlow(RecipeError):
    """A chat template takes too long for one conversation."""


@contextmanager
def limited_rendering(seconds: float = 5.0) -> Iterator[None]:
    """Interrupt the rendering of a chat template in the block at a limit of processor time.

    Other threads than the main thread have no limit: Python runs signal handlers in the main thread only.

    Args:
        seconds: processor time of this process.

    Raises:
        TemplateTooSlow: the block took longer.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_VIRTUAL)[0]:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TemplateTooSlow(
            f"the chat template takes more than {seconds:g} s for one conversation; correct it, or name another"
        )

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
