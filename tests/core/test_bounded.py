"""Calls in a child process: results, limits on time and memory, and what the child is given."""

from __future__ import annotations

import os
import threading
import time

import pytest

from gra.core.errors import EngineUnavailable
from gra.core.processes.bounded import BoundedFunction, LimitExceeded

# `eval` of a lambda is a function that the child can make for itself.
EVAL = "builtins:eval"


def test_call_returns_the_value() -> None:
    add = BoundedFunction(EVAL, "lambda a, b: a + b")
    assert [add(1, 2), add("é\ud83d", "x"), add([1], [2.5])] == [3, "é\ud83dx", [1, 2.5]]
    add.close()
    assert add(2, 2) == 4, "a closed function starts again"


def test_computation_in_c_is_stopped_and_the_next_call_works() -> None:
    power = BoundedFunction(EVAL, "lambda n: len(hex(3 ** n))", seconds=0.5)
    begun = time.monotonic()
    with pytest.raises(LimitExceeded, match="too much time or memory"):
        power(10**9)
    assert time.monotonic() - begun < 60
    assert power(4) == len(hex(81))


def test_memory_is_limited() -> None:
    fill = BoundedFunction(EVAL, "lambda n: len(bytearray(n))")
    with pytest.raises(LimitExceeded, match="MemoryError"):
        fill(8 << 30)
    assert fill(1000) == 1000


def test_failure_of_the_function_is_reported() -> None:
    divide = BoundedFunction(EVAL, "lambda n: 1 / n")
    with pytest.raises(LimitExceeded, match="ZeroDivisionError"):
        divide(0)
    with pytest.raises(LimitExceeded):
        BoundedFunction(EVAL, "lambda: __import__('os')._exit(3)")()


def test_function_that_cannot_be_made_is_no_verdict() -> None:
    with pytest.raises(EngineUnavailable, match="cannot be started: ModuleNotFoundError"):
        BoundedFunction("no_such_module:f")()


def test_printing_is_no_reply() -> None:
    speak = BoundedFunction(EVAL, "lambda text: print(text) or len(text)")
    assert speak('{"value": 9}') == 12


def test_child_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    names = BoundedFunction(EVAL, "lambda: sorted(__import__('os').environ)")()
    assert "HF_TOKEN" not in names
    assert "PATH" in names


def test_calls_of_several_threads_do_not_mix() -> None:
    double = BoundedFunction(EVAL, "lambda n: 2 * n")
    results: dict[int, int] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: double(n)})) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: 2 * n for n in range(20)}


def test_forked_process_starts_a_child_of_its_own() -> None:
    own = BoundedFunction(EVAL, "lambda: __import__('os').getppid()")
    assert own() == os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(0 if own() == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert own() == os.getpid()
