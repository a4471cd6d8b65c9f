"""The supervisor of one job, in a bare interpreter of its own; started by `gra.sandbox.sandbox`, never by hand.

    the supervisor ─┬─ keeper ── the code       each keeper waits for one confined process, enforces the wall
                    └─ keeper ── the tests      clock and leaves nothing alive

Standard input holds two messages. The process of the code is forked between them: its memory has never held the
tests. Standard output gets one JSON object. Only the standard library is imported.
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

from gra.sandbox import confine
from gra.sandbox.exchange import Channel, CodeHost, Tester

_MEGABYTE = 2**20
_OUT_OF_MEMORY, _NOT_CONFINED = 77, 78  # exit statuses of a confined process
Status = dict[str, Any]


def main() -> None:
    """Read one job, run it, write its outcome."""
    begun = time.monotonic()
    first = _read_message()
    confine.die_with_parent(first["caller"])
    limits, folder = first["limits"], first["folder"]
    most = int(limits["reply_mb"] * _MEGABYTE)
    ask_read, ask_write = os.pipe()
    reply_read, reply_write = os.pipe()

    def code() -> None:
        CodeHost(Channel(ask_read, reply_write, most)).serve(first["code"])

    code_keeper = _Keeper(code, {ask_read, reply_write}, f"{folder}/code", limits)
    second = _read_message()
    verdict_read, verdict_write = os.pipe()

    def tests() -> None:
        found = Tester(Channel(reply_read, ask_write, most)).verdict(second)
        os.write(verdict_write, json.dumps(found).encode())

    tests_keeper = _Keeper(tests, {reply_read, ask_write, verdict_write}, f"{folder}/tests", limits)
    for handle in (ask_read, ask_write, reply_read, reply_write, verdict_write):
        os.close(handle)
    message = _read_all(verdict_read)  # ends with the process of the tests, which its keeper ends at the latest
    of_tests = tests_keeper.finish()
    of_code = code_keeper.finish()
    broken = of_code.get("broken") or of_tests.get("broken")
    verdict, detail = judge(json.loads(message) if message else None, of_code, of_tests, limits)
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


def judge(
    message: Mapping[str, str] | None, of_code: Status, of_tests: Status, limits: Mapping[str, float]
) -> tuple[str, str]:
    """Verdict and reason from what the tests said and how the two processes ended; the code has no say in it."""
    if message is not None and message["verdict"] != "gone":
        return message["verdict"], message["detail"]
    for status in (of_code, of_tests):
        if status["timed_out"]:
            return "timeout", f"more than {limits['wall_s']:g} s"
        late = status["signal"] == signal.SIGKILL and status["cpu_s"] >= limits["cpu_s"] - 0.1
        if late or status["signal"] == signal.SIGXCPU:
            return "timeout", f"more than {limits['cpu_s']:g} s of processor time"
    for name, status in (("code", of_code), ("tests", of_tests)):
        # Nobody but the kernel's out-of-memory killer is left to have killed it.
        if status["exit"] == _OUT_OF_MEMORY or (status["signal"] == signal.SIGKILL and not status["stopped"]):
            return "memory", f"the process of the {name} ran out of memory"
    for name, status in (("code", of_code), ("tests", of_tests)):
        if status["signal"] and not status["stopped"]:
            return "crashed", f"the process of the {name} ended by signal {status['signal']}"
    return "crashed", f"the program ended with status {of_code['exit']} before the tests did"


class _Keeper:
    """A process that waits for one confined process; what it learns comes through a pipe."""

    def __init__(self, work: Callable[[], None], keep: set[int], folder: str, limits: Mapping[str, Any]) -> None:
        self._status, write = os.pipe()
        supervisor = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            confine.die_with_parent(supervisor)
            _leave(lambda: _keep(work, keep, folder, limits, write))
        os.close(write)

    def finish(self) -> Status:
        """End it, with everything below it, and return what it saw."""
        os.kill(self._pid, signal.SIGTERM)  # it is ours and was not waited for, so the number is still its own
        lines = _read_all(self._status).splitlines()
        os.waitpid(self._pid, 0)
        status: Status = {"timed_out": False, "stopped": False, "signal": 0, "exit": 0, "cpu_s": 0.0}
        status["broken"] = "it could not be started"
        for line in lines:
            status |= json.loads(line)
        return status


def _keep(work: Callable[[], None], keep: set[int], folder: str, limits: Mapping[str, Any], write: int) -> None:
    confine.adopt_orphans()
    stop = {signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    namespaces = confine.enter_namespaces()
    begun = time.monotonic()
    keeper = 0 if "process" in namespaces else os.getpid()
    child = os.fork()
    if child == 0:
        confine.die_with_parent(keeper)
        _leave(lambda: _confined(work, keep | {write}, folder, limits, namespaces, write))
    _close_all_but({write})
    ended: tuple[int, int, Any] = (0, 0, None)
    timed_out = stopped = False
    while not ended[0]:
        left = limits["wall_s"] - (time.monotonic() - begun)
        got = signal.sigtimedwait(stop, left) if left > 0 else None
        ended = os.wait4(child, os.WNOHANG)
        if not ended[0] and (got is None or got.si_signo != signal.SIGCHLD):
            timed_out, stopped = got is None, got is not None
            os.kill(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
    _end_descendants()
    status = os.waitstatus_to_exitcode(ended[1])
    used = ended[2].ru_utime + ended[2].ru_stime
    report = {"timed_out": timed_out, "stopped": stopped, "signal": max(0, -status), "exit": max(0, status)}
    os.write(write, json.dumps(report | {"cpu_s": used}).encode() + b"\n")


def _end_descendants() -> None:
    """Kill what the confined process left behind; there is something only where no layer forbade it."""
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
    limits: Mapping[str, Any],
    namespaces: tuple[str, ...],
    report: int,
) -> None:
    """Give up everything, say what was given up, and do the work."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _close_all_but(keep)
    nothing = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    private = "mount" in namespaces and confine.mount_folder(folder, limits["file_mb"])
    os.chdir(folder)
    os.umask(0o077)
    _forget_the_package()
    confine.limit_resources(limits, count_threads="user" in namespaces)
    if not confine.drop_privileges():
        os.write(report, json.dumps({"broken": "privileges could not be given up"}).encode() + b"\n")
        os._exit(_NOT_CONFINED)
    landlock = confine.confine_files(folder)
    seccomp = confine.filter_syscalls()
    isolation = {"namespaces": namespaces, "landlock": landlock, "seccomp": seccomp, "private_folder": private}
    os.write(report, json.dumps({"isolation": isolation, "broken": None}).encode() + b"\n")
    os.close(report)
    work()


def _forget_the_package() -> None:
    """The interpreter as a program finds it: no environment, no arguments, none of our modules or paths."""
    sys.path.remove(sys.argv[1])
    sys.argv[:] = ["solution"]
    os.environ.clear()
    for name in [name for name in sys.modules if name == "gra" or name.startswith("gra.")]:
        del sys.modules[name]


def _leave(work: Callable[[], None]) -> None:
    """Do the work of a forked process and end it, whatever happens; its parent's stack is never returned to."""
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
    """One message from standard input, and not a byte of the next."""
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


def _read_all(handle: int) -> bytes:
    parts = []
    while part := os.read(handle, 1 << 16):
        parts.append(part)
    os.close(handle)
    return b"".join(parts)
