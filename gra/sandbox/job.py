"""What the sandbox is given and what it says: jobs, limits, verdicts, and which isolation there was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """How a job ended; only `PASSED` counts as right."""

    PASSED = "passed"  # every test ran and held
    FAILED = "failed"  # the code or a test raised, or the code does not parse
    TIMEOUT = "timeout"  # the processor or the wall clock limit was reached
    MEMORY = "memory"  # the memory limit was reached
    CRASHED = "crashed"  # the program ended before the tests did: an exit, a signal
    NO_CODE = "no_code"  # the answer holds nothing that could be run


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use. `cpu_s`, `memory_mb`, `file_mb` and `open_files` hold for code and tests each."""

    cpu_s: int = 5
    wall_s: float = 20.0
    memory_mb: int = 1024  # address space
    file_mb: int = 16  # largest file, and all files together where the folder is a file system of its own
    open_files: int = 64
    threads: int = 32  # where the kernel can count them; new processes are never allowed where it can forbid them
    reply_mb: int = 16  # what one call may hand over


@dataclass(frozen=True, slots=True)
class SandboxJob:
    """Code and the tests it must pass.

    The tests run in another process than the code and see its global names; `preamble` is trusted code that runs
    before the tests, and what it defines (save `entry_point`) is not taken from the code.
    """

    code: str
    tests: str
    preamble: str = ""
    entry_point: str | None = None


@dataclass(frozen=True, slots=True)
class Isolation:
    """Which layers stood between the code and the machine.

    Attributes:
        namespaces: of "user", "process", "network", "ipc", "mount".
        landlock: the version of Landlock that confines files, 0 without it.
        seccomp: whether system calls are filtered.
        private_folder: whether the working folder is a small memory file system of its own.
    """

    namespaces: tuple[str, ...]
    landlock: int
    seccomp: bool
    private_folder: bool

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Isolation:
        """What the confined process reported."""
        return cls(
            tuple(value["namespaces"]), int(value["landlock"]), bool(value["seccomp"]), bool(value["private_folder"])
        )

    def gaps(self) -> list[str]:
        """What this machine cannot keep the code from, in words; empty when every layer is there."""
        gaps = []
        if not self.seccomp and "network" not in self.namespaces:
            gaps.append("the network can be reached")
        if not self.landlock:
            gaps.append("files of this user can be read and written")
            if "user" not in self.namespaces:
                gaps.append("the memory of this user's processes, expected answers too, can be reached through /proc")
        if not self.seccomp and "process" not in self.namespaces:
            gaps.append("processes can be started, and other processes of this user signalled")
        if not self.private_folder:
            gaps.append("the total size of written files is not limited")
        return gaps

    def to_json(self) -> dict[str, Any]:
        """For manifests and reports."""
        return {**asdict(self), "namespaces": list(self.namespaces), "gaps": self.gaps()}


@dataclass(frozen=True, slots=True)
class SandboxOutcome:
    """One job's verdict, why, and what it took (processor and wall seconds)."""

    verdict: Verdict
    detail: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
