"""Write files so that a reader never sees half of one, and open them so that nothing else is touched.

A run folder may come from another person. A link in it could lead a write to any file of the user. So could a file
with a second name, and every writer refuses both. New files get the rights that the user's umask leaves. A reader of
a pipe or a device could wait forever, so readers open regular files only.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from gra.core.errors import DataError

UNFINISHED = ".unfinished"
_FOREIGN = ("wandb",)  # written by a library that makes links of its own
_RECIPE, _MANIFEST = "recipe.resolved.yaml", "manifest.json"  # either makes a folder a run folder


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it when the block succeeds, and is removed otherwise.

    Raises:
        DataError: `target` is a link, or a link inside its run folder leads to it.
    """
    refuse_link(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}{UNFINISHED}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8; lone surrogates become question marks."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, never through a link inside a run folder.

    Raises:
        DataError: there is such a link.
    """
    refuse_link_inside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_plain(path: Path, mode: str) -> IO[Any]:
    """Open a file to change it in place; never a link, a pipe or a file with a second name.

    Args:
        path: the file.
        mode: of `open`, one that does not truncate.

    Raises:
        DataError: `path` is none that may be written.
        OSError: as `open` does.
    """
    refuse_link(path)

    def opener(name: str, flags: int) -> int:
        handle = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # a pipe would wait for its reader
        try:
            _refuse_shared(path, os.fstat(handle))
        except BaseException:
            os.close(handle)
            raise
        return handle

    try:
        return open(path, mode, opener=opener, encoding=None if "b" in mode else "utf-8")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(path) from None
        if error.errno == errno.ENXIO:  # a pipe without a reader, or a socket
            raise _irregular(path) from None
        raise


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read its bytes; unlike `open`, never wait for a pipe or a device.

    Raises:
        DataError: it is no regular file.
        OSError: as `open` does.
    """

    def opener(name: str, flags: int) -> int:
        handle = os.open(name, flags | os.O_NONBLOCK)
        # A folder is left to `open`, which has an error of its own for it.
        if not (stat.S_ISREG(mode := os.fstat(handle).st_mode) or stat.S_ISDIR(mode)):
            os.close(handle)
            raise _irregular(path)
        return handle

    try:
        return open(path, "rb", opener=opener)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _irregular(path) from None
        raise


def read_regular(path: Path, encoding: str = "utf-8") -> str:
    """Read a text file as `Path.read_text` does, if it is a regular file.

    Raises:
        DataError: it is no regular file.
        OSError, ValueError: as `read_text` does.
    """
    with open_regular(path) as file:
        text = file.read().decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_irregular(path: Path) -> None:
    """Refuse a pipe, a socket, a device or a folder, for libraries that open a file by its name.

    Raises:
        DataError: naming it.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # the library says what is wrong
    if not stat.S_ISREG(mode):
        raise _irregular(path)


def refuse_shared(path: Path) -> None:
    """Refuse a file that a library would change in place: a link, one with a second name, or no regular file.

    Raises:
        DataError: naming it.
    """
    refuse_link(path)
    try:
        facts = path.lstat()
    except OSError:
        return
    _refuse_shared(path, facts)


def refuse_link(path: Path) -> None:
    """Refuse a path that is a link itself, or that a link inside its run folder leads to.

    Raises:
        DataError: naming the link.
    """
    if path.is_symlink():
        raise _link(path)
    refuse_link_inside(path.parent)


def refuse_link_inside(folder: Path) -> None:
    """Refuse a link among a folder and those above it, if it lies in a run folder.

    A run folder itself may be a link, and so may what is above it: the user made those.

    Raises:
        DataError: naming the link.
    """
    here = folder.absolute()
    for place in (here, *here.parents):
        if place.is_symlink() and any(map(_is_run_folder, place.parents)):
            raise _link(place)


def refuse_link_below(root: Path, folder: Path) -> None:
    """Refuse a link among the folders that lead from `root` to `folder`; `root` may be any folder.

    Raises:
        DataError: naming the link.
    """
    for place in (folder, *folder.parents):
        if place == root:
            return
        if place.is_symlink():
            raise _link(place)


def refuse_special_files(folder: Path) -> None:
    """Refuse a run folder with a pipe, a socket or a device in it, before anything in it is opened.

    Raises:
        DataError: naming the first one.
    """
    for _, files in _walk(folder):
        for file in files:
            refuse_irregular(file)


def unfinished_files(folder: Path) -> list[Path]:
    """Walk a run folder: refuse links and special files, and list what a killed process left behind.

    Raises:
        DataError: naming the first link or special file.
    """
    found: list[Path] = []
    for folders, files in _walk(folder):
        for path in (*folders, *files):
            if path.is_symlink():
                raise _link(path)
        for file in files:
            refuse_irregular(file)
        found += [file for file in files if file.name.startswith(".") and file.name.endswith(UNFINISHED)]
    return found


def _walk(folder: Path) -> Iterator[tuple[list[Path], list[Path]]]:
    """Yield the folders and files of each folder; nothing is followed, and W&B's folders are not entered."""
    for parent, folders, files in os.walk(folder):
        yield [Path(parent, name) for name in folders], [Path(parent, name) for name in files]
        folders[:] = [name for name in folders if name not in _FOREIGN]


def allowed_mode(mode: int) -> int:
    """Return the rights of `mode` that the user's umask leaves."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        masks = [line.split()[1] for line in status if line.startswith("Umask:")]
    return mode & ~int(masks[0], 8) if masks else mode & ~0o022


def _is_run_folder(folder: Path) -> bool:
    if os.path.lexists(folder / _RECIPE):
        return True
    try:
        sections = json.loads(read_regular(folder / _MANIFEST)).values()
    except (OSError, ValueError, AttributeError, RecursionError, DataError):
        return False  # other programs have files of this name
    return any(isinstance(section, dict) and "files" in section for section in sections)


def _refuse_shared(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise _irregular(path)
    if facts.st_nlink > 1:
        raise DataError(
            f"{path} has a second name (a hard link), and GRA would change the file under both; put a copy in its place"
        )


def _irregular(path: Path) -> DataError:
    return DataError(f"{path} is no regular file (but a folder, pipe, socket or device); remove it, or name a file")


def _link(path: Path) -> DataError:
    return DataError(
        f"{path} is a link, and GRA follows no links where it writes; remove it, or put the file or folder itself there"
    )
