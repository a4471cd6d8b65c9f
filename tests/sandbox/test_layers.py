"""What holds on machines that lack layers, and what bubblewrap adds where it is installed."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from sandbox_attempts import attempts
from sandbox_layers import DOCKER, command_without, weaker_sandbox

from gra.sandbox import bubblewrap
from gra.sandbox import sandbox as sandbox_module
from gra.sandbox.job import Limits, SandboxJob
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import IsolationChoice, Sandbox, SandboxBroken, SandboxUnavailable

SEEN = "names, owners, sizes and times of files, and which processes run, can be seen"
LIMITS = Limits(cpu_s=1, wall_s=15.0, memory_mb=256, file_mb=4)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Permission("a test"), LIMITS)


@pytest.fixture
def confined_files(sandbox: Sandbox) -> Sandbox:
    if not sandbox.isolation.landlock:
        pytest.skip("this kernel has no Landlock")
    return sandbox


@pytest.mark.parametrize("name", attempts("attacks"))
def test_attack_finds_no_way_out_of_weaker_machine(
    confined_files: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As in Docker: Landlock and the filter without namespaces."""
    if not confined_files.isolation.seccomp:
        pytest.skip("system calls cannot be filtered here")
    outcome = weaker_sandbox(monkeypatch, *DOCKER, limits=LIMITS).run(attempts("attacks")[name].job)
    assert outcome.verdict == attempts("attacks")[name].verdict, outcome.detail


DATAGRAM = """
import array, os, socket
def f():
    refused = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
        for address in ({path!r}, {abstract!r}):
            for way in range(4):
                try:
                    one, two = socket.socketpair(socket.AF_UNIX, kind)
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
                    if way == 0:
                        one.sendto(b"out", address)
                    elif way == 1:
                        one.sendmsg([b"out"], rights, 0, address)
                    elif way == 2:
                        one.connect(address)
                    else:
                        socket.socket(socket.AF_UNIX, kind).connect(address)
                except OSError:
                    refused.append(way)
    return len(refused)
"""


@pytest.mark.parametrize("missing", [(), DOCKER, ("seccomp",), ("seccomp", "own user"), ("seccomp", "landlock")])
def test_datagram_does_not_leave(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    weaker = weaker_sandbox(monkeypatch, *missing, limits=LIMITS)
    if "the network can be reached" in weaker.isolation.gaps() or not (
        weaker.isolation.seccomp or weaker.isolation.private_root
    ):
        pytest.skip("this machine lacks the layers")
    path, abstract = str(tmp_path / "s"), "\0" + tmp_path.name
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(socket.socket(socket.AF_UNIX, kind)) for _ in range(2)]
            for listener, address in zip(listeners, (path, abstract), strict=True):
                listener.bind(address)
                if kind != socket.SOCK_DGRAM:
                    listener.listen()
                listener.settimeout(0.05)
            code = DATAGRAM.format(path=path, abstract=abstract)
            # Without the filter, some sockets take an address, ignore it, and send to their own other end.
            least = 24 if weaker.isolation.seccomp else 18
            outcome = weaker.run(SandboxJob(code, f"assert f() >= {least}, f()"))
            assert outcome.verdict == "passed", outcome.detail
            for listener in listeners:
                with pytest.raises(TimeoutError):
                    listener.recv(10) if kind == socket.SOCK_DGRAM else listener.accept()
        Path(path).unlink()


def test_private_root_hides_names_of_files(sandbox: Sandbox, tmp_path: Path) -> None:
    if not sandbox.isolation.private_root:
        pytest.skip("the file system of the machine is in sight here, and `gaps` says so")
    (tmp_path / "secret").write_text("x")
    places = [
        str(tmp_path / "secret"),
        str(tmp_path),
        "/etc/passwd",
        "/proc/1",
        "/proc/self",
        "/home",
        "/var",
        "/usr/bin",
    ]
    code = f"import os\ndef f():\n    return [path for path in {places!r} if os.path.lexists(path)]"
    outcome = sandbox.run(SandboxJob(code, "assert f() == [], f()"))
    assert outcome.verdict == "passed", outcome.detail


def test_bubblewrap_hides_names_of_files(tmp_path: Path) -> None:
    if bubblewrap.find() is None:
        pytest.skip("bubblewrap is not installed")
    try:
        wrapped = Sandbox(Permission("a test"), LIMITS, isolation=IsolationChoice.BUBBLEWRAP)
    except SandboxBroken as error:
        pytest.skip(f"bubblewrap does not work here: {error}")
    assert wrapped.isolation.wrapper == "bubblewrap"
    (tmp_path / "secret").write_text("x")
    code = (
        f"import os\ndef f():\n    return os.path.lexists({str(tmp_path / 'secret')!r}), os.path.lexists('/etc/passwd')"
    )
    assert wrapped.run(SandboxJob(code, "assert f() == (False, False), f()")).verdict == "passed"
    assert wrapped.facts()["isolation"]["wrapper"] == "bubblewrap"
    for name in ("honest", "attacks"):
        for attempt in list(attempts(name).values())[:12]:
            outcome = wrapped.run(attempt.job)
            assert outcome.verdict == attempt.verdict, (attempt.name, outcome.detail)


def test_bubblewrap_is_used_where_it_closes_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    if bubblewrap.find() is None:
        pytest.skip("bubblewrap is not installed")
    monkeypatch.setattr(sandbox_module, "_COMMAND", command_without("namespaces"))
    chosen = Sandbox(Permission("a test"), LIMITS)
    if chosen.isolation.wrapper != "bubblewrap":
        pytest.skip("bubblewrap does not work here")
    assert SEEN not in chosen.isolation.gaps()
    assert Sandbox(Permission("a test"), LIMITS, isolation=IsolationChoice.BUILTIN).isolation.wrapper == ""


def test_missing_bubblewrap_is_an_error_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GRA_SANDBOX", "bubblewrap")
    with pytest.raises(SandboxUnavailable, match="install the package bubblewrap") as refusal:
        Sandbox(Permission("a test"))
    assert refusal.value.exit_code == 2
    monkeypatch.setenv("GRA_SANDBOX", "none")
    with pytest.raises(SandboxUnavailable, match="set one of auto, builtin, bubblewrap"):
        Sandbox(Permission("a test"))
    monkeypatch.setenv("GRA_SANDBOX", "auto")
    assert Sandbox(Permission("a test")).isolation.wrapper == ""
