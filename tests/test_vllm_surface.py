"""The vLLM engine: every name of vLLM that we use exists, and its child process is started, lost and ended cleanly."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gra.core.errors import EngineUnavailable
from gra.engines import vllm as vllm_engine
from gra.engines import vllm_worker
from gra.engines.protocol import Call, Choice, Completion, Fault, Json, ModelId, SamplingSettings, Text
from gra.engines.vllm import VllmEngine, VllmSettings, child_environment

CALL = Call(ModelId("m", "id", "t"), (("user", "echo this"),), Text(), SamplingSettings(0.7, 0.95, 1.1, 64))
SETTINGS = VllmSettings(Path("weights"), max_model_len=512, kv_cache_gb=1.0, threads=2, concurrency=8)


def call(words: str, **changes: Any) -> Call:
    return replace(CALL, messages=(("user", words),), **changes)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed() -> Any:
    vllm = pytest.importorskip("vllm", reason="vLLM is an extra of its own (cpu or cuda)")
    from vllm.v1.engine.async_llm import AsyncLLM

    return SimpleNamespace(vllm=vllm, AsyncLLM=AsyncLLM)


@pytest.mark.parametrize("threads", [0, 2])
def test_every_engine_argument_exists(installed: Any, threads: int, tmp_path: Path) -> None:
    settings = {"path": str(tmp_path), "threads": threads, "max_model_len": 512, "concurrency": 8, "kv_cache_gb": 1.0,
                "gpu_memory_utilization": 0.5}  # fmt: skip
    given = vllm_worker.engine_arguments(settings)
    known = inspect.signature(installed.vllm.AsyncEngineArgs).parameters
    assert not set(given) - set(known)
    installed.vllm.AsyncEngineArgs(**given)


def test_every_sampling_option_exists_and_means_what_it_did(installed: Any) -> None:
    from vllm.sampling_params import RequestOutputKind

    request = {"sampling": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1, "max_tokens": 64}}
    text = vllm_worker.sampling_params(request, 1000, [], False)
    assert (text.temperature, text.top_p, text.repetition_penalty, text.max_tokens) == (0.7, 0.9, 1.1, 64)
    assert text.output_kind is RequestOutputKind.FINAL_ONLY
    assert text.seed is None  # a seed of its own for each request crashes the CPU engine
    assert vllm_worker.sampling_params(request, 10, [], False).max_tokens == 10
    choice = vllm_worker.sampling_params(request, 1000, [5, 9], False)
    assert (choice.max_tokens, choice.temperature, choice.logprobs) == (1, 0.0, 2)
    assert sorted(choice.allowed_token_ids) == [5, 9]
    likelihood = vllm_worker.sampling_params(request, 1000, [], True)
    assert (likelihood.max_tokens, likelihood.prompt_logprobs) == (1, 0)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    bound = vllm_worker.sampling_params({**request, "json": schema}, 1000, [], False)
    assert bound.structured_outputs.json == schema


def test_the_engine_its_prompt_and_its_outputs_have_the_names_we_use(installed: Any) -> None:
    from vllm.inputs import TokensPrompt
    from vllm.outputs import CompletionOutput, RequestOutput

    assert TokensPrompt(prompt_token_ids=[1, 2])["prompt_token_ids"] == [1, 2]
    assert next(iter(inspect.signature(installed.AsyncLLM.from_engine_args).parameters)) == "engine_args"
    assert list(inspect.signature(installed.AsyncLLM.generate).parameters)[1:4] == [
        "prompt", "sampling_params", "request_id"
    ]  # fmt: skip
    assert isinstance(inspect.getattr_static(installed.AsyncLLM, "errored"), property)
    assert {"outputs", "prompt_logprobs", "num_cached_tokens"} <= set(inspect.signature(RequestOutput).parameters)
    assert {"text", "token_ids", "logprobs", "finish_reason"} <= set(inspect.signature(CompletionOutput).parameters)


def test_the_logprobs_mode_is_one_that_vllm_knows(installed: Any) -> None:
    from typing import get_args

    from vllm.config import model

    assert "processed_logprobs" in get_args(model.LogprobsMode)


def test_the_child_is_offline_quiet_and_unpinned() -> None:
    found = child_environment(SETTINGS)
    assert (found["HF_HUB_OFFLINE"], found["VLLM_NO_USAGE_STATS"]) == ("1", "1")
    assert (found["OMP_NUM_THREADS"], found["VLLM_CPU_OMP_THREADS_BIND"]) == ("2", "nobind")
    assert "VLLM_CPU_OMP_THREADS_BIND" not in child_environment(replace(SETTINGS, threads=0))


# --- the child process, with a stand-in for vLLM --------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "mode").write_text("good")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that runs the stand-in whenever it is told to run the worker module."""
    wrapper = tmp_path / "python"
    stand_in = Path(__file__).parent / "vllm_stand_in.py"
    check = '[ "$2" = gra.engines.vllm_worker ] || exit 9'
    wrapper.write_text(f'#!/bin/sh\n{check}\nexec {sys.executable} {stand_in} "$3"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.fixture
def engine(weights: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    monkeypatch.setattr(vllm_engine, "sys", SimpleNamespace(executable=python, prefix=sys.prefix))
    settings = replace(SETTINGS, path=weights, start_timeout_s=30.0)
    return VllmEngine("m", settings, memory_gb=1.0, log_file=weights.parent / "logs" / "engine.log")


def run(engine: VllmEngine, story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def guarded() -> Any:
        try:
            async with asyncio.timeout(60):
                return await story()
        finally:
            await engine.park()

    return asyncio.run(guarded())


def pids(weights: Path) -> list[int]:
    """Every worker and engine core there ever was."""
    return [int(pid) for pid in (weights / "pids").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits only to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(weights: Path, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while any(map(alive, pids(weights))):
        assert time.monotonic() < end, "a process outlived the engine"
        time.sleep(0.02)


def test_calls_are_answered_side_by_side_whatever_their_form(engine: VllmEngine, weights: Path) -> None:
    schema = Json({"type": "object"})

    async def story() -> Any:
        await engine.start()
        await engine.start()  # starting what runs is nothing
        asked = [call(f"echo {i}") for i in range(20)] + [call("huge"), call("echo", output=Choice(("yes", "no")))]
        return await asyncio.gather(*(engine.submit(c) for c in [*asked, call("echo", output=schema)]))

    replies = run(engine, story)
    assert [r.text for r in replies[:20]] == [f"echo {i}" for i in range(20)]
    assert len(replies[20].text) == 2_000_000
    assert replies[21].scores == {"yes": 0.5, "no": 0.5}
    assert (engine.stats.calls, engine.stats.prompt_tokens, engine.stats.starts) == (23, 69, 1)
    wait_until_gone(weights)


def test_a_call_that_fails_is_a_fault_and_the_engine_goes_on(engine: VllmEngine) -> None:
    async def story() -> Any:
        await engine.start()
        return [await engine.submit(call(word)) for word in ("odd", "wrong", "echo")]

    odd, wrong, echo = run(engine, story)
    assert odd == Fault("error", "RuntimeError: this one call failed", permanent=False)
    assert wrong == Fault("error", "ValueError: labels do not differ", permanent=True)
    assert isinstance(echo, Completion)


@pytest.mark.parametrize("how", ["die", "break"])
def test_a_child_that_dies_fails_its_calls_in_flight_is_replaced_and_leaves_nothing(engine, weights, how: str) -> None:
    async def story() -> Any:
        await engine.start()
        slow = [asyncio.create_task(engine.submit(call(f"slow {i}"))) for i in range(5)]
        await asyncio.sleep(0.1)
        died = await asyncio.gather(*slow, engine.submit(call(how)), engine.submit(call("slow too")))
        again = await asyncio.gather(*(engine.submit(call(f"echo {i}")) for i in range(5)))
        assert not any(map(alive, pids(weights)[:2])), "the dead child's engine core still holds its memory"
        return died, again

    died, again = run(engine, story)
    assert [reply.kind for reply in died] == ["died"] * 7
    assert not any(reply.permanent for reply in died)
    assert [reply.text for reply in again] == [f"echo {i}" for i in range(5)]
    assert engine.stats.starts == 2  # all who noticed share one restart
    wait_until_gone(weights)


def test_a_child_that_dies_with_requests_unread_is_noticed_too(engine: VllmEngine, weights: Path) -> None:
    async def story() -> Any:
        await engine.start()
        os.kill(pids(weights)[0], signal.SIGSTOP)
        waiting = [asyncio.create_task(engine.submit(call("echo " + "x" * 5000))) for _ in range(5)]
        await asyncio.sleep(0.1)
        os.kill(pids(weights)[0], signal.SIGKILL)
        return await asyncio.gather(*waiting)

    assert [reply.kind for reply in run(engine, story)] == ["died"] * 5


def test_a_child_that_dies_again_and_again_is_given_up(engine: VllmEngine, weights: Path) -> None:
    async def story() -> None:
        await engine.start()
        while True:
            await asyncio.gather(*(engine.submit(call("die")) for _ in range(4)))

    with pytest.raises(EngineUnavailable, match=r"`m` was lost 4 times; see .*engine\.log.*Run the same command again"):
        run(engine, story)
    assert engine.stats.starts == 4
    wait_until_gone(weights)


def test_a_cancelled_call_is_aborted_in_the_child(engine: VllmEngine, weights: Path) -> None:
    async def story() -> None:
        await engine.start()
        late = asyncio.create_task(engine.submit(call("slow and late")))
        while not (weights / "begun").exists():
            await asyncio.sleep(0.02)
        late.cancel()
        assert isinstance(await engine.submit(call("echo")), Completion)
        while not (weights / "aborted").exists():
            await asyncio.sleep(0.02)

    run(engine, story)
    assert (weights / "aborted").read_text() == "slow and late\n"


def test_parking_ends_every_process_answers_what_waits_and_starting_brings_the_model_back(engine, weights) -> None:
    async def story() -> None:
        await engine.start()
        waiting = asyncio.create_task(engine.submit(call("slow")))
        await asyncio.sleep(0.1)
        await engine.park()
        reply = await waiting
        assert isinstance(reply, Fault)
        assert not alive(pids(weights)[0])
        wait_until_gone(weights, 5)
        await engine.park()  # parking what is parked is nothing
        await engine.start()
        assert isinstance(await engine.submit(call("echo")), Completion)

    run(engine, story)
    assert engine.stats.starts == 2


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("bad weights", "ValueError: no such tensor"),
        ("killed while loading", "its process ended before the model was loaded"),
        ("slow to load", r"it was not ready after 0\.5 s"),
    ],
)
def test_a_model_that_does_not_load_is_one_sentence_and_leaves_nothing(engine, weights, mode: str, reason: str) -> None:
    (weights / "mode").write_text(mode)
    if mode == "slow to load":
        engine.settings = replace(engine.settings, start_timeout_s=0.5)
    with pytest.raises(EngineUnavailable, match=rf"could not load `m` from .*weights: {reason}\. The engine's log is"):
        run(engine, engine.start)
    if (weights / "pids").exists():
        wait_until_gone(weights)


PARENT = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from gra.engines import vllm
vllm.sys = SimpleNamespace(executable=sys.argv[1], prefix=sys.prefix)
settings = vllm.VllmSettings(Path(sys.argv[2]), 512, 1.0, 2, 8)
engine = vllm.VllmEngine("m", settings, memory_gb=1.0, log_file=Path(sys.argv[2]) / "log")
async def main():
    await engine.start()
    print("up", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("mode", ["good", "slow to load"])
def test_nothing_outlives_a_parent_that_is_killed(weights: Path, python: str, mode: str) -> None:
    (weights / "mode").write_text(mode)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, python, str(weights)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        if mode == "good":
            assert parent.stdout.readline() == "up\n"
        end = time.monotonic() + 30
        while not (weights / "pids").exists() and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.wait()
    wait_until_gone(weights)
