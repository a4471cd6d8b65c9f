"""Run jobs in the sandbox and collect their verdicts.

    sandbox = Sandbox(permission)               # finds out which isolation this machine offers
    sandbox.run(Job(code, tests)).verdict       # "passed", "failed", …

Every job gets a fresh interpreter with an empty environment and a folder of its own (`launcher.py`). What is
covered and what is not stands in docs/evaluation.md; `Sandbox.isolation` says which layers this machine has.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gra
from gra.core.errors import EngineUnavailable
from gra.sandbox.job import Isolation, Limits, SandboxJob, SandboxOutcome, Verdict
from gra.sandbox.permission import Permission

SANDBOX_VERSION = 1  # raise when the same job would get another verdict
_ROOT = str(Path(gra.__file__).parent.parent)
# The package's folder last: what it holds besides must not stand before the standard library. No site-packages, no
# user's folder; the only variable makes the order of sets, and so verdicts, the same in every run.
_START = "import sys; sys.path.append(sys.argv[1]); from gra.sandbox.launcher import main; main()"
_COMMAND = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _START, _ROOT]
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_GRACE_S = 15.0  # beyond the wall limit, for the supervisor itself


class SandboxBroken(EngineUnavailable):
    """The sandbox does not work on this machine; no verdict was given."""


class Sandbox:
    """A place to run code that nobody has read.

    Args:
        permission: the user's word; without one there is no sandbox (see `permission.require`).
        limits: what each job may use.
        workers: jobs at a time; default: one for each processor that may be used.

    Raises:
        SandboxBroken: when a trivial job does not pass here.
    """

    def __init__(self, permission: Permission, limits: Limits | None = None, workers: int | None = None) -> None:
        self.permission, self.limits = permission, limits or Limits()
        self.workers = workers or len(os.sched_getaffinity(0))
        outcome, self.isolation = self._run(SandboxJob("def one():\n    return 1\n", "assert one() == 1\n"))
        if outcome.verdict is not Verdict.PASSED:
            raise SandboxBroken(f"a trivial program did not pass in the sandbox: {outcome.verdict}, {outcome.detail}")

    def run(self, job: SandboxJob) -> SandboxOutcome:
        """The verdict on one job.

        Raises:
            SandboxBroken: when the job could not be run as isolated as the first one; never for what code does.
        """
        outcome, isolation = self._run(job)
        if isolation != self.isolation:
            raise SandboxBroken(
                f"the isolation changed from {self.isolation} to {isolation} while jobs ran; run the same command again"
            )
        return outcome

    def run_all(
        self, jobs: Sequence[SandboxJob], progress: Callable[[int], None] | None = None
    ) -> list[SandboxOutcome]:
        """The verdicts on many jobs, in their order; `progress` is told how many are done."""
        outcomes = []
        pool = ThreadPoolExecutor(self.workers)
        try:
            for outcome in pool.map(self.run, jobs):
                outcomes.append(outcome)
                if progress is not None:
                    progress(len(outcomes))
        finally:
            pool.shutdown(cancel_futures=True)  # when interrupted, what has not begun is not begun
        return outcomes

    def facts(self) -> dict[str, Any]:
        """For the manifest: who allowed it, the limits, and the isolation there was."""
        return {
            "version": SANDBOX_VERSION,
            "allowed_by": self.permission.given_by,
            "limits": asdict(self.limits),
            "isolation": self.isolation.to_json(),
        }

    def _run(self, job: SandboxJob) -> tuple[SandboxOutcome, Isolation]:
        with _folder() as folder:
            first = {"caller": os.getpid(), "limits": asdict(self.limits), "folder": str(folder), "code": job.code}
            second = {"tests": job.tests, "preamble": job.preamble, "entry_point": job.entry_point}
            found = _supervise(_message(first) + _message(second), folder, self.limits.wall_s + _GRACE_S)
        isolation = Isolation.from_json(found["isolation"])
        detail = found["detail"].encode(errors="replace").decode()  # the program chose its characters
        return SandboxOutcome(Verdict(found["verdict"]), detail, found["cpu_s"], found["wall_s"]), isolation


def _supervise(job: bytes, folder: Path, seconds: float) -> dict[str, Any]:
    with subprocess.Popen(
        _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
        env=_ENVIRONMENT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(job, timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise SandboxBroken(f"the sandbox's supervisor did not answer in {seconds:g} s") from None
    try:
        found = dict(json.loads(output))
    except ValueError:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise SandboxBroken(
            f"the sandbox's supervisor ended with status {process.returncode} ({last or 'it said nothing'})"
        ) from None
    if found["broken"]:
        raise SandboxBroken(f"the sandbox could not confine a process: {found['broken']}")
    return found


def _message(content: dict[str, Any]) -> bytes:
    data = json.dumps(content).encode()
    return len(data).to_bytes(8, "big") + data


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder with a room each for code and tests, removed whatever was done to the rights of what is in it."""
    folder = Path(tempfile.mkdtemp(prefix="gra-sandbox-"))
    try:
        for room in ("code", "tests"):
            (folder / room).mkdir(mode=0o700)
        yield folder
    finally:
        for room, inner, _ in os.walk(folder):  # from the top, so that each can be entered once it is unlocked
            for name in inner:
                if not os.path.islink(os.path.join(room, name)):
                    os.chmod(os.path.join(room, name), 0o700)
        shutil.rmtree(folder, ignore_errors=True)
