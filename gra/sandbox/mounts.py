"""Give a process a file system of its own: a small folder in memory, and what Python needs to read.

Everything here needs a mount namespace. Only the standard library is imported: this runs in the bare interpreter of
the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import struct

from gra.sandbox.confine import DEVICES, readable_paths, system_call

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MAX_ENTRIES = 1024  # files and folders


def enter_private_root(folder: str, size_mb: int, owner: int) -> bool:
    """Leave of the file system only the folder (empty, in memory) and the Python installation (to read).

    Args:
        folder: An absolute path, which it keeps. The content of the real folder is out of sight.
        size_mb: Megabytes of all files together.
        owner: Number of the user and group that may write into the folder.

    Returns:
        False when the kernel refused a step; then nothing has changed.
    """
    if _LIBC.unshare(ctypes.c_int(_CLONE_NEWNS)) != 0:  # the parent keeps its own view
        return False
    if not _mount(None, "/", flags=_MS_REC | _MS_PRIVATE):
        return False
    if not _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size=1m,nr_inodes={_MAX_ENTRIES},mode=755"):
        return False
    try:
        ready = _fill(folder) and mount_folder(folder + folder, size_mb, owner) and _pivot(folder)
    except OSError:
        ready = False
    if not ready:
        os.chdir("/")
        _LIBC.umount2(folder.encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        return False
    return True


def mount_folder(folder: str, size_mb: int, owner: int) -> bool:
    """Put a memory file system over a folder, for processes of this mount namespace alone.

    Returns:
        False when it cannot be had or cannot be written to; then nothing has changed.
    """
    if not _mount(None, "/", flags=_MS_REC | _MS_PRIVATE):
        return False
    options = f"size={size_mb}m,nr_inodes={_MAX_ENTRIES},mode=700,uid={owner},gid={owner}"
    if not _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options):
        return False
    try:
        os.close(os.open(os.path.join(folder, ".try"), os.O_CREAT | os.O_WRONLY))
        os.unlink(os.path.join(folder, ".try"))
    except OSError:
        _LIBC.umount2(folder.encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        return False
    return True


def _fill(root: str) -> bool:
    """Show below the new root what the sandbox may read, and make the folder's place."""
    shown: list[str] = []
    for path in sorted(readable_paths()):
        if os.path.exists(path) and not any(path.startswith(f"{parent}/") for parent in shown):
            shown.append(path)
            if not (_show(path, root) and _set_attributes(root + path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)):
                return False
    shown_devices = all(_show(path, root) for path in DEVICES if os.path.exists(path))
    os.makedirs(root + root, exist_ok=True)
    return shown_devices


def _show(path: str, root: str) -> bool:
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    return _mount(path, target, flags=_MS_BIND | _MS_REC)


def _pivot(root: str) -> bool:
    """Make a mounted folder the root, read-only outside the mounts in it, and drop the old one."""
    os.chdir(root)
    if system_call("pivot_root", b".", b".") != 0:
        return False
    # Both are mounted at "/" now, the old one on top.
    if _LIBC.umount2(b".", _MNT_DETACH) != 0:
        return False
    os.chdir("/")
    return _set_attributes("/", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=False)


def _set_attributes(path: str, attributes: int, recursive: bool = True) -> bool:
    # struct mount_attr (linux/mount.h): to set, to clear, propagation, user namespace.
    content = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    return system_call("mount_setattr", _AT_FDCWD, path.encode(), flags, content, len(content)) == 0


def _mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str | None = None
) -> bool:
    texts = [text.encode() if text is not None else None for text in (source or "none", target, kind, options)]
    return int(_LIBC.mount(*texts[:3], ctypes.c_ulong(flags), texts[3])) == 0
