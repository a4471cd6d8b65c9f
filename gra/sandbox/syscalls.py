"""List the system calls that sandboxed code may make, and build the kernel's filter from the list.

Every call that is not listed is refused, including calls of later kernels. The list is what the standard library of
Python needs for programs with plain files, threads and event loops. Some calls are allowed for some arguments only.
Numbers come from the kernel's tables for x86-64 and for the generic table that aarch64 uses.

Left out on purpose, beside new processes, signals, tracing, mounts and namespaces:

- Sockets. A connected pair of stream sockets is allowed, because event loops need one. Datagram pairs, addresses and
  messages with file handles are refused: each of them reaches sockets outside.
- Rights, owners, times and extended attributes of files by their path: Landlock does not confine them.
- News about files and file systems (inotify, fanotify, statfs, listmount): they show what is outside.
- Memory outside the limits: memfd, System V segments, message queues, locked memory, `vmsplice`.
- Asynchronous calls (io_uring, aio): they pass by this filter.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import NamedTuple

_X86, _ARM = "x86_64", "aarch64"
_AUDIT_ARCH = {_X86: 0xC000003E, _ARM: 0xC00000B7}
# Each call as (x86-64, aarch64); -1 where an architecture has no such call.
_ALLOWED = {
    # reading, writing and handles
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286), "pwritev2": (328, 287),
    "lseek": (8, 62), "sendfile": (40, 71), "copy_file_range": (326, 285), "close": (3, 57),
    "close_range": (436, 436), "dup": (32, 23), "dup2": (33, -1), "dup3": (292, 24), "pipe": (22, -1),
    "pipe2": (293, 59), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46),
    "fallocate": (285, 47), "fadvise64": (221, 223), "readahead": (187, 213), "sync_file_range": (277, 84),
    # files by their path, which Landlock or the private root confine
    "open": (2, -1), "openat": (257, 56), "creat": (85, -1), "stat": (4, -1), "fstat": (5, 80), "lstat": (6, -1),
    "newfstatat": (262, 79), "statx": (332, 291), "access": (21, -1), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, -1), "readlinkat": (267, 78), "getdents": (78, -1), "getdents64": (217, 61), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "fstatfs": (138, 44), "mkdir": (83, -1), "mkdirat": (258, 34),
    "rmdir": (84, -1), "link": (86, -1), "linkat": (265, 37), "symlink": (88, -1), "symlinkat": (266, 36),
    "unlink": (87, -1), "unlinkat": (263, 35), "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276),
    "umask": (95, 166),
    # waiting; the ends of a connected pair (see `socketpair` and `sendto` below)
    "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72), "epoll_create": (213, -1),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, -1), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441), "eventfd": (284, -1), "eventfd2": (290, 19), "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "recvfrom": (45, 207), "shutdown": (48, 210),
    "getsockname": (51, 204), "getpeername": (52, 205), "getsockopt": (55, 209),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233),
    "brk": (12, 214), "msync": (26, 227), "mincore": (27, 232),
    # threads and the end
    "futex": (202, 98), "futex_waitv": (449, 449), "futex_wake": (454, 454), "futex_wait": (455, 455),
    "futex_requeue": (456, 456), "set_robust_list": (273, 99), "rseq": (334, 293), "membarrier": (324, 283),
    "sched_yield": (24, 124), "getcpu": (309, 168), "set_tid_address": (218, 96), "restart_syscall": (219, 128),
    "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95), "arch_prctl": (158, -1),
    "map_shadow_stack": (453, 453),
    # its own signal handlers and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "pause": (34, -1),
    "alarm": (37, -1), "getitimer": (36, 102), "setitimer": (38, 103),
    # clocks
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, -1), "times": (100, 153),
    # facts about itself, its own limits, random numbers
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, -1), "getpgid": (121, 155), "getsid": (124, 156),
    "getpriority": (140, 141), "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "getrandom": (318, 278),
}  # fmt: skip
# `shutil` copies these and continues without them when the file system has none, which is what this error says.
_UNSUPPORTED = {
    "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10), "listxattr": (194, 11),
    "llistxattr": (195, 12), "flistxattr": (196, 13), "getxattrat": (464, 464), "listxattrat": (465, 465),
}  # fmt: skip


class _Check(NamedTuple):
    """A condition on a 32-bit half of an argument: with these bits cleared, it is one of these values."""

    argument: int
    values: tuple[int, ...]
    cleared: int = 0
    high_half: bool = False


# linux/sched.h: exactly the flags of pthread_create; CLONE_DETACHED has no effect and some C libraries set it.
_THREAD, _CLONE_DETACHED = 0x003D0F00, 0x00400000
_AF_UNIX, _SOCK_STREAM, _SOCK_NONBLOCK_CLOEXEC = 1, 1, 0o2004000
# linux/fcntl.h: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, three for locks, F_GETOWN, three for locks of open files,
# F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Not F_SETOWN, F_SETSIG, F_NOTIFY, F_SETLEASE, F_SETPIPE_SZ.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 9, 36, 37, 38, 1030, 1032)
# asm-generic/ioctls.h: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, and TCGETS2.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
# linux/prctl.h: PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_NO_NEW_PRIVS, PR_SET_VMA.
_PRCTL = (3, 15, 16, 39, 0x53564D41)
# Calls that are allowed only when every check holds.
_CONDITIONAL: tuple[tuple[tuple[int, int], tuple[_Check, ...]], ...] = (
    ((56, 220), (_Check(0, (_THREAD,), cleared=_CLONE_DETACHED),)),  # clone
    ((72, 25), (_Check(1, _FCNTL),)),  # fcntl
    ((16, 29), (_Check(1, _IOCTL),)),  # ioctl
    ((157, 167), (_Check(0, _PRCTL),)),  # prctl
    ((302, 261), (_Check(0, (0,)),)),  # prlimit64: its own limits only
    ((53, 199), (_Check(0, (_AF_UNIX,)), _Check(1, (_SOCK_STREAM,), cleared=_SOCK_NONBLOCK_CLOEXEC))),  # socketpair
    ((44, 206), (_Check(4, (0,)), _Check(4, (0,), high_half=True))),  # sendto: without an address
)
_CLONE3 = 435
# Calls from this number on are newer than these tables.
_FIRST_UNKNOWN = 462
# Calls that the sandbox itself makes and the C library may not have by name.
_OWN = {
    "pivot_root": (155, 41), "mount_setattr": (442, 442), "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
}  # fmt: skip
NUMBERS = {
    machine: {name: pair[place] for name, pair in (_ALLOWED | _UNSUPPORTED | _OWN).items() if pair[place] >= 0}
    for place, machine in enumerate((_X86, _ARM))
}

# Classic BPF (linux/bpf_common.h) over struct seccomp_data: number at 0, architecture at 4, arguments from 16 on.
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000


def allow_program(machine: str) -> bytes | None:
    """Return the filter for a machine, 8 bytes an instruction; None for an architecture without a table here."""
    if machine not in _AUDIT_ARCH:
        return None
    place = (_X86, _ARM).index(machine)
    refuse, unknown = _return(_ERROR | errno.EPERM), _return(_ERROR | errno.ENOSYS)
    program = [_instruction(_LOAD, 4), _instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0), _return(_KILL)]
    program += [_instruction(_LOAD, 0)]
    if machine == _X86:  # the second numbering of the same kernel
        program += [_instruction(_AT_LEAST, _X32, 0, 1), refuse]
    for calls, answer in ((_ALLOWED, _return(_ALLOW)), (_UNSUPPORTED, _return(_ERROR | errno.EOPNOTSUPP))):
        for pair in calls.values():
            if pair[place] >= 0:
                program += [_instruction(_EQUAL, pair[place], 0, 1), answer]
    for numbers, checks in _CONDITIONAL:
        block = [instruction for check in checks for instruction in _checked(check, refuse)]
        program += [_instruction(_EQUAL, numbers[place], 0, len(block) + 1), *block, _return(_ALLOW)]
    # A filter cannot see clone3's flags; without it the C library falls back to clone, whose flags it can see.
    program += [_instruction(_EQUAL, _CLONE3, 0, 1), unknown, _instruction(_AT_LEAST, _FIRST_UNKNOWN, 0, 1), unknown]
    return b"".join([*program, refuse])


def _checked(check: _Check, refuse: bytes) -> Iterator[bytes]:
    """Yield instructions that go on behind their end when the check holds, and refuse otherwise."""
    yield _instruction(_LOAD, 16 + 8 * check.argument + 4 * check.high_half)
    yield _instruction(_AND, 0xFFFFFFFF & ~check.cleared)
    for place, value in enumerate(check.values):
        yield _instruction(_EQUAL, value, len(check.values) - place, 0)
    yield refuse


def _return(value: int) -> bytes:
    return _instruction(_RETURN, value)


def _instruction(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)
