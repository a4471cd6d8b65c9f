"""How every entry point begins and ends: signals, terminals of few letters, one sentence and a code for each failure.

SIGTERM, which schedulers and supervisors send, stops a run as Ctrl-C does: cleanly, and to be gone on with.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from gra.core.errors import GraError, from_system

GO_ON = "interrupted; run the same command again to go on from here"


@contextmanager
def entry(interrupted: str = GO_ON) -> Iterator[None]:
    """Run a command line: whatever the user can act on ends it with a sentence and the exit code of its kind."""
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what this terminal cannot show is spelled out
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except KeyboardInterrupt:
        _stop(interrupted)
    except (Exception, BaseExceptionGroup) as error:
        if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt):
            _stop(interrupted)
        known = _known(error)
        if known is None:
            raise
        _end(f"error: {known}", known.exit_code)


def _stop(sentence: str) -> NoReturn:
    # A second interrupt, while the first is obeyed, leaves tasks whose end nobody waits for; asyncio would print them.
    logging.getLogger("asyncio").disabled = True
    _end(sentence, 130)


def _end(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # asyncio has its own handler while a loop runs; a job in the background of a script has none at all.
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def _known(error: BaseException) -> GraError | None:
    """What the user is told of a failure; None when it is a bug."""
    if isinstance(error, GraError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_known, error.exceptions)), None)
    if isinstance(error, OSError):
        return from_system(error)
    return None
