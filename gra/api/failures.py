"""Turn every failure that a user can act on into one `GraError`, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gra.core.errors import GraError, from_system


def find_gra_error(error: BaseException) -> GraError | None:
    """Return the failure the user can act on inside an error or a group of errors; None for a bug."""
    if isinstance(error, GraError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(find_gra_error, error.exceptions)), None)
    if isinstance(error, OSError):
        return from_system(error)
    return None


def is_interrupt(error: BaseException) -> bool:
    """Return whether an error is Ctrl-C, or a group with one."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


@contextmanager
def raising_gra_errors() -> Iterator[None]:
    """Raise what the user can act on as a `GraError` with one sentence; a bug keeps its traceback.

    Raises:
        GraError: in place of a group of errors, or of what the operating system refused.
        KeyboardInterrupt: in place of a group with one.
    """
    try:
        yield
    except GraError:
        raise
    except (Exception, BaseExceptionGroup) as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from None
        known = find_gra_error(error)
        if known is None:
            raise
        raise known from None
