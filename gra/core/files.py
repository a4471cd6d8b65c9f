"""Write files so that a reader never sees half of one, and never through a link.

A run folder may come from another person. A link in it could lead a write to any file of the user, so every writer
refuses links. New files get the rights that the user's umask leaves.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gra.core.errors import DataError

UNFINISHED = ".unfinished"
_FOREIGN = ("wandb",)  # written by a library that makes links of its own


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it when the block succeeds, and is removed otherwise.

    Raises:
        DataError: `target` is a link.
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


def open_plain(path: Path, mode: str) -> IO[Any]:
    """Open a file in `mode` as `open` does, but never through a link.

    Raises:
        DataError: `path` is a link.
        OSError: as `open` does.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    try:
        return open(path, mode, opener=opener, encoding=None if "b" in mode else "utf-8")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(path) from None
        raise


def refuse_link(path: Path) -> None:
    """Refuse a path that is a link itself.

    Raises:
        DataError: naming the link.
    """
    if path.is_symlink():
        raise _link(path)


def unfinished_files(folder: Path) -> list[Path]:
    """Walk a run folder: refuse links, and list the files that a killed process left behind.

    Raises:
        DataError: naming the first link.
    """
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _FOREIGN]
        for name in (*folders, *files):
            refuse_link(Path(parent, name))
        found += [Path(parent, name) for name in files if name.startswith(".") and name.endswith(UNFINISHED)]
    return found


def allowed_mode(mode: int) -> int:
    """Return the rights of `mode` that the user's umask leaves."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        masks = [line.split()[1] for line in status if line.startswith("Umask:")]
    return mode & ~int(masks[0], 8) if masks else mode & ~0o022


def _link(path: Path) -> DataError:
    return DataError(
        f"{path} is a link, and GRA follows no links where it writes; remove it, or put the file or folder itself there"
    )
