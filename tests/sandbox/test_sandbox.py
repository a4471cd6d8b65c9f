"""The sandbox: who may open it, what it promises about itself, and honest programs that must come through unharmed."""

from __future__ import annotations

import ast
import json
import math
import sys
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_attempts import attempts
from sandbox_layers import command_without

from gra.core.errors import GraError
from gra.evaluation.benchmarks.load import resolve_benchmark
from gra.sandbox import sandbox as sandbox_module
from gra.sandbox.codec import decode, encode
from gra.sandbox.job import Isolation, Limits, SandboxJob, Verdict
from gra.sandbox.launcher import judge
from gra.sandbox.permission import CodeExecutionRefused, Permission, require
from gra.sandbox.sandbox import Sandbox, SandboxBroken

PACKAGE = Path(sandbox_module.__file__).parents[1]


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Permission("a test"), Limits(cpu_s=3, wall_s=30.0))


# ---- permission ---------------------------------------------------------------------------------------------


def test_missing_permission_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        CodeExecutionRefused, match=r"the task `x` runs code that a model wrote.*--allow-code-execution"
    ):
        require(None, "the task `x`")
    assert CodeExecutionRefused.exit_code == 2
    assert issubclass(CodeExecutionRefused, GraError)
    given_one = Permission("a test")
    assert require(given_one, "anything") is given_one


def test_only_callers_and_a_recipe_make_permissions() -> None:
    makers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Permission"
    }
    assert makers == {"api/synthesis.py", "cli/options.py", "experiment/plan.py"}


# ---- what it says about itself ------------------------------------------------------------------------------


def test_facts_hold_permission_limits_and_gaps(sandbox: Sandbox) -> None:
    facts = json.loads(json.dumps(sandbox.facts()))
    assert facts["allowed_by"] == "a test"
    assert facts["limits"]["cpu_s"] == 3
    assert facts["isolation"]["gaps"] == sandbox.isolation.gaps()


EVERYTHING = Isolation(("user", "process", "network", "ipc", "mount"), 6, True, True, True, True, True)
SEEN = "names, owners, sizes and times of files, and which processes run, can be seen"
MEASURED = [
    "the total size of written files is only measured, ten times a second",
    "the number of threads is only measured, ten times a second",
]


def test_isolation_names_its_gaps() -> None:
    assert EVERYTHING.gaps() == []
    assert Isolation((), 4, True, False).gaps() == [SEEN, *MEASURED]
    assert Isolation((), 0, False, False).gaps() == [
        "the network can be reached",
        "files of this user can be read and written",
        "the memory of this user's other processes can be reached through /proc",
        SEEN,
        "processes can be started, and other processes of this user signalled",
        *MEASURED,
    ]
    without_filter = Isolation(EVERYTHING.namespaces, 6, False, True, limited_threads=True)
    assert without_filter.gaps() == [
        "Unix sockets of this machine can be reached by their path",
        "rights, times and attributes of this user's files can be changed",
        SEEN,
    ]
    own_user = Isolation((), 0, True, False, own_user=True, limited_threads=True)
    assert own_user.gaps() == ["files that every user may read or write can be read or written", SEEN, MEASURED[0]]
    assert Isolation((), 6, True, False, wrapper="bubblewrap").gaps() == MEASURED


def test_isolation_survives_json() -> None:
    for isolation in (EVERYTHING, Isolation((), 4, True, False, wrapper="bubblewrap")):
        assert Isolation.from_json(json.loads(json.dumps(isolation.to_json()))) == isolation
        assert Isolation.from_json(isolation.reported(), isolation.wrapper) == isolation
    of_version_1 = {"namespaces": [], "landlock": 4, "seccomp": True, "private_folder": False, "gaps": []}
    assert Isolation.from_json(of_version_1) == Isolation((), 4, True, False)


def test_broken_sandbox_gives_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [*sandbox_module._COMMAND[:-2], "raise SystemExit('no such thing')", ""]
    monkeypatch.setattr(sandbox_module, "_COMMAND", broken)
    with pytest.raises(SandboxBroken, match="no such thing"):
        Sandbox(Permission("a test"))


def test_weaker_isolation_than_at_the_start_raises(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "isolation", Isolation((), 0, False, False))
    with pytest.raises(SandboxBroken, match="the isolation changed"):
        sandbox.run(SandboxJob("x = 1", "assert x == 1"))


def test_job_without_a_verdict_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that breaks its supervisor at every try, among jobs that do not."""
    sandbox = Sandbox(Permission("a test"))
    whole = sandbox._run

    def run(job: SandboxJob) -> Any:
        if "break" in job.code:
            raise SandboxBroken("the sandbox's supervisor did not answer in 35 s")
        return whole(job)

    monkeypatch.setattr(sandbox, "_run", run)
    outcomes = sandbox.run_all([SandboxJob(code, "assert x == 1") for code in ("x = 1", "x = 'break'", "x = 1")])
    assert [outcome.verdict for outcome in outcomes] == ["passed", "crashed", "passed"]
    assert "did not answer in 35 s" in outcomes[1].detail


def test_job_is_tried_again_before_it_counts_as_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, tries = Sandbox(Permission("a test")), []
    whole = sandbox._run

    def run(job: SandboxJob) -> Any:
        tries.append(job)
        if len(tries) == 1:
            raise SandboxBroken("no more processes for a moment")
        return whole(job)

    monkeypatch.setattr(sandbox, "_run", run)
    assert sandbox.run(SandboxJob("x = 1", "assert x == 1")).verdict == "passed"
    assert len(tries) == 2


def test_missing_room_for_the_folder_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(SandboxBroken, match="the sandbox could not start a job"):
        Sandbox(Permission("a test"))


def test_code_is_not_run_when_isolation_changes(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first job found a filter and files confined; the next finds neither and must not start its program."""
    if not sandbox.isolation.seccomp:
        pytest.skip("there is nothing to lose here")
    bare = command_without("namespaces", "own user", "landlock", "seccomp")
    monkeypatch.setattr(sandbox_module, "_COMMAND", bare)
    with pytest.raises(SandboxBroken, match="the isolation changed from"):
        sandbox.run(SandboxJob(f"open({str(tmp_path / 'ran')!r}, 'w')", "pass"))
    assert not (tmp_path / "ran").exists()


QUIET = {"excess": "", "timed_out": False, "stopped": False, "signal": 0, "exit": 0, "cpu_s": 0.1}
LIMITS = {"cpu_s": 5, "wall_s": 20}


@pytest.mark.parametrize(
    ("message", "code", "tests", "expected"),
    [
        ({"verdict": "passed", "detail": ""}, {"timed_out": True}, {}, "passed"),
        ({"verdict": "failed", "detail": "x"}, {}, {}, "failed"),
        (None, {"timed_out": True}, {}, "timeout"),
        (None, {}, {"timed_out": True}, "timeout"),
        ({"verdict": "gone", "detail": ""}, {"signal": 9, "cpu_s": 5.0}, {}, "timeout"),
        ({"verdict": "gone", "detail": ""}, {"signal": 9, "cpu_s": 0.2}, {}, "memory"),
        ({"verdict": "gone", "detail": ""}, {"signal": 9, "stopped": True}, {}, "crashed"),
        ({"verdict": "gone", "detail": ""}, {"exit": 77}, {}, "memory"),
        ({"verdict": "gone", "detail": ""}, {"signal": 11}, {}, "crashed"),
        ({"verdict": "gone", "detail": ""}, {"exit": 0}, {}, "crashed"),
        (None, {"signal": 9, "stopped": True}, {"signal": 11}, "crashed"),
        ({"verdict": "gone", "detail": ""}, {"signal": 9, "excess": "more than 16 MB of files"}, {}, "crashed"),
    ],
)
def test_judge_returns_the_verdict(
    message: dict[str, str] | None, code: dict[str, Any], tests: dict[str, Any], expected: str
) -> None:
    assert judge(message, QUIET | code, QUIET | tests, LIMITS)[0] == expected


# ---- honest programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", attempts("honest"))
def test_honest_programs_pass(sandbox: Sandbox, name: str) -> None:
    outcome = sandbox.run(attempts("honest")[name].job)
    assert outcome.verdict is Verdict.PASSED, outcome.detail
    assert outcome.cpu_s > 0


def test_standard_library_can_be_imported(sandbox: Sandbox) -> None:
    """Modules that this system lacks are left out, and those that open windows or print."""
    noisy = {"antigravity", "this", "idlelib", "turtledemo", "turtle", "tkinter", "_tkinter", "lib2to3", "_ios_support"}
    names = sorted(sys.stdlib_module_names - noisy)
    code = f"""
import importlib
found, failed = [], {{}}
for name in {names!r}:
    try:
        importlib.import_module(name)
        found.append(name)
    except ModuleNotFoundError:
        pass
    except BaseException as error:
        failed[name] = repr(error)
"""
    outcome = sandbox.run(SandboxJob(code, "assert failed == {}, failed\nassert len(found) > 200"))
    assert outcome.verdict == "passed", outcome.detail


def test_preamble_keeps_its_helpers(sandbox: Sandbox) -> None:
    """HumanEval/32: the tests evaluate the polynomial with a helper that stands in the prompt."""
    preamble = "def poly(x):\n    return x - 3\ndef root():\n    '''Find it.'''\n"
    tests = "assert poly(root()) == 0"
    lies = SandboxJob("def poly(x):\n    return 0\ndef root():\n    return 1", tests, preamble, "root")
    assert sandbox.run(lies).verdict == "failed"
    right = SandboxJob(preamble + "def root():\n    return 3", tests, preamble, "root")
    assert sandbox.run(right).verdict == "passed"


def test_detail_names_the_failed_test(sandbox: Sandbox) -> None:
    outcome = sandbox.run(SandboxJob("def f(x):\n    return x", "assert f(1) == 1\nassert f(2) == 5\n"))
    assert outcome.verdict == "failed"
    assert outcome.detail == "AssertionError in `assert f(2) == 5`"


def test_sets_keep_their_order_between_runs(sandbox: Sandbox) -> None:
    code = "def f():\n    return list({'a', 'b', 'c', 'd', 'e', 'f'})"
    outcomes = sandbox.run_all([SandboxJob(code, "assert False, f()")] * 3)
    assert len({outcome.detail for outcome in outcomes}) == 1


# ---- values between the two processes -----------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
scalars |= st.complex_numbers(allow_nan=False) | st.fractions() | st.decimals(allow_nan=False)
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
values = st.recursive(
    hashable | st.sets(hashable, max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=10,
)


def keep(value: Any) -> int:
    raise AssertionError(f"{value!r} was not copied")


@given(values)
def test_plain_values_arrive_as_they_were(value: Any) -> None:
    arrived = decode(json.loads(json.dumps(encode(value, keep))), keep)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize(
    "value",
    [Counter("aab"), OrderedDict(a=1), deque([1, 2]), range(1, 9, 2), Fraction(1, 3), Decimal("1.10"), math, int,
     -(2**70), 1 << 20_000, bytearray(b"a")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_of_the_standard_library_arrive(value: Any) -> None:
    if isinstance(value, int) and value > 1 << 10_000:
        assert len(json.dumps(encode(value, keep))) < 6000
    assert decode(json.loads(json.dumps(encode(value, keep))), keep) == value


@pytest.mark.parametrize(
    "data", [{"eval": "1"}, {"builtin": "eval"}, {"module": "numpy"}, {}, {"set": 1}, {"int": "x"}]
)
def test_decode_rejects_other_data(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(data, keep)


# ---- the benchmarks' own solutions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "every"),
    [
        ("humaneval", 164, 8),
        pytest.param("humaneval", 164, 1, marks=pytest.mark.slow),
        pytest.param("mbpp_sanitized", 427, 1, marks=pytest.mark.slow),
    ],
)
def test_every_canonical_solution_passes(
    sandbox: Sandbox, shared_data: Path, name: str, count: int, every: int
) -> None:
    rows = [
        json.loads(line)
        for line in resolve_benchmark(name, shared_data / "bench").path.read_text(encoding="utf-8").split("\n")
        if line
    ]
    assert len(rows) == count
    rows = rows[::every]
    jobs = [SandboxJob(row["solution"], row["tests"], row["beginning"], row["entry_point"]) for row in rows]
    outcomes = Sandbox(Permission("a test")).run_all(jobs)
    wrong = {row["id"]: o.detail for row, o in zip(rows, outcomes, strict=True) if o.verdict != "passed"}
    assert not wrong
