"""Manage the user's cache folder: locks, folders that appear as a whole, and seals that show damage.

Everything that GRA downloads or converts goes through `building`. It is made beside its place, sealed with the size
and SHA-256 of every file, and renamed into place. So a killed process leaves nothing that looks finished.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gra.core.errors import DataError, ModelUnavailable, user_path
from gra.core.files import allowed_mode
from gra.core.hashing import file_digest

Progress = Callable[[str], None]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_dir() -> Path:
    """Return the folder of models and benchmark data: $GRA_CACHE, else $XDG_CACHE_HOME/gra, else ~/.cache/gra."""
    if own := os.environ.get("GRA_CACHE"):
        return user_path(own, "GRA_CACHE").absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "gra"


def switched_on(variable: str) -> bool:
    """Whether an environment variable is set to yes: 1, on, yes or true."""
    return os.environ.get(variable, "").lower() in ("1", "on", "yes", "true")


def gigabytes(count: int) -> str:
    """Format a number of bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made: {error.strerror}; set GRA_CACHE to a folder that can be written to"
        ) from None


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Check that `needed` bytes fit on the disk of `folder`.

    Raises:
        ModelUnavailable: saying how much is needed and how much is there.
        DataError: the folder cannot be made.
    """
    _make(folder)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelUnavailable(
            f"{purpose} needs {gigabytes(needed)} and the disk of {folder} has {gigabytes(free)} free; "
            "free some space, or set GRA_CACHE to a folder on a larger disk"
        )


@contextmanager
def locked(name: str, progress: Progress) -> Iterator[None]:
    """Hold the machine-wide lock `name`; a second process waits until the first one ends.

    Raises:
        DataError: the cache folder cannot be made.
    """
    folder = cache_dir() / "locks"
    _make(folder)
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"{name}: another process is preparing it, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def building(target: Path, record: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Make the folder `target` as a whole: yields a folder and facts to fill.

    On success, the facts and the size and digest of every file go into the file `record`. Then the folder replaces
    `target`. On failure it is removed. Hold the lock of `target` around this.

    Raises:
        ModelUnavailable: the disk ran full.
    """
    facts: dict[str, Any] = {}
    try:
        _make(target.parent)
        _sweep(target)
        # The name is new: the child of a killed process may still write to an older folder.
        making = Path(tempfile.mkdtemp(prefix=f"{_making(target)}-", dir=target.parent))
        yield making, facts
        _seal(making, record, facts)
        _replace(making, target)
    except OSError as error:
        if error.errno in _FULL:
            raise ModelUnavailable(
                f"the disk of {target.parent} ran full while {target.name} was being made; "
                "free some space, or set GRA_CACHE to a folder on a larger disk, and run the same command again"
            ) from error
        raise
    finally:
        _sweep(target)


def _making(target: Path) -> str:
    return f".making-{target.name}"


def _sweep(target: Path) -> None:
    """Remove the leftovers of this and of earlier attempts at `target`."""
    for leftover in target.parent.glob(f"{_making(target)}-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _seal(folder: Path, record: str, facts: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        path.chmod(allowed_mode(0o666))
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": file_digest(path)}
        _flush(path)
    (folder / record).write_text(json.dumps({**facts, "files": files}, indent=2, ensure_ascii=False) + "\n")
    _flush(folder / record)
    folder.chmod(allowed_mode(0o777))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(new: Path, target: Path) -> None:
    """Replace a folder by renames only, so that no reader sees a mixture."""
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def read_seal(folder: Path, record: str) -> dict[str, Any] | None:
    """Read the facts in the seal of a finished folder; None when there is no finished folder."""
    try:
        content = json.loads((folder / record).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


def damage(folder: Path, seal: Mapping[str, Any], *, digests: bool = False) -> str | None:
    """Say what is wrong with a sealed folder, by sizes and with `digests` by contents; None when nothing is."""
    for name, expected in seal["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{path} has {path.stat().st_size:,} bytes, expected {expected['size']:,}"
        if digests and (found := file_digest(path)) != expected["sha256"]:
            return f"{path} has SHA-256 {found}, expected {expected['sha256']}"
    return None
