"""How every entry point begins and ends: signals, terminals of few letters, one sentence and a code for each failure.

SIGTERM, which schedulers and supervisors send, stops a run as Ctrl-C does: cleanly, and to be gone on with.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from gra.core.errors import DataError, GraError

GO_ON = "interrupted; run the same command again to go on from here"
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or have your quota raised",
    errno.EFBIG: "raise the limit on the size of a file (`ulimit -f`)",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
}
_ADVICE_ON_A_FILE = {
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "check its rights, or choose another place",
    errno.EPERM: "check its rights, or choose another place",
    errno.EEXIST: "choose another place",
    errno.ENOTDIR: "choose another place",
    errno.EISDIR: "choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}


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
        _end(interrupted, 130)
    except (Exception, BaseExceptionGroup) as error:
        if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt):
            _end(interrupted, 130)
        known = _known(error)
        if known is None:
            raise
        _end(f"error: {known}", known.exit_code)


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
        advice = _ADVICE.get(error.errno or 0) or (_ADVICE_ON_A_FILE.get(error.errno or 0) if error.filename else None)
        if advice is not None:
            place = f"{error.filename}: " if error.filename else ""
            return DataError(
                f"{place}{os.strerror(error.errno or 0)}; {advice} and run the same command again, what is done is kept"
            )
    return None
