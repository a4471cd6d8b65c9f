"""Supervise one job in a bare interpreter of its own; started by `gra.sandbox.sandbox`, never by hand.

    the supervisor ─┬─ keeper ── the code
                    └─ keeper ── the tests

Each keeper waits for one confined process, ends it at its limits, and ends all processes below it. Standard input
holds two messages. The process of the code is forked between them, so its memory has never held the tests. Standard
output gets one JSON object. Only the standard library is imported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from gra.sandbox import confine, mounts, usage
from gra.sandbox.exchange import Channel, CodeHost, Tester

_MEGABYTE = 2**20
_TICK_S = 0.1  # between two looks at what a confined process uses
_MAX_VERDICT_BYTES, _MAX_DETAIL = 1 << 16, 1000
_NOT_STARTED = "it could not be started"
_OUT_OF_MEMORY, _NOT_CONFINED = 77, 78  # exit statuses of a confined process
Status = dict[str, Any]
Settings = Mapping[str, Any]  # limits, the expected isolation, and whether root started the sandbox


def main() -> None:
    """Read one job, run it, write its outcome."""
    begun = time.monotonic()
    first = _read_message()
    confine.die_with_parent(first["caller"])
    confine.hide_memory()  # the second message holds the expected answers
    limits, folder = first["limits"], first["folder"]
    most = int(limits["reply_mb"] * _MEGABYTE)
    ask_read, ask_write = os.pipe()
    reply_read, reply_write = os.pipe()

    def code() -> None:
        CodeHost(Channel(ask_read, reply_write, most)).serve(first["code"])

    settings = {name: first[name] for name in ("limits", "isolation", "root")}
    code_keeper = _Keeper(code, {ask_read, reply_write}, f"{folder}/code", settings)
    second = _read_message()
    verdict_read, verdict_write = os.pipe()

    def tests() -> None:
        found = Tester(Channel(reply_read, ask_write, most)).verdict(second)
        os.write(verdict_write, json.dumps(found).encode())

    tests_keeper = _Keeper(tests, {reply_read, ask_write, verdict_write}, f"{folder}/tests", settings)
    for handle in (ask_read, ask_write, reply_read, reply_write, verdict_write):
        os.close(handle)
    # Ends with the process of the tests, which its keeper ends at the latest.
    content = _read_all(verdict_read, _MAX_VERDICT_BYTES)
    of_tests = tests_keeper.finish()
    of_code = code_keeper.finish()
    # A process that was ended before it could report is only the consequence of what the other reported.
    reasons = [status["broken"] for status in (of_code, of_tests) if status["broken"]]
    broken = min(reasons, key=lambda reason: reason == _NOT_STARTED, default=None)
    verdict, detail = judge(read_verdict(content), of_code, of_tests, limits)
    outcome = {
        "verdict": verdict,
        "detail": detail,
        "broken": broken,
        "isolation": of_code.get("isolation"),
        "cpu_s": of_code["cpu_s"] + of_tests["cpu_s"],
        "wall_s": time.monotonic() - begun,
    }
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()


def read_verdict(content: bytes) -> dict[str, str] | None:
    """Return what the process of the tests wrote as its verdict, or None when it wrote none or anything else.

    Tests come with datasets, and a test can write into every handle of its process.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("verdict") not in ("passed", "failed", "memory", "gone"):
        return None
    detail = found.get("detail")
    return {"verdict": found["verdict"], "detail": detail[:_MAX_DETAIL] if isinstance(detail, str) else ""}


def judge(
    message: Mapping[str, str] | None, of_code: Status, of_tests: Status, limits: Mapping[str, float]
) -> tuple[str, str]:
    """Return verdict and reason.

    Args:
        message: the verdict of the tests' process, which has run the tests; None without one.
        of_code: how the code's process ended.
        of_tests: how the tests' process ended.
        limits: of the job.
    """
    if message is not None and message["verdict"] != "gone":
        return message["verdict"], message["detail"]
    for status in (of_code, of_tests):
        if status["excess"]:
            return "crashed", status["excess"]
        if status["timed_out"]:
            return "timeout", f"more than {limits['wall_s']:g} s"
        late = status["signal"] == signal.SIGKILL and status["cpu_s"] >= limits["cpu_s"] - 0.1
        if late or status["signal"] == signal.SIGXCPU:
            return "timeout", f"more than {limits['cpu_s']:g} s of processor time"
    for name, status in (("code", of_code), ("tests", of_tests)):
        # Only the kernel's out-of-memory killer is left as the sender of this signal.
        if status["exit"] == _OUT_OF_MEMORY or (status["signal"] == signal.SIGKILL and not status["stopped"]):
            return "memory", f"the process of the {name} ran out of memory"
    for name, status in (("code", of_code), ("tests", of_tests)):
        if status["signal"] and not status["stopped"]:
            return "crashed", f"the process of the {name} ended by signal {status['signal']}"
    return "crashed", f"the program ended with status {of_code['exit']} before the tests did"


class _Keeper:
    """Starts a process that waits for one confined process and reports through a pipe."""

    def __init__(self, work: Callable[[], None], keep: set[int], folder: str, settings: Settings) -> None:
        self._status, write = os.pipe()
        supervisor = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            confine.die_with_parent(supervisor)
            _leave(lambda: _keep(work, keep, folder, settings, write))
        os.close(write)

    def finish(self) -> Status:
        """End the keeper with all processes below it, and return how the confined process ended."""
        os.kill(self._pid, signal.SIGTERM)  # it is ours and was not waited for, so the number is still its own
        lines = _read_all(self._status).splitlines()
        os.waitpid(self._pid, 0)
        status: Status = {"timed_out": False, "stopped": False, "excess": "", "signal": 0, "exit": 0, "cpu_s": 0.0}
        status["broken"] = _NOT_STARTED
        for line in lines:
            status |= json.loads(line)
        return status


def _keep(work: Callable[[], None], keep: set[int], folder: str, settings: Settings, write: int) -> None:
    """Start the confined process, end it at its limits, and write how it ended."""
    limits = settings["limits"]
    confine.adopt_orphans()
    stop = {signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    namespaces = confine.enter_namespaces()
    begun = time.monotonic()
    keeper = 0 if "process" in namespaces else os.getpid()
    child = os.fork()
    if child == 0:
        confine.die_with_parent(keeper)
        _leave(lambda: _confined(work, keep | {write}, folder, settings, namespaces, keeper, write))
    _close_all_but({write})
    ended: tuple[int, int, Any] = (0, 0, None)
    timed_out, stopped, excess = False, False, ""
    while not ended[0]:
        left = limits["wall_s"] - (time.monotonic() - begun)
        got = signal.sigtimedwait(stop, min(left, _TICK_S)) if left > 0 else None
        ended = os.wait4(child, os.WNOHANG)
        if ended[0] or (got is not None and got.si_signo == signal.SIGCHLD):
            continue
        timed_out, stopped = left <= 0, got is not None
        excess = "" if timed_out or stopped else usage.excess(child, folder, limits)
        if timed_out or stopped or excess:
            os.kill(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
    _end_descendants()
    status = os.waitstatus_to_exitcode(ended[1])
    used = ended[2].ru_utime + ended[2].ru_stime
    report = {"timed_out": timed_out, "stopped": stopped, "excess": excess, "cpu_s": used}
    os.write(write, json.dumps(report | {"signal": max(0, -status), "exit": max(0, status)}).encode() + b"\n")


def _end_descendants() -> None:
    """Kill processes that the confined process started, where no layer refused it."""
    while True:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as handle:
                for pid in handle.read().split():
                    os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)
        except (ChildProcessError, OSError):
            return


def _confined(
    work: Callable[[], None],
    keep: set[int],
    folder: str,
    settings: Settings,
    namespaces: tuple[str, ...],
    keeper: int,
    report: int,
) -> None:
    """Give up everything, report what was given up, and do the work."""
    found: dict[str, Any] = {"broken": None}
    expected = settings["isolation"]
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _close_all_but(keep)
        _silence()
        found["isolation"] = _confine(folder, settings, namespaces, keeper)
    except OSError as error:
        found["broken"] = str(error)
    else:
        if expected is not None and found["isolation"] != expected:
            found["broken"] = f"the isolation changed from {expected} to {found['isolation']} while jobs ran"
    os.write(report, json.dumps(found).encode() + b"\n")
    os.close(report)
    if found["broken"] is not None:
        os._exit(_NOT_CONFINED)
    work()


def _silence() -> None:
    """Connect the three standard handles to nothing."""
    nothing = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)


def _confine(folder: str, settings: Settings, namespaces: tuple[str, ...], keeper: int) -> dict[str, Any]:
    """Apply every layer that this machine has, and return which it had."""
    confine.die_first()
    root, private, own = _enter_folder(folder, settings["limits"]["file_mb"], namespaces)
    if own:
        confine.die_with_parent(keeper)
    os.umask(0o077)
    _forget_the_package()
    # The kernel does not count the processes of root, in a user namespace either.
    counted = own or ("user" in namespaces and not settings["root"])
    confine.limit_resources(settings["limits"], count_threads=counted)
    if not confine.drop_privileges():
        raise OSError("privileges could not be given up")
    landlock = confine.confine_files(folder)
    return {
        "namespaces": list(namespaces),
        "landlock": landlock,
        "seccomp": confine.filter_syscalls(),
        "private_folder": private,
        "private_root": root,
        "own_user": own,
        "limited_threads": counted,
    }


def _enter_folder(folder: str, size_mb: int, namespaces: tuple[str, ...]) -> tuple[bool, bool, bool]:
    """Go to the working folder, as private as this machine allows.

    Returns:
        Whether the root is private, whether the folder is a file system of its own, and whether the user is.
    """
    changes = "user" not in namespaces and confine.may_change_user()
    owner = confine.spare_user() if changes else os.getuid()
    root = "mount" in namespaces and mounts.enter_private_root(folder, size_mb, owner)
    private = root or ("mount" in namespaces and mounts.mount_folder(folder, size_mb, owner))
    if changes and not private:
        os.chown(folder, owner, owner)
    os.chdir(folder)
    own = changes and confine.become_user(owner, folder)
    if changes and not own:
        os.chown(folder, 0, 0)
    return root, private, own


def _forget_the_package() -> None:
    """Leave the interpreter as a program finds it: no environment, arguments, modules or paths of this package."""
    sys.path.remove(sys.argv[1])
    sys.argv[:] = ["solution"]
    os.environ.clear()
    for name in [name for name in sys.modules if name == "gra" or name.startswith("gra.")]:
        del sys.modules[name]


def _leave(work: Callable[[], None]) -> None:
    """Do the work of a forked process and end it in every case; it never returns to its parent's stack."""
    status = 1
    try:
        work()
        status = 0
    except MemoryError:
        status = _OUT_OF_MEMORY
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        status = 1
    finally:
        os._exit(status & 0xFF)


def _close_all_but(keep: set[int]) -> None:
    edges = [2, *sorted(keep), 1 << 16]
    for one, two in pairwise(edges):
        os.closerange(one + 1, two)


def _read_message() -> Any:
    """Read one message from standard input, and no byte of the next."""
    size = int.from_bytes(_read_exactly(8), "big")
    return json.loads(_read_exactly(size))


def _read_exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            sys.exit("the job ended in the middle")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_all(handle: int, max_bytes: int = 1 << 20) -> bytes:
    """Read until the other end is closed, or one byte more than allowed, which makes it unreadable as JSON."""
    content = b""
    while len(content) <= max_bytes and (part := os.read(handle, 1 << 16)):
        content += part
    os.close(handle)
    return content if len(content) <= max_bytes else b""
