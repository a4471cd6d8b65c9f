"""Run jobs in the sandbox and collect their verdicts.

    sandbox = Sandbox(permission)               # finds out which isolation this machine offers
    sandbox.run(SandboxJob(code, tests)).verdict       # "passed", "failed", …

Every job gets a fresh interpreter with an empty environment and a folder of its own (`launcher.py`). What is
covered and what is not stands in docs/security.md; `Sandbox.isolation` says which layers this machine has.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

from gra.core.errors import EngineUnavailable, ExitCode, GraError
from gra.sandbox import bubblewrap
from gra.sandbox.job import Isolation, Limits, SandboxJob, SandboxOutcome, Verdict
from gra.sandbox.permission import Permission
from gra.sandbox.removal import remove_tree

SANDBOX_VERSION = 3  # raise when the same job would get another verdict
ENVIRONMENT_VARIABLE = "GRA_SANDBOX"
_log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parents[1]
# The package's folder last: what it holds besides must not stand before the standard library. No site-packages, no
# user's folder. The only variable makes the order of sets, and so verdicts, the same in every run.
_START = "import sys; sys.path.append(sys.argv[1]); from gra.sandbox.launcher import main; main()"
_COMMAND = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _START, str(_PACKAGE.parent)]
# One allocation arena: each further one takes 64 MB of the address space that the memory limit counts.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}
_GRACE_S = 15.0  # beyond the wall limit, for the supervisor itself
_TRIES = 2  # of a job that ends without a verdict
_TRIVIAL = SandboxJob("def one():\n    return 1\n", "assert one() == 1\n")


class SandboxBroken(EngineUnavailable):
    """The sandbox does not work on this machine; no verdict was given."""


class SandboxUnavailable(GraError):
    """The isolation that was asked for cannot be had here; nothing was run."""

    exit_code = ExitCode.WRONG_INPUT


class IsolationChoice(StrEnum):
    """What to put around the layers that the sandbox applies itself."""

    AUTO = "auto"  # bubblewrap where it adds something
    BUILTIN = "builtin"  # nothing
    BUBBLEWRAP = "bubblewrap"


class Sandbox:
    """Runs code that has not been reviewed by a person.

    Args:
        permission: The user's. Without it there is no sandbox (see `permission.require`).
        limits: What each job may use.
        workers: Jobs at a time. Default: The number of processors that may be used.
        isolation: Default: The environment variable `GRA_SANDBOX`, or `auto`.

    Raises:
        SandboxBroken: when a trivial job does not pass here.
        SandboxUnavailable: when the isolation that was asked for cannot be had.
    """

    def __init__(
        self,
        permission: Permission,
        limits: Limits | None = None,
        workers: int | None = None,
        isolation: IsolationChoice | None = None,
    ) -> None:
        self.permission, self.limits = permission, limits or Limits()
        self.workers = workers or len(os.sched_getaffinity(0))
        self._expected: Isolation | None = None
        self._wrapper: str | None = None
        choice, found = isolation or _chosen(), bubblewrap.find()
        if choice is IsolationChoice.BUBBLEWRAP:
            if found is None:
                raise SandboxUnavailable(
                    f"the sandbox is set to `{choice}`, and no `bwrap` is installed here; install the package "
                    f"bubblewrap, or set `{IsolationChoice.AUTO}`"
                )
            self._wrapper = found
        self.isolation = self._try()
        if choice is IsolationChoice.AUTO and found is not None and not self.isolation.namespaces:
            self._prefer(found)
        self._expected = self.isolation

    def run(self, job: SandboxJob) -> SandboxOutcome:
        """Return the verdict on one job.

        A job that ends without a verdict is run again. If that happens twice and a trivial job passes, this
        job is the cause, and its verdict is `CRASHED`.

        Raises:
            SandboxBroken: when a trivial job does not pass either, or not as isolated as the first one.
        """
        problem: SandboxBroken | None = None
        for _ in range(_TRIES):
            try:
                outcome, isolation = self._run(job)
            except SandboxBroken as error:
                problem = error
            else:
                if isolation == self.isolation:
                    return outcome
                problem = self._changed(isolation)
        isolation = self._try()
        if isolation != self.isolation:
            raise self._changed(isolation)
        return SandboxOutcome(Verdict.CRASHED, f"the job ended without a verdict: {problem}")

    def run_all(
        self, jobs: Sequence[SandboxJob], progress: Callable[[int], None] | None = None
    ) -> list[SandboxOutcome]:
        """Return the verdicts on jobs, in their order; `progress` is called with the number of finished jobs."""
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
        """Return for the manifest: who allowed it, the limits, and the isolation there was."""
        return {
            "version": SANDBOX_VERSION,
            "allowed_by": self.permission.given_by,
            "limits": asdict(self.limits),
            "isolation": self.isolation.to_json(),
        }

    def _prefer(self, wrapper: str) -> None:
        """Use a wrapper from now on if it closes gaps."""
        without, self._wrapper = self.isolation, wrapper
        with suppress(SandboxBroken):
            self.isolation = self._try()
        if self.isolation == without or len(self.isolation.gaps()) >= len(without.gaps()):
            self.isolation, self._wrapper = without, None

    def _try(self) -> Isolation:
        """Run the trivial job and return its isolation."""
        outcome, isolation = self._run(_TRIVIAL)
        if outcome.verdict is not Verdict.PASSED:
            raise SandboxBroken(f"a trivial program did not pass in the sandbox: {outcome.verdict}, {outcome.detail}")
        return isolation

    def _changed(self, isolation: Isolation) -> SandboxBroken:
        return SandboxBroken(
            f"the isolation changed from {self.isolation} to {isolation} while jobs ran; run the same command again"
        )

    def _run(self, job: SandboxJob) -> tuple[SandboxOutcome, Isolation]:
        expected = self._expected.reported() if self._expected is not None else None
        try:
            with _folder() as folder:
                parent = bubblewrap.INNER_PARENT if self._wrapper else os.getpid()
                first = {"caller": parent, "limits": asdict(self.limits), "folder": str(folder), "code": job.code}
                second = {"tests": job.tests, "preamble": job.preamble, "entry_point": job.entry_point}
                command = _COMMAND
                if self._wrapper:
                    command = bubblewrap.wrap(self._wrapper, _COMMAND, folder, _PACKAGE)
                first |= {"isolation": expected, "root": os.geteuid() == 0}
                content = _message(first) + _message(second)
                found = _supervise(command, content, folder, self.limits.wall_s + _GRACE_S)
        except OSError as error:
            raise SandboxBroken(f"the sandbox could not start a job: {error}") from None
        isolation = Isolation.from_json(found["isolation"], bubblewrap.NAME if self._wrapper else "")
        detail = found["detail"].encode(errors="replace").decode()  # the program chose its characters
        return SandboxOutcome(Verdict(found["verdict"]), detail, found["cpu_s"], found["wall_s"]), isolation


def _chosen() -> IsolationChoice:
    text = os.environ.get(ENVIRONMENT_VARIABLE, IsolationChoice.AUTO)
    try:
        return IsolationChoice(text)
    except ValueError:
        raise SandboxUnavailable(
            f"`{ENVIRONMENT_VARIABLE}` is {text!r}, which is no isolation; set one of {', '.join(IsolationChoice)}"
        ) from None


def _supervise(command: Sequence[str], job: bytes, folder: Path, seconds: float) -> dict[str, Any]:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
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
    except (ValueError, TypeError):
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise SandboxBroken(
            f"the sandbox's supervisor ended with status {process.returncode} ({last or 'it wrote no error'})"
        ) from None
    if found["broken"]:
        raise SandboxBroken(f"the sandbox could not confine a process: {found['broken']}")
    return found


def _message(content: dict[str, Any]) -> bytes:
    data = json.dumps(content).encode()
    return len(data).to_bytes(8, "big") + data


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder with a subfolder each for code and tests, and remove it with all its content."""
    folder = Path(tempfile.mkdtemp(prefix="gra-sandbox-"))
    try:
        for name in ("code", "tests"):
            (folder / name).mkdir(mode=0o700)
        if os.geteuid() == 0:
            folder.chmod(0o711)  # the processes may belong to another user, who passes through
        yield folder
    finally:
        for problem in remove_tree(folder):
            _log.warning("%s", problem)
