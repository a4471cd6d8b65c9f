"""Measure what the kernel does not limit everywhere: the threads of a confined process and the files it wrote.

Only the standard library is imported: this runs in the bare interpreter of the sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_MAX_ENTRIES = 1024  # files and folders, as many as a private folder can have
_MAX_DEPTH = 100  # folders in each other


def excess(pid: int, folder: str, limits: Mapping[str, Any]) -> str:
    """Return which limit a process exceeds, as a sentence for the verdict, or "".

    Args:
        pid: Number of the process, as its parent sees it.
        folder: Its working folder, as its parent sees it; empty where the process has a private one.
        limits: Those of the job.
    """
    try:
        threads = os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        threads = 0  # it has just ended
    if threads > limits["threads"]:
        return f"more than {limits['threads']} threads"
    return _excess_of_files(folder, int(limits["file_mb"]))


def _excess_of_files(folder: str, file_mb: int) -> str:
    """Add up a folder by open directories, because a path may be too long for the kernel; follow no links."""
    size = entries = 0
    waiting: list[tuple[int, int]] = []
    try:
        waiting.append((os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), 1))
        while waiting:
            directory, depth = waiting.pop()
            try:
                names = os.listdir(directory)
                entries += len(names)
                if entries > _MAX_ENTRIES or depth > _MAX_DEPTH:
                    return f"more than {_MAX_ENTRIES:,} files, or folders deeper than {_MAX_DEPTH}"
                for name in names:
                    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    size += 512 * found.st_blocks
                    if found.st_mode & 0o170000 == 0o040000:
                        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                        waiting.append((os.open(name, flags, dir_fd=directory), depth + 1))
            except FileNotFoundError:
                continue  # removed in between
            except PermissionError:
                return "a folder without the right to read it"
            finally:
                os.close(directory)
    except OSError as error:
        return f"files that cannot be measured ({os.strerror(error.errno or 0)})"
    finally:
        for directory, _ in waiting:
            os.close(directory)
    return f"more than {file_mb} MB of files" if size > file_mb * 2**20 else ""
