"""The vLLM engine's child process, with a stand-in for vLLM: started, asked, lost, put to sleep and ended cleanly."""

from __future__ import annotations

import asyncio
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
from paths import HELPERS

from gra.core.errors import EngineUnavailable
from gra.engines.types import Call, Choice, Completion, Fault, Json, ModelId, SamplingSettings, Text
from gra.engines.vllm import engine as vllm_engine
from gra.engines.vllm.engine import VllmEngine, VllmSettings

CALL = Call(ModelId("m", "id", "t"), (("user", "echo this"),), Text(), SamplingSettings(0.7, 0.95, 1.1, 64))
SETTINGS = VllmSettings(Path("weights"), max_model_len=512, kv_cache_gb=1.0, threads=2, concurrency=8)


def call(words: str, **changes: Any) -> Call:
    return replace(CALL, messages=(("user", words),), **changes)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "mode").write_text("good")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Return an interpreter that runs the stand-in in place of the worker module."""
    wrapper = tmp_path / "python"
    stand_in = HELPERS / "vllm_stand_in.py"
    check = '[ "$2" = gra.engines.vllm.worker ] || exit 9'
    wrapper.write_text(f'#!/bin/sh\n{check}\nexec {sys.executable} {stand_in} "$3"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.fixture
def engine(weights: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    monkeypatch.setattr(vllm_engine, "sys", SimpleNamespace(executable=python, prefix=sys.prefix))
    settings = replace(SETTINGS, path=weights, start_timeout_s=30.0)
    return VllmEngine("m", settings, memory_gb=1.0, log_file=weights.parent / "logs" / "engine.log")


def run(engine: VllmEngine, scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def guarded() -> Any:
        try:
            async with asyncio.timeout(60):
                return await scenario()
        finally:
            await engine.unload()

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


def test_calls_of_every_form_are_answered_side_by_side(engine: VllmEngine, weights: Path) -> None:
    schema = Json({"type": "object"})

    async def scenario() -> Any:
        await engine.start()
        await engine.start()  # starting what runs is nothing
        asked = [call(f"echo {i}") for i in range(20)] + [call("huge"), call("echo", output=Choice(("yes", "no")))]
        return await asyncio.gather(*(engine.submit(c) for c in [*asked, call("echo", output=schema)]))

    replies = run(engine, scenario)
    assert [r.text for r in replies[:20]] == [f"echo {i}" for i in range(20)]
    assert len(replies[20].text) == 2_000_000
    assert replies[21].scores == {"yes": 0.5, "no": 0.5}
    assert (engine.stats.calls, engine.stats.prompt_tokens, engine.stats.starts) == (23, 69, 1)
    wait_until_gone(weights)


def test_a_call_that_fails_is_a_fault_and_the_engine_goes_on(engine: VllmEngine) -> None:
    async def scenario() -> Any:
        await engine.start()
        return [await engine.submit(call(word)) for word in ("odd", "wrong", "echo")]

    odd, wrong, echo = run(engine, scenario)
    assert odd == Fault("error", "RuntimeError: this one call failed", permanent=False)
    assert wrong == Fault("error", "ValueError: labels do not differ", permanent=True)
    assert isinstance(echo, Completion)


@pytest.mark.parametrize("how", ["die", "break"])
def test_a_child_that_dies_fails_its_calls_in_flight_is_replaced_and_leaves_nothing(engine, weights, how: str) -> None:
    async def scenario() -> Any:
        await engine.start()
        slow = [asyncio.create_task(engine.submit(call(f"slow {i}"))) for i in range(5)]
        await asyncio.sleep(0.1)
        died = await asyncio.gather(*slow, engine.submit(call(how)), engine.submit(call("slow too")))
        again = await asyncio.gather(*(engine.submit(call(f"echo {i}")) for i in range(5)))
        assert not any(map(alive, pids(weights)[:2])), "the dead child's engine core still holds its memory"
        return died, again

    died, again = run(engine, scenario)
    assert [reply.kind for reply in died] == ["died"] * 7
    assert not any(reply.permanent for reply in died)
    assert [reply.text for reply in again] == [f"echo {i}" for i in range(5)]
    assert engine.stats.starts == 2  # all who noticed share one restart
    wait_until_gone(weights)


def test_a_child_that_dies_with_requests_unread_is_noticed_too(engine: VllmEngine, weights: Path) -> None:
    async def scenario() -> Any:
        await engine.start()
        os.kill(pids(weights)[0], signal.SIGSTOP)
        waiting = [asyncio.create_task(engine.submit(call("echo " + "x" * 5000))) for _ in range(5)]
        await asyncio.sleep(0.1)
        os.kill(pids(weights)[0], signal.SIGKILL)
        return await asyncio.gather(*waiting)

    assert [reply.kind for reply in run(engine, scenario)] == ["died"] * 5


def test_a_child_that_dies_again_and_again_is_given_up(engine: VllmEngine, weights: Path) -> None:
    async def scenario() -> None:
        await engine.start()
        while True:
            await asyncio.gather(*(engine.submit(call("die")) for _ in range(4)))

    with pytest.raises(
        EngineUnavailable,
        match=r"`m` was lost 4 times without an answer in between; see .*engine\.log.*Run the same command again",
    ):
        run(engine, scenario)
    assert engine.stats.starts == 4
    wait_until_gone(weights)


def test_a_child_that_is_lost_now_and_then_is_always_started_again(engine: VllmEngine) -> None:
    async def scenario() -> None:
        await engine.start()
        for _ in range(6):
            assert isinstance(await engine.submit(call("die")), Fault)
            assert isinstance(await engine.submit(call("echo")), Completion)

    run(engine, scenario)
    assert engine.stats.starts == 7


def test_a_cancelled_call_is_aborted_in_the_child(engine: VllmEngine, weights: Path) -> None:
    async def scenario() -> None:
        await engine.start()
        late = asyncio.create_task(engine.submit(call("slow and late")))
        while not (weights / "begun").exists():
            await asyncio.sleep(0.02)
        late.cancel()
        assert isinstance(await engine.submit(call("echo")), Completion)
        while not (weights / "aborted").exists():
            await asyncio.sleep(0.02)

    run(engine, scenario)
    assert (weights / "aborted").read_text() == "slow and late\n"


def test_unload_ends_every_process_and_start_loads_the_model_again(engine, weights) -> None:
    async def scenario() -> None:
        await engine.start()
        waiting = asyncio.create_task(engine.submit(call("slow")))
        await asyncio.sleep(0.1)
        await engine.unload()
        reply = await waiting
        assert isinstance(reply, Fault)
        assert not alive(pids(weights)[0])
        wait_until_gone(weights, 5)
        await engine.unload()  # a second unload does nothing
        await engine.start()
        assert isinstance(await engine.submit(call("echo")), Completion)

    run(engine, scenario)
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
from gra.engines.vllm import engine as vllm
vllm.sys = SimpleNamespace(executable=sys.argv[1], prefix=sys.prefix)
settings = vllm.VllmSettings(Path(sys.argv[2]), 512, 1.0, 2, 8)
served = vllm.VllmEngine("m", settings, memory_gb=1.0, log_file=Path(sys.argv[2]) / "log")
async def main():
    await served.start()
    print("up", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("mode", ["good", "slow to load"])
def test_nothing_outlives_a_parent_that_is_killed(weights: Path, python: str, mode: str, together: bool) -> None:
    (weights / "mode").write_text(mode)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, python, str(weights)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        if mode == "good":
            assert parent.stdout.readline() == "up\n"
        end = time.monotonic() + 30
        while not (weights / "pids").exists() and time.monotonic() < end:
            time.sleep(0.02)
        if together:
            worker = pids(weights)[0]
            os.kill(worker, signal.SIGSTOP)  # it does not see its parent go
    finally:
        parent.kill()
        parent.wait()
        if together:
            os.kill(worker, signal.SIGKILL)
    wait_until_gone(weights)


def test_child_inherits_no_secret(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "VLLM_API_KEY", "NVIDIA_API_KEY", "MY_SECRET", "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "PYTHON_KEYRING_PASSWORD",
    )  # fmt: skip
    for name in secrets:
        monkeypatch.setenv(name, "sk-very-secret-0123456789")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    async def scenario() -> Any:
        await engine.start()
        return await engine.submit(call("environment"))

    names = run(engine, scenario).text.split()
    assert not set(secrets) & set(names)
    assert {"PATH", "VLLM_LOGGING_LEVEL", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE"} <= set(names)


def test_line_too_long_to_read_is_a_lost_engine_and_no_call_waits_for_ever(engine: VllmEngine) -> None:
    async def scenario() -> list[Any]:
        await engine.start()
        async with asyncio.timeout(60):
            return [await engine.submit(call("garbled")), await engine.submit(call("echo"))]

    lost, answered = run(engine, scenario)
    assert (lost.kind, type(answered)) == ("died", Completion)


# --- sleep ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper(engine: VllmEngine) -> VllmEngine:
    engine.settings = replace(engine.settings, sleep_level=2)
    engine.asleep_gb = 0.5
    return engine


def test_a_model_sleeps_and_wakes_in_the_same_process(sleeper: VllmEngine, weights: Path) -> None:
    async def scenario() -> None:
        await sleeper.start()
        for _ in range(2):
            await sleeper.sleep()
            await sleeper.start()
            assert isinstance(await sleeper.submit(call("echo")), Completion)

    run(sleeper, scenario)
    assert (weights / "orders").read_text().split() == ["sleep2", "wake2"] * 2
    assert (sleeper.stats.starts, sleeper.stats.wakes, sleeper.stats.notes) == (1, 2, [])
    wait_until_gone(weights)


@pytest.mark.parametrize(
    ("mode", "said"),
    [("no sleep", "could not sleep"), ("bad dreams", "did not wake as it was"), ("dies waking", "died")],
)
def test_one_that_cannot_sleep_or_wakes_as_another_is_started_anew_and_sleeps_no_more(
    sleeper: VllmEngine, weights: Path, mode: str, said: str
) -> None:
    (weights / "mode").write_text(mode)

    async def scenario() -> None:
        await sleeper.start()
        await sleeper.sleep()
        await sleeper.start()
        assert isinstance(await sleeper.submit(call("echo")), Completion)

    run(sleeper, scenario)
    assert (sleeper.stats.starts, sleeper.stats.wakes, sleeper.asleep_gb) == (2, 0, 0.0)
    assert [said in note for note in sleeper.stats.notes] == [True]
    wait_until_gone(weights)


def test_a_sleeper_that_is_ended_gives_its_calls_back_untried(sleeper: VllmEngine, weights: Path) -> None:
    async def scenario() -> Any:
        await sleeper.start()
        asleep = asyncio.create_task(sleeper.submit(call("slow")))
        while not (weights / "begun").exists():
            await asyncio.sleep(0.01)
        await sleeper.sleep()
        await sleeper.unload()
        return await asleep

    given_back = run(sleeper, scenario)
    assert isinstance(given_back, Fault)
    assert given_back.kind == "busy", "that is no attempt"
    wait_until_gone(weights)


def test_one_that_dies_in_its_sleep_is_started_anew(sleeper: VllmEngine, weights: Path) -> None:
    async def scenario() -> None:
        await sleeper.start()
        await sleeper.sleep()
        os.kill(pids(weights)[0], signal.SIGKILL)
        await asyncio.sleep(0.2)
        await sleeper.start()
        assert isinstance(await sleeper.submit(call("echo")), Completion)
        await sleeper.sleep()

    run(sleeper, scenario)
    assert sleeper.stats.starts == 2
    wait_until_gone(weights)


def test_an_adapter_that_is_not_served_is_refused_and_one_that_is_reaches_the_child(engine: VllmEngine) -> None:
    engine.settings = replace(engine.settings, adapters={"lora:1": "folder"}, lora_rank=8)

    async def scenario() -> Any:
        await engine.start()
        adapted = [replace(CALL.model, adapter=adapter) for adapter in ("", "lora:1", "lora:2")]
        return [await engine.submit(call("adapter", model=model)) for model in adapted]

    without, one, other = run(engine, scenario)
    assert (without.text, one.text) == ("none", "lora:1")
    assert other == Fault("error", "`m` is served without the adapter lora:2", permanent=True)
