"""Programs that reach out of the sandbox: to files, the network, other processes, the kernel, and beyond their end.

Every attempt is written so that it stays bounded if a layer should fail: this runs on people's machines.
"""

from __future__ import annotations

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

from gra.sandbox import sandbox as sandbox_module
from gra.sandbox.job import Limits, SandboxJob
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import IsolationChoice, Sandbox

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
