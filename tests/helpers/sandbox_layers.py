"""Sandboxes that lack layers, as on weaker machines, and the processes that a sandbox has started."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

import pytest

from gra.sandbox import sandbox as sandbox_module
from gra.sandbox.job import Limits
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import IsolationChoice, Sandbox

# Name of the layer: what replaces the functions of `confine` and `mounts` that apply it.
LAYERS = {
    "namespaces": "confine.enter_namespaces = lambda: ()",
    "own user": "confine.may_change_user = lambda: False",
    "private root": "mounts.enter_private_root = lambda *a: False",
    "private folder": "mounts.mount_folder = lambda *a: False",
    "landlock": "confine.confine_files = lambda folder: 0",
    "seccomp": "confine.filter_syscalls = lambda: False",
}
# What Docker leaves with its default profile: no namespaces, and here no change of the user.
DOCKER = "namespaces", "own user"
PLAIN_FOLDER = "private root", "private folder"


def command_without(*layers: str) -> list[str]:
    """Return the command of a supervisor that does without some layers."""
    start = "import sys; sys.path.append(sys.argv[1]); "
    changes = "".join(f"{LAYERS[name]}; " for name in layers)
    replaced = f"{start}from gra.sandbox import confine, mounts, launcher; {changes}launcher.main()"
    return [replaced if part == sandbox_module._START else part for part in sandbox_module._COMMAND]


def weaker_sandbox(monkeypatch: pytest.MonkeyPatch, *layers: str, limits: Limits | None = None) -> Sandbox:
    """Return a sandbox without some layers; no other sandbox can be used in the same test."""
    monkeypatch.setattr(sandbox_module, "_COMMAND", command_without(*layers))
    return Sandbox(Permission("a test"), limits, isolation=IsolationChoice.BUILTIN)


class MarkedProcesses:
    """Processes that carry a mark in their command line, so that those of other tests do not count."""

    def __init__(self) -> None:
        self.mark = f"gra-sandbox-test-{uuid4().hex}"

    def command(self, command: list[str]) -> list[str]:
        """Return a supervisor's command with the mark; forked processes inherit it."""
        return [*command, self.mark]

    def running(self) -> set[int]:
        """Return the numbers of the processes that have the mark and are not ended."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if self.mark.encode() in path.read_bytes().split(b"\0"):
                    found.add(int(path.parent.name))
            except OSError:
                continue  # it has ended
        return found

    def wait_until(self, running: bool, seconds: float = 15.0) -> bool:
        """Wait until there is a marked process, or none; False after too long."""
        deadline = time.monotonic() + seconds
        while bool(self.running()) != running:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True
