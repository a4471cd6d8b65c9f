"""Programs that reach out of the sandbox: to files, the network, other processes, the kernel, and beyond their end.

Every attempt is written so that it stays bounded if a layer should fail: this runs on people's machines.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from sandbox_attempts import TESTS, attempts
from sandbox_layers import DOCKER, PLAIN_FOLDER, MarkedProcesses, command_without, weaker_sandbox

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
def test_attack_finds_no_way_out(confined_files: Sandbox, name: str) -> None:
    if not confined_files.isolation.seccomp:
        pytest.skip("system calls cannot be filtered here")
    outcome = confined_files.run(attempts("attacks")[name].job)
    assert outcome.verdict == attempts("attacks")[name].verdict, outcome.detail


@pytest.mark.parametrize("name", attempts("attacks"))
def test_attack_finds_no_way_out_of_weaker_machine(
    confined_files: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As in Docker: Landlock and the filter without namespaces."""
    if not confined_files.isolation.seccomp:
        pytest.skip("system calls cannot be filtered here")
    outcome = weaker_sandbox(monkeypatch, *DOCKER, limits=LIMITS).run(attempts("attacks")[name].job)
    assert outcome.verdict == attempts("attacks")[name].verdict, outcome.detail


# ---- to reach out -------------------------------------------------------------------------------------------


def refused(sandbox: Sandbox, attempt: str, *imports: str) -> None:
    """The attempt raises an OSError and nothing else happens."""
    head = "".join(f"import {name}\n" for name in ("os", *imports))
    code = f"""{head}
def f():
    try:
        {attempt}
    except OSError as error:
        return "refused"
    return "done"
"""
    outcome = sandbox.run(SandboxJob(code, "assert f() == 'refused', f()\n"))
    assert outcome.verdict == "passed", outcome.detail


def test_environment_is_empty(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "hush")
    code = """
import os, sys
def f():
    return dict(os.environ), sys.argv, [path for path in sys.path if "site-packages" in path]
"""
    outcome = sandbox.run(SandboxJob(code, "assert f() == ({}, ['solution'], []), f()"))
    assert outcome.verdict == "passed", outcome.detail


def test_environments_of_other_processes_are_hidden(sandbox: Sandbox) -> None:
    code = """
import glob
def f():
    found = 0
    for path in glob.glob("/proc/*/environ"):
        try:
            found += len(open(path, "rb").read())
        except OSError:
            pass
    return found
"""
    outcome = sandbox.run(SandboxJob(code, "assert f() == 0, f()"))
    assert outcome.verdict == "passed", outcome.detail


@pytest.mark.parametrize("module", ["gra", "gra.sandbox.launcher", "numpy", "pytest"])
def test_packages_cannot_be_imported(sandbox: Sandbox, module: str) -> None:
    outcome = sandbox.run(SandboxJob(f"import {module}\ndef f(x):\n    return 2", TESTS))
    assert outcome.verdict == "failed"
    assert "No module named" in outcome.detail


OUTSIDE = [
    "open({path!r}).read()",
    "open({path!r}, 'w').write('harmed')",
    "open({path!r}, 'a').write('harmed')",
    "os.remove({path!r})",
    "os.rename({path!r}, {path!r} + '.moved')",
    "os.truncate({path!r}, 0)",
    "os.listdir(os.path.dirname({path!r}))",
    "os.mkdir({path!r} + '.d')",
    "os.symlink('/etc', {path!r} + '.link')",
    "os.link({path!r}, 'hard') or open('hard').read()",
    "os.symlink({path!r}, 'soft') or open('soft', 'w').write('harmed')",
    "os.rmdir(os.path.dirname({path!r}))",
    "os.chmod({path!r}, 0)",
    "os.chown({path!r}, os.getuid(), os.getgid())",
    "os.utime({path!r}, (1, 1))",
    "os.setxattr({path!r}, 'user.harmed', b'1')",
]


@pytest.mark.parametrize("attempt", OUTSIDE)
def test_files_outside_the_folder_are_refused(confined_files: Sandbox, tmp_path: Path, attempt: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("safe")
    before = path.stat()
    refused(confined_files, attempt.format(path=str(path)))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert path.read_text() == "safe"
    after = path.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/hostname", "/proc/1/cmdline", "/proc/self/status", "/dev/mem"])
def test_files_of_the_system_are_refused(confined_files: Sandbox, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"there is no {path} here")
    refused(confined_files, f"open({path!r}, 'rb').read(10)")


def test_files_inside_the_folder_are_allowed(sandbox: Sandbox) -> None:
    code = """
import os
def f():
    open("a", "w").write("kept")
    os.mkdir("d")
    return open("a").read(), os.listdir(".")
"""
    outcome = sandbox.run(SandboxJob(code, "text, names = f()\nassert (text, sorted(names)) == ('kept', ['a', 'd'])"))
    assert outcome.verdict == "passed", outcome.detail


def test_removal_of_the_folder_follows_no_links(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plain = weaker_sandbox(monkeypatch, "seccomp", *PLAIN_FOLDER, limits=LIMITS)
    assert not plain.isolation.private_folder
    assert "the total size of written files is only measured, ten times a second" in plain.isolation.gaps()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("safe")
    code = f"""
import os
os.symlink({str(kept)!r}, "link")
os.makedirs("a/b")
open("a/b/c", "w").close()
os.chmod("a/b", 0)
os.chmod("a", 0)
"""
    assert plain.run(SandboxJob(code, "pass")).verdict == "passed"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").read_text() == "safe"


def test_network_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        refused(sandbox, f"socket.create_connection(('127.0.0.1', {tcp.getsockname()[1]}), 3)", "socket")
        refused(sandbox, f"socket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})", "socket")
        refused(sandbox, "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))", "socket")
        refused(sandbox, "socket.getaddrinfo('localhost', 80) and socket.create_server(('127.0.0.1', 0))", "socket")
        for listener in (tcp, unix):
            listener.settimeout(0.1)
            with pytest.raises(TimeoutError):
                listener.accept()


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


def test_signals_are_refused(sandbox: Sandbox) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as victim:
        try:
            refused(sandbox, f"os.kill({victim.pid}, 9)")
            refused(sandbox, f"os.kill({os.getpid()}, 0)")
            refused(sandbox, "os.kill(os.getppid() or 1, 0)")
            refused(sandbox, "os.kill(-1, 0)")  # all processes; 0 only checks the right
            refused(sandbox, "os.killpg(1, 0)")
            assert victim.poll() is None
        finally:
            victim.kill()


NEW_PROCESSES = [
    "[os.fork() or (time.sleep(20), os._exit(0)) for _ in range(20)]",
    "subprocess.run(['/bin/true'])",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "os.execv('/bin/true', ['true'])",
    "multiprocessing.get_context('fork').Process(target=print).start()",
    "os.forkpty()",
]


@pytest.mark.parametrize("attempt", NEW_PROCESSES)
def test_new_processes_are_refused(sandbox: Sandbox, attempt: str) -> None:
    if not sandbox.isolation.seccomp:
        pytest.skip("system calls cannot be filtered here")
    refused(sandbox, attempt, "multiprocessing", "subprocess", "time")


def test_calls_below_python_are_refused(sandbox: Sandbox) -> None:
    if not sandbox.isolation.seccomp or os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86-64")
    numbers = {
        "ptrace": 101, "unshare": 272, "mount": 165, "process_vm_readv": 310, "memfd_create": 319, "bpf": 321,
        "pidfd_open": 434, "clone": 56, "vfork": 58, "shmget": 29, "setns": 308, "x32 getpid": 0x40000000 + 39,
    }  # fmt: skip
    code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def f():
    return {{name: (libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno()) for name, number in {numbers!r}.items()}}
"""
    outcome = sandbox.run(SandboxJob(code, f"assert f() == dict.fromkeys({list(numbers)!r}, (-1, 1)), f()"))
    assert outcome.verdict == "passed", outcome.detail


def test_first_argument_decides_on_calls(sandbox: Sandbox) -> None:
    if not sandbox.isolation.seccomp:
        pytest.skip("system calls cannot be filtered here")
    code = """
import ctypes, os, resource, threading
libc = ctypes.CDLL(None, use_errno=True)
def f():
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    named = libc.prctl(15, b"name", 0, 0, 0)
    outlive = libc.prctl(1, 0, 0, 0, 0), ctypes.get_errno()
    try:
        resource.prlimit(1, resource.RLIMIT_NOFILE)
    except PermissionError:
        return named, outlive
"""
    outcome = sandbox.run(SandboxJob(code, "assert f() == (0, (-1, 1)), f()"))
    assert outcome.verdict == "passed", outcome.detail


DAEMON = """
import os, time
def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for _ in range(100):
                time.sleep(0.1)
                os.utime("alive")
        os._exit(0)
    time.sleep(0.3)
    return 2
open("alive", "w").close()
"""


@pytest.mark.parametrize("namespaces", [True, False])
def test_children_end_with_the_job_without_the_filter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespaces: bool
) -> None:
    marked = MarkedProcesses()
    command = command_without("seccomp", *PLAIN_FOLDER, *(() if namespaces else DOCKER))
    monkeypatch.setattr(sandbox_module, "_COMMAND", marked.command(command))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    weaker = Sandbox(Permission("a test"), LIMITS, isolation=IsolationChoice.BUILTIN)
    assert not weaker.isolation.seccomp
    assert weaker.run(SandboxJob(DAEMON, TESTS)).verdict == "passed"
    assert marked.wait_until(running=False), marked.running()
    assert not list(tmp_path.iterdir())
    if not namespaces:
        assert "the network can be reached" in weaker.isolation.gaps()


def test_killed_caller_leaves_no_process(tmp_path: Path) -> None:
    marked = MarkedProcesses()
    script = f"""
from gra.sandbox import sandbox
from gra.sandbox.job import SandboxJob
from gra.sandbox.permission import Permission
quiet = sandbox.Sandbox(Permission("a test"))
sandbox._COMMAND = [*sandbox._COMMAND, {marked.mark!r}]
print("up", flush=True)
quiet.run(SandboxJob("import time\\ntime.sleep(60)", "pass"))
"""
    root = str(Path(sandbox_module.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={"PYTHONPATH": root, "TMPDIR": str(tmp_path)}
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"up\n"
        assert marked.wait_until(running=True)
        caller.kill()
    assert marked.wait_until(running=False), marked.running()


def test_threads_of_the_caller_share_a_sandbox(sandbox: Sandbox) -> None:
    outcomes = sandbox.run_all([SandboxJob(f"def f(x):\n    return x + {n % 2}", TESTS) for n in range(12)])
    assert [outcome.verdict for outcome in outcomes] == ["failed", "passed"] * 6
    assert threading.active_count() < 20
