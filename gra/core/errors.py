"""Every mistake a user can make, as one exception with an exit code and a sentence.

The command line prints `str(error)` and exits with `error.exit_code`; a traceback means a bug in GRA.
Exit codes: 0 done, 2 wrong input, 3 stopped at the budget, 4 no engine, model or hub, 5 mismatch, 6 no row accepted,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class GraError(Exception):
    """A failure the user can act on: what happened, where, what to do."""

    exit_code = 1


class RecipeError(GraError):
    """A recipe, override or command line is wrong; nothing was spent."""

    exit_code = 2

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

    exit_code = 2


class BudgetExhausted(GraError):
    """The budget is used up; what was finished is a valid dataset."""

    exit_code = 3


class ModelUnavailable(GraError):
    """A model's weights or a package that carries them could not be had."""

    exit_code = 4


class EngineUnavailable(GraError):
    """An inference engine could not be started or was lost for good."""

    exit_code = 4


class HubUnavailable(GraError):
    """The hub could not be reached, or did not let the user in."""

    exit_code = 4


class Mismatch(GraError):
    """Files do not match their manifest, or two runs cannot be compared."""

    exit_code = 5


class NoRows(GraError):
    """A synthesis run finished, and no row was accepted."""

    exit_code = 6


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


def from_system(error: OSError, place: Path | str | None = None) -> DataError | None:
    """What the operating system refused, as a sentence; None when it is nothing that a user can act on.

    Args:
        error: the refusal.
        place: the folder that was worked on, for an error that names no file.
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
    """Turn what the system refuses below a folder into one sentence that names the place.

    Raises:
        DataError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if known := from_system(error, folder):
            raise known from None
        raise
