"""Remove a folder that a program of unknown intent has filled: any depth, any name, any rights, no link followed.

Every step works on a name inside an open directory, so the length of a path does not matter. A directory inside
another is moved to the top before it is emptied, so the depth does not matter either.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_ROUNDS = 3  # a process that is still ending may add entries while the folder is emptied


def remove_tree(folder: Path) -> list[str]:
    """Remove a folder with everything in it.

    Returns:
        One sentence for each kind of failure; empty when nothing is left. Never raises OSError.
    """
    problems: dict[str, str] = {}
    for _ in range(_ROUNDS):
        problems.clear()
        try:
            _empty(folder, problems)
            os.rmdir(folder)
            return []
        except FileNotFoundError:
            return []
        except OSError as error:
            _note(problems, "the folder", error)
    return [f"{what} in {folder} could not be removed: {why}" for what, why in problems.items()]


def _empty(folder: Path, problems: dict[str, str]) -> None:
    """Remove the entries of a folder; the moved directories get names that no entry has."""
    top, prefix, moved = _open_unlocked(str(folder), None), os.urandom(8).hex(), 0
    try:
        waiting = [name for name in os.listdir(top) if not _unlink(name, top, problems)]
        while waiting:
            name = waiting.pop()
            try:
                inner = _open_unlocked(name, top)
            except OSError as error:
                _note(problems, "a directory", error)
                continue
            try:
                for entry in os.listdir(inner):
                    if not _unlink(entry, inner, problems):
                        moved += 1
                        waiting.append(_move_up(entry, inner, top, f"{prefix}-{moved}", problems))
            except OSError as error:
                _note(problems, "a directory", error)
            finally:
                os.close(inner)
            waiting = [name for name in waiting if name]
            try:
                os.rmdir(name, dir_fd=top)
            except OSError as error:
                _note(problems, "a directory", error)
    finally:
        os.close(top)


def _unlink(name: str, directory: int, problems: dict[str, str]) -> bool:
    """Remove an entry that is no directory; False for a directory."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return False
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        _note(problems, "a file", error)
    return True


def _open_unlocked(name: str, directory: int | None) -> int:
    """Open a directory after its owner's rights were restored; a link in its place raises OSError."""
    path_only = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        # No call changes rights through a handle of this kind, but its name in /proc does, without another look-up.
        if stat.S_IMODE(os.fstat(path_only).st_mode) & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{path_only}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path_only)
    finally:
        os.close(path_only)


def _move_up(name: str, directory: int, top: int, new_name: str, problems: dict[str, str]) -> str:
    """Move a directory to the top under a new name and return that name, or "" when it cannot be moved."""
    try:
        os.close(_open_unlocked(name, directory))  # a directory moves only with write permission on itself
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=top)
    except OSError as error:
        _note(problems, "a directory", error)
        return ""
    return new_name


def _note(problems: dict[str, str], what: str, error: OSError) -> None:
    problems.setdefault(what, os.strerror(error.errno) if error.errno else "unknown error")
