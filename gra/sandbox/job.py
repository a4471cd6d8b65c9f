"""Define what the sandbox takes and returns: jobs, limits, verdicts, and the isolation of a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """Names how a job ended; only `PASSED` counts as right."""

    PASSED = "passed"  # every test ran and held

    FAILED = "failed"  # the code or a test raised, or the code does not parse

    TIMEOUT = "timeout"  # the processor or the wall clock limit was reached

    MEMORY = "memory"  # the memory limit was reached

    CRASHED = "crashed"  # the program ended before the tests did: an exit, a signal, too many files or threads

    NO_CODE = "no_code"  # the answer holds no program


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits one job.

    Attributes:
        cpu_s: Seconds of processor time, for code and tests each.
        wall_s: Seconds on the clock, for both together.
        memory_mb: Megabytes of address space, for code and tests each.
        file_mb: Megabytes of the largest file and of all files together, for code and tests each.
        open_files: Open at a time, for code and tests each.
        threads: At a time, for code and tests each. New processes are refused where they can be.
        reply_mb: Megabytes of one value that passes between code and tests.
    """

    cpu_s: int = 5
    wall_s: float = 20.0
    memory_mb: int = 1024
    file_mb: int = 16
    open_files: int = 64
    threads: int = 32
    reply_mb: int = 16


@dataclass(frozen=True, slots=True)
class SandboxJob:
    """Holds code and the tests that it must pass.

    The tests run in another process than the code and see its global names. The text of `preamble` is trusted code
    that runs before the tests. Names that it defines are not taken from the code, except `entry_point`.
    """

    code: str
    tests: str
    preamble: str = ""
    entry_point: str | None = None


_FLAGS = "seccomp", "private_folder", "private_root", "own_user", "limited_threads"
_WRAPPED = {"user", "process", "network", "ipc", "mount"}  # what a wrapper keeps apart


@dataclass(frozen=True, slots=True)
class Isolation:
    """Lists the layers between the code and the machine.

    Attributes:
        namespaces: A part of "user", "process", "network", "ipc", "mount".
        landlock: The version of Landlock that confines files; 0 without it.
        seccomp: Whether system calls are filtered.
        private_folder: Whether the working folder is a small memory file system of its own.
        private_root: Whether the file system shows only the folder and the Python installation.
        own_user: Whether the process belongs to a user of its own.
        limited_threads: Whether the kernel limits the number of its threads.
        wrapper: The program around the supervisor, "bubblewrap" or "".
    """

    namespaces: tuple[str, ...]
    landlock: int
    seccomp: bool
    private_folder: bool
    private_root: bool = False
    own_user: bool = False
    limited_threads: bool = False
    wrapper: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any], wrapper: str = "") -> Isolation:
        """Return what the confined process reported, or what `to_json` wrote."""
        flags = {name: bool(value.get(name)) for name in _FLAGS}
        return cls(tuple(value["namespaces"]), int(value["landlock"]), **flags, wrapper=value.get("wrapper", wrapper))

    def reported(self) -> dict[str, Any]:
        """Return what a confined process reports when it has this isolation."""
        report = {**asdict(self), "namespaces": list(self.namespaces)}
        del report["wrapper"]
        return report

    def gaps(self) -> list[str]:
        """Return what this machine does not keep from the code, a sentence each; empty when every layer is there."""
        apart = _WRAPPED if self.wrapper else set(self.namespaces)
        hidden = self.private_root or bool(self.wrapper)
        gaps = []
        if not self.seccomp and "network" not in apart:
            gaps.append("the network can be reached")
        elif not self.seccomp and not hidden:
            gaps.append("Unix sockets of this machine can be reached by their path")
        if not self.landlock and not hidden:
            if self.own_user:
                gaps.append("files that every user may read or write can be read or written")
            else:
                gaps.append("files of this user can be read and written")
                if "user" not in apart:
                    gaps.append("the memory of this user's other processes can be reached through /proc")
        elif not self.seccomp and not hidden and not self.own_user:
            gaps.append("rights, times and attributes of this user's files can be changed")
        if not hidden:
            gaps.append("names, owners, sizes and times of files, and which processes run, can be seen")
        if not self.seccomp and "process" not in apart:
            whose = "" if self.own_user else ", and other processes of this user signalled"
            gaps.append(f"processes can be started{whose}")
        if not self.private_folder:
            gaps.append("the total size of written files is only measured, ten times a second")
        if not self.limited_threads:
            gaps.append("the number of threads is only measured, ten times a second")
        return gaps

    def to_json(self) -> dict[str, Any]:
        """Return a mapping for manifests and reports."""
        return {**asdict(self), "namespaces": list(self.namespaces), "gaps": self.gaps()}


@dataclass(frozen=True, slots=True)
class SandboxOutcome:
    """Holds one job's verdict, the reason, and the processor and wall seconds it took."""

    verdict: Verdict
    detail: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
