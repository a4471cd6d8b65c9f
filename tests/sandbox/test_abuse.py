"""Programs that cheat or run wild: the verdict that each must get (see sandbox_programs/)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from sandbox_attempts import TESTS, attempts
from sandbox_layers import DOCKER, weaker_sandbox

from gra.sandbox.job import Limits, SandboxJob, Verdict
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import Sandbox

LIMITS = Limits(cpu_s=1, wall_s=15.0, memory_mb=256, file_mb=4)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Permission("a test"), LIMITS)


# ---- to pass without being right ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", attempts("cheats"))
def test_cheating_program_does_not_pass(sandbox: Sandbox, name: str) -> None:
    attempt = attempts("cheats")[name]
    outcome = sandbox.run(attempt.job)
    assert outcome.verdict == attempt.verdict, outcome.detail


SEARCHES = {
    "the garbage collector": """
import gc
pool = [thing for thing in gc.get_objects() if type(thing) in (list, tuple, dict)]
""",
    "the frames": """
import sys
pool = []
frame = sys._getframe()
while frame:
    pool += [*frame.f_locals.values(), *frame.f_globals.values()]
    frame = frame.f_back
""",
    "its own memory": """
import re
pool = []
try:
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for start, end in re.findall(r"([0-9a-f]+)-([0-9a-f]+) rw", maps.read()):
            memory.seek(int(start, 16))
            pool.append(memory.read(int(end, 16) - int(start, 16)))
except OSError:
    pass
""",
    "its heap with ctypes": """
import ctypes
pool = [ctypes.string_at(id(thing), 4_000) for thing in [object() for _ in range(100)]]
""",
    "files": """
import glob
pool = []
for path in glob.glob("../*/*") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        pool.append(open(path, "rb").read())
    except OSError:
        pass
""",
}


@pytest.mark.parametrize("where", SEARCHES)
def test_search_does_not_find_the_expected_answer(sandbox: Sandbox, where: str) -> None:
    code = f"""
import re
{SEARCHES[where]}
def f():
    for item in pool:
        text = item.decode("latin-1") if isinstance(item, bytes) else str(item)[:9999]
        if found := re.search("sesame-[0-9]+", text):
            return found[0]
    return "not found"
"""
    patient = Sandbox(sandbox.permission, Limits(cpu_s=10))
    secret = "sesame-8412"
    outcome = patient.run(SandboxJob(code, f"assert f() == {secret!r}\n", entry_point="f"))
    assert outcome.verdict in (Verdict.FAILED, Verdict.CRASHED)
    if where == "the garbage collector":  # the same search does find what is there
        assert (
            patient.run(SandboxJob(f"kept = [{secret!r}]\n{code}", f"assert f() == {secret!r}\n")).verdict == "passed"
        )


# ---- to use more than its share -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", attempts("gluttons"))
def test_wasteful_program_gets_its_verdict(sandbox: Sandbox, name: str) -> None:
    attempt = attempts("gluttons")[name]
    outcome = sandbox.run(attempt.job)
    assert outcome.verdict == attempt.verdict, outcome.detail
    assert outcome.wall_s < LIMITS.wall_s + 2


def test_sleeping_ends_at_the_wall_clock_limit() -> None:
    short = Sandbox(Permission("a test"), Limits(cpu_s=1, wall_s=1.5))
    outcome = short.run(SandboxJob("import time\ndef f(x):\n    time.sleep(60)\n    return 2", TESTS))
    assert outcome.verdict == "timeout"
    assert outcome.wall_s < 5
    sleeping_tests = short.run(SandboxJob("x = 1", "import time\ntime.sleep(60)"))
    assert sleeping_tests.verdict == "timeout"


def test_recursion_without_a_limit_ends(sandbox: Sandbox) -> None:
    """A crash up to Python 3.11, an error from 3.12 on, which counts calls of C apart."""
    code = """
import sys
sys.setrecursionlimit(1 << 30)
class A:
    def __getattr__(self, name):
        return getattr(self, name)
def f(x):
    return A().b
"""
    assert sandbox.run(SandboxJob(code, TESTS)).verdict in (Verdict.CRASHED, Verdict.FAILED)


def test_many_small_files_end_at_the_size_of_the_folder(sandbox: Sandbox) -> None:
    if not sandbox.isolation.private_folder:
        pytest.skip("the folder is not a file system of its own here")
    code = "def f():\n    for n in range(200):\n        open(str(n), 'wb').write(bytes(1 << 20))"
    outcome = sandbox.run(SandboxJob(code, "f()"))
    assert outcome.verdict == "failed"
    assert "No space left" in outcome.detail


def test_output_of_any_length_is_dropped(sandbox: Sandbox) -> None:
    code = "import sys\ndef f(x):\n    for _ in range(200):\n        sys.stdout.write('x' * (1 << 20))\n    return 2"
    outcome = sandbox.run(SandboxJob(code, TESTS))
    assert outcome.verdict == "passed"
    assert len(outcome.detail) == 0


def test_running_threads_do_not_delay_the_verdict(sandbox: Sandbox) -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\ndef f(x):\n    return 2"
    outcome = sandbox.run(SandboxJob(code, TESTS))
    assert outcome.verdict == "passed"
    assert outcome.wall_s < 5


# ---- where the kernel does not limit what a program uses -----------------------------------------------------


EXCESSES = {
    "files": (
        "for n in range(100_000):\n    open(str(n % 900), 'ab').write(bytes(1 << 20))",
        "more than 4 MB of files",
    ),
    "names": ("for n in range(1_000_000):\n    open(str(n), 'w').close()", "more than 1,024 files"),
    "folders": ("import os\nfor n in range(100_000):\n    os.mkdir('a')\n    os.chdir('a')", "deeper than 100"),
    "threads": (
        "import threading, time\nthreading.stack_size(1 << 15)\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "more than 32 threads",
    ),
}


@pytest.mark.parametrize("name", EXCESSES)
def test_measured_limits_end_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, reason = EXCESSES[name]
    weaker = weaker_sandbox(monkeypatch, *DOCKER, limits=Limits(cpu_s=10, file_mb=4))
    outcome = weaker.run(SandboxJob(code, "pass"))
    if name == "threads" and outcome.verdict == "failed":  # the memory limit was first
        assert "can't start new thread" in outcome.detail
    else:
        assert outcome.verdict == "crashed"
        assert reason in outcome.detail
    assert outcome.wall_s < 10
    assert list(tmp_path.iterdir()) == []


def test_honest_use_is_below_the_measured_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    weaker = weaker_sandbox(monkeypatch, *DOCKER, limits=Limits(cpu_s=5))
    code = """
import os, threading, time
for n in range(500):
    open(str(n), "w").write("x" * 1000)
os.makedirs("/".join("abcdefgh"))
threads = [threading.Thread(target=time.sleep, args=(0.5,)) for _ in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    outcome = weaker.run(SandboxJob(code, "pass"))
    assert outcome.verdict == "passed", outcome.detail
