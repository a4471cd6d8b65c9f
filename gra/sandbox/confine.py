"""Take a process's powers away before it runs code that nobody has read.

Each layer is tried alone and the caller is told which ones the kernel granted, so that the record is honest on a
machine that has fewer. None needs a privilege; they need Linux. Only the standard library is imported: this runs
in the bare interpreter of the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping

from gra.sandbox.syscalls import NUMBERS, allow_program

_LIBC = ctypes.CDLL(None, use_errno=True)
_NAMESPACES = {"user": 0x10000000, "process": 0x20000000, "network": 0x40000000, "ipc": 0x08000000, "mount": 0x00020000}
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SIGKILL = 9

# Landlock: rights over files by the version of the interface that introduced the last of them
# (linux/landlock.h), those that a single file can have, and the two other kinds of rule.
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_READ = 1 << 2 | 1 << 3
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_EXECUTE = 1 << 0
_DEVICES = "/dev/null", "/dev/zero", "/dev/urandom"
_SYSTEM = "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"


def _prctl(option: int, value: int) -> bool:
    zero = ctypes.c_ulong(0)
    return int(_LIBC.prctl(option, ctypes.c_ulong(value), zero, zero, zero)) == 0


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends; at once if it ended before this was asked for.

    Args:
        parent: its number, 0 for one outside this process namespace.
    """
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def enter_namespaces() -> tuple[str, ...]:
    """New namespaces, all or none; the process namespace holds for the next child."""
    uid, gid = os.getuid(), os.getgid()
    if _LIBC.unshare(sum(_NAMESPACES.values())) != 0:
        return ()
    try:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{file}", "w", encoding="ascii") as handle:
                handle.write(text)
    except OSError:
        pass  # without a map files of the private folder cannot be made, which `mount_folder` finds out
    return tuple(_NAMESPACES)


def mount_folder(folder: str, size_mb: int) -> bool:
    """Put a memory file system of this size over a folder, visible to this process alone."""
    if _LIBC.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0:
        return False
    flags, options = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, f"size={size_mb}m,nr_inodes=1024,mode=700"
    path = folder.encode()
    if _LIBC.mount(b"tmpfs", path, b"tmpfs", ctypes.c_ulong(flags), options.encode()) != 0:
        return False
    try:
        os.close(os.open(os.path.join(folder, ".try"), os.O_CREAT | os.O_WRONLY))
        os.unlink(os.path.join(folder, ".try"))
    except OSError:
        _LIBC.umount2(path, 2)
        return False
    return True


def limit_resources(limits: Mapping[str, int], *, count_threads: bool) -> None:
    """Hard limits of the kernel; `count_threads` only where nobody else's processes are counted with ours."""
    megabyte = 2**20
    values = {
        resource.RLIMIT_AS: limits["memory_mb"] * megabyte,
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["file_mb"] * megabyte,
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if count_threads:
        values[resource.RLIMIT_NPROC] = limits["threads"]
    for kind, value in values.items():
        # A second more until SIGKILL: SIGXCPU says what it is for, and SIGKILL could be for want of memory.
        last = value + (kind == resource.RLIMIT_CPU)
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value, last = min(value, hard), min(last, hard)
        resource.setrlimit(kind, (value, last))


def drop_privileges() -> bool:
    """Give up every capability, for good; False when the kernel did not agree."""
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1) and _LIBC.capset(header, nothing) == 0


def confine_files(folder: str) -> int:
    """Leave only the folder (to read and write) and the Python installation (to read); Landlock's version or 0."""
    version = int(_syscall("landlock_create_ruleset", None, 0, 1))
    if version < 1:
        return 0
    every = (1 << _FS_RIGHTS[min(version, max(_FS_RIGHTS))]) - 1
    # From version 4 on no TCP port either; from 6 on no abstract socket and no signal to anybody outside.
    attributes = struct.pack("=QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = int(_syscall("landlock_create_ruleset", attributes, size, 0))
    if ruleset < 0:
        return 0
    try:
        for path, rights in _granted(folder, every):
            _allow(ruleset, path, rights)
        restricted = _syscall("landlock_restrict_self", ruleset, 0) == 0
    finally:
        os.close(ruleset)
    return version if restricted else 0


def _granted(folder: str, every: int) -> Iterator[tuple[str, int]]:
    library = os.path.dirname(os.__file__)
    readable: Iterable[str] = dict.fromkeys((library, os.path.join(sys.base_prefix, "lib"), *_SYSTEM))
    yield from ((path, _READ) for path in readable)
    yield from ((path, _FILE_RIGHTS & every & ~_EXECUTE) for path in _DEVICES)
    yield folder, every & ~_EXECUTE


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # this system has none
    try:
        if not os.path.isdir(path):
            rights &= _FILE_RIGHTS
        _syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", rights, handle), 0)
    finally:
        os.close(handle)


def filter_syscalls() -> bool:
    """Refuse new processes, signals to others, sockets, mounts, tracing and the like (`syscalls.py`), for good."""
    program = allow_program(os.uname().machine)
    if program is None:
        return False
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many instructions of 8 bytes, and where they are.
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    pointer = ctypes.create_string_buffer(header, len(header))
    zero = ctypes.c_ulong(0)
    return int(_LIBC.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), pointer, zero, zero)) == 0


def _syscall(name: str, *arguments: int | bytes | None) -> int:
    number = NUMBERS.get(os.uname().machine, {}).get(name)
    if number is None:
        return -1
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_LIBC.syscall(ctypes.c_long(number), *values))
