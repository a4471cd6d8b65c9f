"""The filter of system calls decides as its list says, on both architectures: its instructions are interpreted here."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.sandbox import syscalls
from gra.sandbox.syscalls import NUMBERS, allow_program

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
REFUSED, UNKNOWN, UNSUPPORTED = (ERROR | number for number in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP))
# Calls that lead out of the sandbox, by what they are for: (x86-64, aarch64), -1 for none.
FORBIDDEN = {
    # new programs and processes
    "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281),
    # signals to other processes, and their memory
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    # limits, processors and priority of other processes
    "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    # user and group
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "capset": (126, 91), "setsid": (112, 157), "setpgid": (109, 154),
    # rights, owners, times and sizes of files by their path, which Landlock does not confine
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, -1),
    "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54), "utime": (132, -1), "utimes": (235, -1),
    "futimesat": (261, -1), "utimensat": (280, 88), "truncate": (76, 45), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "mknod": (133, -1), "mknodat": (259, 33),
    # sockets: addresses, and file handles sent or received in a message
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269), "recvmsg": (47, 212), "recvmmsg": (299, 243),
    "setsockopt": (54, 208),
    # news about files and file systems outside
    "inotify_init": (253, -1), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263), "statfs": (137, 43), "statmount": (457, 457), "listmount": (458, 458),
    "lookup_dcookie": (212, 18), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # file systems and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "open_tree_attr": (467, 467), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # memory outside the limits: files without a name, segments that outlive their maker
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "shmdt": (67, 197), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mlock": (149, 228), "mlock2": (325, 284), "mlockall": (151, 230),
    "remap_file_pages": (216, 234), "vmsplice": (278, 75), "splice": (275, 76), "tee": (276, 77),
    # ways into the kernel that a solution of an exercise does not need
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_setup": (206, -1), "io_submit": (209, 2),
    "kill_x32": (0x40000000 + 62, -1),
    "seccomp": (317, 277), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "syslog": (103, 116), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "personality": (135, 92), "vhangup": (153, 58),
    "iopl": (172, -1), "ioperm": (173, -1), "modify_ldt": (154, -1), "sync": (162, 81), "syncfs": (306, 267),
}  # fmt: skip
words = st.integers(0, 2**64 - 1)


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Return what the filter answers to a call, as the kernel would compute it."""
    program = allow_program(machine)
    assert program is not None
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture or MACHINES[machine], 0, *values)
    place, register = 0, 0
    while True:
        code, jump_true, jump_false, value = struct.unpack_from("=HBBI", program, 8 * place)
        place += 1
        if code == 0x20:
            [register] = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            register &= value
        elif code == 0x06:
            return int(value)
        else:
            place += jump_true if {0x15: register == value, 0x35: register >= value}[code] else jump_false


def conditional(name: str, machine: str) -> int:
    """Return the number of a call that is allowed for some arguments."""
    known = {
        "clone": (56, 220), "fcntl": (72, 25), "ioctl": (16, 29), "prctl": (157, 167), "prlimit64": (302, 261),
        "socketpair": (53, 199), "sendto": (44, 206),
    }  # fmt: skip
    return known[name][list(MACHINES).index(machine)]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", FORBIDDEN)
def test_filter_refuses_calls_that_lead_out(name: str, machine: str) -> None:
    number = FORBIDDEN[name][list(MACHINES).index(machine)]
    if number >= 0:
        assert decide(machine, number) in (REFUSED, UNKNOWN)


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, 2**32 - 1), arguments=st.lists(words, min_size=6, max_size=6))
def test_filter_allows_listed_calls_only(machine: str, number: int, arguments: list[int]) -> None:
    listed = {NUMBERS[machine][name] for name in syscalls._ALLOWED if name in NUMBERS[machine]}
    listed |= {numbers[list(MACHINES).index(machine)] for numbers, _ in syscalls._CONDITIONAL}
    assert decide(machine, number, *arguments) != ALLOW or number in listed


@pytest.mark.parametrize("machine", MACHINES)
def test_filter_answers_every_number(machine: str) -> None:
    place = list(MACHINES).index(machine)
    answers = {number: decide(machine, number) for number in range(600)}
    allowed = {pair[place] for pair in syscalls._ALLOWED.values()} - {-1}
    assert {number for number in allowed if answers[number] != ALLOW} == set()
    assert all(answers[NUMBERS[machine][name]] == UNSUPPORTED for name in syscalls._UNSUPPORTED)
    assert {answers[number] for number in range(470, 600)} == {UNKNOWN}
    assert answers[435] == UNKNOWN  # clone3: the C library tries clone then


@pytest.mark.parametrize("machine", MACHINES)
def test_filter_kills_calls_of_another_architecture(machine: str) -> None:
    assert decide(machine, 0, architecture=0x40000003) == KILL  # 32-bit x86, by `int 0x80`


@given(number=st.integers(0x40000000, 2**32 - 1))
def test_filter_refuses_the_second_numbering_of_x86(number: int) -> None:
    assert decide("x86_64", number) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
@given(domain=words, kind=words)
def test_filter_allows_pairs_of_stream_sockets_only(machine: str, domain: int, kind: int) -> None:
    low_domain, low_kind = domain % 2**32, kind % 2**32
    right = low_domain == 1 and low_kind & ~0o2004000 == 1
    assert decide(machine, conditional("socketpair", machine), domain, kind) == (ALLOW if right else REFUSED)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flags", [0, 0o4000, 0o2000000, 0o2004000])
def test_filter_looks_below_the_flags_of_a_socket(machine: str, flags: int) -> None:
    number = conditional("socketpair", machine)
    assert decide(machine, number, 1, 1 | flags) == ALLOW
    assert {decide(machine, number, 1, kind | flags) for kind in (0, 2, 3, 4, 5, 6, 10)} == {REFUSED}
    assert {decide(machine, number, domain, 1 | flags) for domain in (0, 2, 10, 16, 30, 40)} == {REFUSED}


@pytest.mark.parametrize("machine", MACHINES)
@given(address=words)
def test_filter_refuses_every_address(machine: str, address: int) -> None:
    number = conditional("sendto", machine)
    assert decide(machine, number, 3, 0x1000, 5, 0, address) == (REFUSED if address else ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("bit", range(64))
def test_filter_refuses_an_address_with_one_bit(machine: str, bit: int) -> None:
    assert decide(machine, conditional("sendto", machine), 3, 0x1000, 5, 0, 1 << bit) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_filter_allows_threads_and_no_processes(machine: str) -> None:
    number, thread = conditional("clone", machine), 0x003D0F00
    assert decide(machine, number, thread) == ALLOW
    assert decide(machine, number, thread | 0x00400000) == ALLOW
    others = [0, 17, 0x4100, 0x01200011, thread & ~0x10000, *(thread ^ 1 << bit for bit in range(32) if bit != 22)]
    assert {decide(machine, number, flags) for flags in others} == {REFUSED}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "place", "refused"),
    [
        ("fcntl", 1, [8, 10, 15, 16, 1024, 1025, 1026, 1031, 1033, 1034]),  # owners, signals, leases, sizes, seals
        ("ioctl", 1, [0x8901, 0x8902, 0x5452, 0x5412, 0x540E, 0x40086602, 0x401C5820, 0xC0045877]),
        ("prctl", 0, [1, 4, 8, 22, 24, 28, 35, 36, 38, 47, 0x59616D61]),
        ("prlimit64", 0, [1, 2, 2**31, 2**32 - 1]),
    ],
)
def test_filter_refuses_dangerous_arguments(machine: str, name: str, place: int, refused: list[int]) -> None:
    for value in refused:
        for high in (0, 1 << 32):  # the kernel ignores the upper half of these
            arguments = [0] * place + [value | high]
            assert decide(machine, conditional(name, machine), *arguments) == REFUSED, value


def test_unknown_machine_has_no_filter() -> None:
    assert allow_program("riscv64") is None


@pytest.mark.parametrize(
    ("machine", "header", "pattern"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)"),
        ("aarch64", "/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b"),
    ],
)
def test_numbers_are_those_of_the_kernel(machine: str, header: str, pattern: str) -> None:
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    known = {name: int(number) for name, number in re.findall(pattern, Path(header).read_text())}
    renamed = {"fstatat": "newfstatat"}
    known |= {renamed[name]: number for name, number in known.items() if name in renamed}
    ours = NUMBERS[machine] | {name: pair[list(MACHINES).index(machine)] for name, pair in FORBIDDEN.items()}
    wrong = {
        name: (number, known[name])
        for name, number in ours.items()
        if name in known and number not in (known[name], -1)
    }
    assert wrong == {}
    assert len(ours.keys() & known.keys()) > 150
