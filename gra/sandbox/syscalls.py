"""The system calls that sandboxed code may not make, and the kernel's filter that says so.

Everything not listed is allowed: the layers around it (no network, no files, no other process in sight) hold
without the filter, which is there to stop what they do not cover and to stay where they cannot be had.
Numbers from the kernel's tables for x86-64 and for the generic table that aarch64 uses.
"""

from __future__ import annotations

import errno
import struct

_X86, _ARM = "x86_64", "aarch64"
_AUDIT_ARCH = {_X86: 0xC000003E, _ARM: 0xC00000B7}
# One line a purpose; (x86-64, aarch64), 0 where an architecture has no such call.
_DENIED = {
    # new programs and processes (threads are allowed: see `clone` below)
    "fork": (57, 0), "vfork": (58, 0), "execve": (59, 221), "execveat": (322, 281),
    # signals to, and the memory of, anybody
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "process_madvise": (440, 440),
    # the limits, processors and priority of others (`prlimit64`: see below)
    "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    # the rights, owners, times and sizes of files by their path: Landlock does not look at these
    "chmod": (90, 0), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, 0),
    "fchown": (93, 55), "lchown": (94, 0), "fchownat": (260, 54), "utime": (132, 0), "utimes": (235, 0),
    "futimesat": (261, 0), "utimensat": (280, 88), "truncate": (76, 45), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    # the network; pairs of connected sockets stay allowed, event loops need them
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    # file systems and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265),
    # memory outside the limits: files without a name, segments that outlive their maker or are somebody else's
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180),
    # doors into the kernel that no solution of an exercise needs
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "fanotify_init": (300, 262),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "syslog": (103, 116), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "personality": (135, 92), "vhangup": (153, 58),
    "iopl": (172, 0), "ioperm": (173, 0),
}  # fmt: skip
_CLONE3 = 435
_LANDLOCK = {"landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446}
NUMBERS = {
    machine: {**{name: pair[place] for name, pair in _DENIED.items()}, **_LANDLOCK}
    for place, machine in enumerate((_X86, _ARM))
}

# Classic BPF (linux/bpf_common.h) over struct seccomp_data: number at 0, architecture at 4, arguments from 16 on.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD, _PR_SET_PDEATHSIG = 0x00010000, 1
_X32 = 0x40000000
# Calls that depend on their first argument: (x86-64, aarch64), the comparison, its value, and whether it must hold.
_DEPENDING = (
    ((56, 220), _ANY_BIT, _CLONE_THREAD, True),  # clone: threads only
    ((157, 167), _EQUAL, _PR_SET_PDEATHSIG, False),  # prctl: what ends with its parent goes on doing so
    ((302, 261), _EQUAL, 0, True),  # prlimit64: nobody's limits but its own
)


def deny_program(machine: str) -> bytes | None:
    """The filter for this machine, 8 bytes an instruction; None for an architecture whose numbers are not known."""
    if machine not in _AUDIT_ARCH:
        return None
    refuse = _instruction(_RETURN, _ERROR | errno.EPERM)
    program = [
        _instruction(_LOAD, 4),
        _instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, 0),
    ]
    if machine == _X86:  # the second numbering of the same kernel
        program += [_instruction(_AT_LEAST, _X32, 0, 1), refuse]
    for name in _DENIED:
        if number := NUMBERS[machine][name]:
            program += [_instruction(_EQUAL, number, 0, 1), refuse]
    # A filter cannot see clone3's flags; without it the C library falls back to clone, whose flags it can see.
    program += [_instruction(_EQUAL, _CLONE3, 0, 1), _instruction(_RETURN, _ERROR | errno.ENOSYS)]
    allow = _instruction(_RETURN, _ALLOW)
    for numbers, comparison, value, must_hold in _DEPENDING:
        number = numbers[(_X86, _ARM).index(machine)]
        compare = _instruction(comparison, value, int(must_hold), int(not must_hold))
        program += [_instruction(_EQUAL, number, 0, 4), _instruction(_LOAD, 16), compare, refuse, allow]
    return b"".join([*program, allow])


def _instruction(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)
