"""How every command starts and ends: signals, output encodings, and one sentence with an exit code for each failure.

SIGTERM, which schedulers and supervisors send, stops a run as Ctrl-C does: cleanly, so that it can be resumed.
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

from gra.api.failures import find_gra_error, is_interrupt
from gra.core.errors import ExitCode
from gra.core.text.plain_text import printable

RESUME = "interrupted; run the same command again to go on from here"
CODES = "Exit codes: " + "; ".join(f"{code.value} {code.meaning}" for code in ExitCode) + "."


@contextmanager
def entry(interrupted: str = RESUME) -> Iterator[None]:
    """Run a command line; a failure that the user can act on ends it with one sentence and an exit code.

    Args:
        interrupted: the sentence after Ctrl-C or SIGTERM.

    Raises:
        SystemExit: for a failure that the user can act on, and for an interrupt.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that this terminal cannot show are escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except (KeyboardInterrupt, Exception, BaseExceptionGroup) as error:
        if is_interrupt(error):
            # A second interrupt, while the first is handled, leaves tasks that asyncio would print errors about.
            logging.getLogger("asyncio").disabled = True
            _end(interrupted, ExitCode.INTERRUPTED)
        known = find_gra_error(error)
        if known is None:
            raise
        _end(f"error: {known}", known.exit_code)


def _end(sentence: str, code: int) -> NoReturn:
    print(printable(sentence), file=sys.stderr)
    sys.exit(int(code))


def _interrupt(number: int, frame: FrameType | None) -> None:
    # asyncio has its own handler while a loop runs; a job in the background of a script has none at all.
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)
