"""Bytes from the process of the code, or of the tests, never raise in the process that reads them."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra.sandbox import exchange
from gra.sandbox.exchange import Channel
from gra.sandbox.job import SandboxJob, Verdict
from gra.sandbox.launcher import judge, read_verdict
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import Sandbox

EXAMPLES = int(os.environ.get("GRA_FUZZ_EXAMPLES", "100"))
MOST = 1 << 20
QUIET = {"excess": "", "timed_out": False, "stopped": False, "signal": 0, "exit": 0, "cpu_s": 0.1}
LIMITS = {"cpu_s": 5, "wall_s": 20}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
tags = st.sampled_from(
    ["dict", "tuple", "set", "frozenset", "deque", "complex", "range", "int", "bytes", "bytearray", "module", "builtin",
     "decimal", "fractions", "object", "below"]
)  # fmt: skip
encoded = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e99", "nan", "ff"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tags, inner, min_size=1, max_size=2),
    max_leaves=12,
)
error_names = st.sampled_from(["SystemExit", "ExceptionGroup", "UnicodeDecodeError", "StopIteration", "type"])
replies = st.one_of(
    json_values,
    st.fixed_dictionaries({"value": json_values | encoded}),
    st.fixed_dictionaries({"value": st.dictionaries(st.sampled_from("fg"), encoded, max_size=2)}),
    st.fixed_dictionaries({"value": st.fixed_dictionaries({"result": encoded, "changed": json_values | st.just([])})}),
    st.fixed_dictionaries({"raised": json_values | error_names, "text": json_values}),
    st.fixed_dictionaries({"callback": json_values | st.integers(-3, 3), "args": st.lists(encoded, max_size=2)}),
)
JOB = {
    "preamble": "",
    "tests": "x = [3]\nassert f(x) == 2, f(x)\nassert list(f(lambda y: y)) == [1]\nassert str(f(x)) and f(x) + f(x)",
    "entry_point": "f",
}


def verdict_after(content: bytes) -> dict[str, str]:
    """Return what the process of the tests decides when the code's process writes these bytes and ends."""
    (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()

    def write() -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(their_write, view) :]
        except OSError:
            pass
        os.close(their_write)

    def drain() -> None:
        while os.read(their_read, 1 << 16):
            pass
        os.close(their_read)

    threads = [threading.Thread(target=work) for work in (write, drain)]
    for thread in threads:
        thread.start()
    try:
        return exchange.Tester(Channel(our_read, our_write, MOST)).verdict(JOB)
    finally:
        os.close(our_read)
        os.close(our_write)
        for thread in threads:
            thread.join()


def framed(messages: list[Any]) -> bytes:
    """Return messages as the code's process would write them."""
    contents = [json.dumps(message).encode() for message in messages]
    return b"".join(len(content).to_bytes(4, "big") + content for content in contents)


def check(found: dict[str, str]) -> None:
    """Require a verdict that the supervisor accepts, and that is no pass."""
    assert read_verdict(json.dumps(found).encode()) is not None
    assert found["verdict"] in ("failed", "memory", "gone")
    Verdict(judge(found, QUIET, QUIET, LIMITS)[0])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_of_the_code_are_a_verdict(content: bytes) -> None:
    check(verdict_after(content))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(replies, max_size=6), st.binary(max_size=3))
def test_any_messages_of_the_code_are_a_verdict(messages: list[Any], rest: bytes) -> None:
    check(verdict_after(framed([{"value": None}, {"value": {"f": {"object": 0}}}, *messages]) + rest))
    check(verdict_after(framed(messages) + rest))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_of_the_tests_are_a_verdict_or_none(content: bytes) -> None:
    found = read_verdict(content)
    verdict, detail = judge(found, QUIET, QUIET, LIMITS)
    assert isinstance(detail, str)
    Verdict(verdict)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(["passed", "failed", "gone", "memory", "other", 1, None]), json_values)
def test_verdict_has_a_short_text(verdict: object, detail: object) -> None:
    found = read_verdict(json.dumps({"verdict": verdict, "detail": detail}).encode())
    assert (found is None) == (verdict not in ("passed", "failed", "gone", "memory"))
    assert found is None or (isinstance(found["detail"], str) and len(found["detail"]) <= 1000)


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b"null", b"{}", b'{"verdict": ["passed"], "detail": ""}', b'{"verdict": "passed"}x'],
)
def test_no_verdict_is_read_from_other_content(content: bytes) -> None:
    assert read_verdict(content) is None


WRITES = {
    "another verdict": 'b\'{"verdict": "crowned", "detail": ""}\'',
    "half a verdict": 'b\'{"verdict": "pas\'',
    "no text": "bytes(range(256))",
    "a long text": "b'x' * 100_000",
    "a deep list": "b'[' * 60_000",
}


@pytest.mark.parametrize("name", WRITES)
def test_test_that_writes_into_every_handle_gets_a_verdict(name: str) -> None:
    tests = f"""
import os
for handle in range(3, 64):
    try:
        os.set_blocking(handle, False)
        os.write(handle, {WRITES[name]})
    except OSError:
        pass
os._exit(0)
"""
    outcome = Sandbox(Permission("a test")).run(SandboxJob("def f():\n    return 1", tests))
    assert outcome.verdict == "crashed"


def test_test_that_writes_without_end_gets_a_verdict() -> None:
    tests = """
import os
def write(handle):
    try:
        while True:
            os.write(handle, b"x" * 65536)
    except OSError:
        pass
[write(handle) for handle in range(40, 2, -1)]
os._exit(0)
"""
    outcome = Sandbox(Permission("a test")).run(SandboxJob("def f():\n    return 1", tests))
    assert outcome.verdict in ("crashed", "timeout")


@pytest.mark.parametrize("text", ["\0", "\ud800", "\N{BOM}x = 1", "(" * 5000, "x = " + "-" * 50_000 + "1", "\x1b[31m"])
def test_odd_code_and_odd_tests_get_a_verdict(text: str) -> None:
    sandbox = Sandbox(Permission("a test"))
    for job in (SandboxJob(text, "assert True"), SandboxJob("x = 1", text), SandboxJob("x = 1", "assert x", text)):
        assert sandbox.run(job).verdict in list(Verdict)
