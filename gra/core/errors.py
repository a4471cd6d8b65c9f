"""Define the failures that a user can act on, each with an exit code and a sentence.

The command line prints `str(error)` and exits with `error.exit_code`; a traceback means a bug in GRA.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """How a command ends; docs/design.md and every `--help` show this list."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """Make a code of its number and its meaning."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "done"
    FAILED = 1, "a bug, or a stage failed for a reason of its own"
    WRONG_INPUT = 2, "the recipe, the data or the command line is wrong"
    BUDGET_SPENT = 3, "stopped at the budget, with a valid dataset"
    UNAVAILABLE = 4, "an engine, a model or the hub could not be had or failed to answer"
    MISMATCH = 5, "files or runs do not match"
    NO_ROWS = 6, "no row was accepted"
    INTERRUPTED = 130, "interrupted; the same command goes on from there"


class GraError(Exception):
    """A failure the user can act on: what happened, where, what to do."""

    exit_code: int = ExitCode.FAILED


class RecipeError(GraError):
    """A recipe, override or command line is wrong; nothing was spent."""

    exit_code = ExitCode.WRONG_INPUT

    def __init__(self, problems: str | list[str], where: Path | str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else problems
        self.where = where
        head = f"{where}: " if where else ""
        if len(self.problems) == 1:
            text = head + self.problems[0]
        else:
            text = f"{head}{len(self.problems)} problems\n" + "\n".join(f"  - {p}" for p in self.problems)
        super().__init__(text)


class DataError(GraError):
    """A seed, dataset or benchmark file is wrong or missing; nothing was spent."""

    exit_code = ExitCode.WRONG_INPUT


class BudgetExhausted(GraError):
    """The budget is used up; what was finished is a valid dataset."""

    exit_code = ExitCode.BUDGET_SPENT


class ModelUnavailable(GraError):
    """A model's weights or a package that carries them could not be had."""

    exit_code = ExitCode.UNAVAILABLE


class EngineUnavailable(GraError):
    """An inference engine could not be started or was lost for good."""

    exit_code = ExitCode.UNAVAILABLE


class HubUnavailable(GraError):
    """The hub could not be reached, or did not let the user in."""

    exit_code = ExitCode.UNAVAILABLE


class Mismatch(GraError):
    """Files do not match their manifest, or two runs cannot be compared."""

    exit_code = ExitCode.MISMATCH


class NoRows(GraError):
    """A synthesis run finished, and no row was accepted."""

    exit_code = ExitCode.NO_ROWS


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


_FULL = 1_000_000  # bytes: with less free, a disk is taken for full


def from_system(error: OSError, place: Path | str | None = None) -> DataError | None:
    """Turn a refusal of the operating system into a sentence; None when a user cannot act on it.

    Args:
        error: the refusal.
        place: the folder in use, for an error that names no file.
    """
    number, place = error.errno or 0, error.filename or place
    advice = _ADVICE.get(number) or (_ADVICE_ON_A_FILE.get(number) if place else None)
    if advice is None:
        return None
    where = f"{place}: " if place else ""
    return DataError(f"{where}{os.strerror(number)}; {advice} and run the same command again, what is done is kept")


def user_path(text: str, what: str) -> Path:
    """Return a path that a user wrote, with `~` and `~user` replaced.

    Args:
        text: the path.
        what: names the setting or file, for the error.

    Raises:
        RecipeError: no path can be made of the text.
    """
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RecipeError(f"{what} has a character that no path can have; write another path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise RecipeError(f"{what} names the home of an unknown user ({text}); write the whole path") from None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn refusals of the system below a folder into one sentence that names the place.

    Raises:
        DataError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if known := from_system(error, folder):
            raise known from None
        raise


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Do as `writing`, also where libraries raise errors of their own for a full disk, such as `RuntimeError`.

    Raises:
        DataError: in place of the system's error, or of any other that comes while the disk is full.
    """
    with writing(folder):
        try:
            yield
        except (GraError, OSError):
            raise
        except Exception as error:
            if shutil.disk_usage(folder).free >= _FULL:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
