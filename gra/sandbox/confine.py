"""Take away what a process may do, before it runs unreviewed code.

Each layer is tried alone, and its function returns whether the kernel granted it. So the record is right on a machine
that has fewer layers. No layer needs a privilege; all need Linux. Only the standard library is imported: this runs in
the bare interpreter of the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterator, Mapping

from gra.sandbox.syscalls import NUMBERS, allow_program

_LIBC = ctypes.CDLL(None, use_errno=True)
_NAMESPACES = {"user": 0x10000000, "process": 0x20000000, "network": 0x40000000, "ipc": 0x08000000, "mount": 0x00020000}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_SIGKILL = 9
# linux/capability.h: CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID.
_CHANGE_USER = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7
_SPARE_USERS = 0x71000000  # the first of a range of 2 ** 24 that distributions and containers leave free

# Landlock (linux/landlock.h): number of rights over files, by version of its interface. Below: the rights to read,
# the rights that a single file can have, and the right to execute.
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_READ = 1 << 2 | 1 << 3
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_EXECUTE = 1 << 0
DEVICES = "/dev/null", "/dev/zero", "/dev/urandom"
_SYSTEM = "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"


def _prctl(option: int, value: int) -> bool:
    zero = ctypes.c_ulong(0)
    return int(_LIBC.prctl(option, ctypes.c_ulong(value), zero, zero, zero)) == 0


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, or at once if it has ended already.

    Args:
        parent: Its number, 0 for a parent outside this process namespace.
    """
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory(hidden: bool = True) -> None:
    """Keep processes of the same user out of this one: its memory, its environment, its handles in /proc."""
    _prctl(_PR_SET_DUMPABLE, int(not hidden))


def die_first() -> None:
    """Make this process the first that the kernel ends when the machine runs out of memory."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as handle:
            handle.write("1000")
    except OSError:
        pass  # then the kernel chooses by size


def may_change_user() -> bool:
    """Check that this process can become a spare user, and end a process that did."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as handle:
            capabilities = next(int(line.split()[1], 16) for line in handle if line.startswith("CapEff:"))
        mapped = all(_has_spare_numbers(f"/proc/self/{kind}_map") for kind in ("uid", "gid"))
    except (OSError, StopIteration):
        return False
    return mapped and capabilities & _CHANGE_USER == _CHANGE_USER


def _has_spare_numbers(path: str) -> bool:
    """Check that a user namespace knows the whole range of spare users."""
    with open(path, encoding="ascii") as handle:
        ranges = [[int(number) for number in line.split()] for line in handle]
    return any(first <= _SPARE_USERS and first + count >= _SPARE_USERS + (1 << 24) for first, _, count in ranges)


def enter_namespaces() -> tuple[str, ...]:
    """Enter new namespaces, all or none; the process namespace holds for the next child.

    Returns:
        Their names. A user namespace is among them only where the others cannot be had without it.
    """
    uid, gid = os.getuid(), os.getgid()
    without_user = {name: flag for name, flag in _NAMESPACES.items() if name != "user"}
    if may_change_user() and _LIBC.unshare(sum(without_user.values())) == 0:
        return tuple(without_user)
    if _LIBC.unshare(sum(_NAMESPACES.values())) != 0:
        return ()
    hide_memory(False)  # else the files below belong to root
    try:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{file}", "w", encoding="ascii") as handle:
                handle.write(text)
    except OSError:
        pass  # without a map files of the private folder cannot be made, which `mount_folder` finds out
    hide_memory()
    return tuple(_NAMESPACES)


def spare_user() -> int:
    """Return a number of a user that no account and no other job has."""
    return _SPARE_USERS + int.from_bytes(os.urandom(3), "big")


def become_user(user: int, folder: str) -> bool:
    """Become a user of this number, for good; False when that user could not reach Python or the folder.

    The caller arms `die_with_parent` again, because the kernel forgets it when the user changes.
    """
    groups = os.getgroups()
    library = os.path.dirname(os.__file__)
    try:
        os.setgroups([])
        os.setegid(user)
        os.seteuid(user)
        readable = all(os.listdir(path) for path in (library, f"{library}/encodings")) and os.listdir(folder) == []
    except OSError:
        readable = False
    os.seteuid(0)
    os.setegid(0)
    if not readable:
        os.setgroups(groups)
        return False
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    return True


def limit_resources(limits: Mapping[str, int], *, count_threads: bool) -> None:
    """Set hard limits of the kernel.

    Args:
        limits: The fields of `job.Limits`.
        count_threads: Only where no process outside the sandbox is counted as well.
    """
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
        # A second more until SIGKILL: SIGXCPU names the limit, and SIGKILL could also mean a lack of memory.
        last = value + (kind == resource.RLIMIT_CPU)
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value, last = min(value, hard), min(last, hard)
        resource.setrlimit(kind, (value, last))


def drop_privileges() -> bool:
    """Give up every capability for good; False when the kernel refused."""
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1) and _LIBC.capset(header, nothing) == 0


def confine_files(folder: str) -> int:
    """Leave of all files only the folder (to read and write) and the Python installation (to read).

    Returns:
        The version of Landlock, 0 without it.
    """
    version = int(system_call("landlock_create_ruleset", None, 0, 1))
    if version < 1:
        return 0
    every = (1 << _FS_RIGHTS[min(version, max(_FS_RIGHTS))]) - 1
    # From version 4 on, no TCP port either. From 6 on, no abstract socket and no signal to a process outside.
    attributes = struct.pack("=QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = int(system_call("landlock_create_ruleset", attributes, size, 0))
    if ruleset < 0:
        return 0
    try:
        for path, rights in _granted(folder, every):
            _allow(ruleset, path, rights)
        restricted = system_call("landlock_restrict_self", ruleset, 0) == 0
    finally:
        os.close(ruleset)
    return version if restricted else 0


def readable_paths() -> tuple[str, ...]:
    """Return the folders and files that a Python program needs to read, whether or not this system has them."""
    library = os.path.dirname(os.__file__)
    return tuple(dict.fromkeys((library, os.path.join(sys.base_prefix, "lib"), *_SYSTEM)))


def _granted(folder: str, every: int) -> Iterator[tuple[str, int]]:
    yield from ((path, _READ) for path in readable_paths())
    yield from ((path, _FILE_RIGHTS & every & ~_EXECUTE) for path in DEVICES)
    yield folder, every & ~_EXECUTE


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # this system has none
    try:
        if not os.path.isdir(path):
            rights &= _FILE_RIGHTS
        system_call("landlock_add_rule", ruleset, 1, struct.pack("=Qi", rights, handle), 0)
    finally:
        os.close(handle)


def filter_syscalls() -> bool:
    """Refuse for good every system call that is not listed in `syscalls.py`; False when the kernel refused."""
    program = allow_program(os.uname().machine)
    if program is None:
        return False
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many instructions of 8 bytes, and where they are.
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    pointer = ctypes.create_string_buffer(header, len(header))
    zero = ctypes.c_ulong(0)
    return int(_LIBC.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), pointer, zero, zero)) == 0


def system_call(name: str, *arguments: int | bytes | None) -> int:
    """Make a system call by its number; -1 when it fails or the number is not known for this machine."""
    number = NUMBERS.get(os.uname().machine, {}).get(name)
    if number is None:
        return -1
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_LIBC.syscall(ctypes.c_long(number), *values))
