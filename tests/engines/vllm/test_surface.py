"""Check that every name of vLLM in use exists with its expected meaning, before a new vLLM is allowed."""

from __future__ import annotations

import asyncio
import inspect
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from gra.engines.vllm import start
from gra.engines.vllm import worker as vllm_worker
from gra.engines.vllm.engine import VllmSettings, child_environment

pytestmark = pytest.mark.slow  # imports vLLM, which a real run does in test_end_to_end.py

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
SETTINGS = VllmSettings(Path("weights"), max_model_len=512, kv_cache_gb=1.0, threads=2, concurrency=8)


@pytest.fixture(scope="module")
def installed() -> Any:
    vllm = pytest.importorskip("vllm", reason="vLLM is an extra of its own (cpu or cuda)")
    from vllm.v1.engine.async_llm import AsyncLLM

    return SimpleNamespace(vllm=vllm, AsyncLLM=AsyncLLM)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("adapters", [{}, {"lora:1": "folder", "lora:2": "other"}])
def test_every_engine_argument_exists(installed: Any, threads: int, adapters: dict[str, str], tmp_path: Path) -> None:
    settings = replace(
        SETTINGS,
        path=tmp_path,
        threads=threads,
        adapters=adapters,
        lora_rank=9,
        lora_modules=("q_proj",),
        sleep_level=1,
    )
    given = start.engine_arguments(asdict(settings) | {"path": str(tmp_path)})
    assert given.get("enable_sleep_mode", False) is (threads == 0)  # vLLM refuses it on a CPU
    assert given["scheduling_policy"] == "priority"
    assert given.get("max_lora_rank") == (16 if adapters else None)
    # On a CPU the last place is the one that calls without an adapter are computed with.
    assert given.get("max_loras") == (None if not adapters else 2 if threads == 0 else 3)
    known = inspect.signature(installed.vllm.AsyncEngineArgs).parameters
    assert not set(given) - set(known)
    installed.vllm.AsyncEngineArgs(**given)


def test_engines_on_shared_cores_use_a_worker_that_computes_in_turns(installed: Any) -> None:
    from vllm.v1.worker.cpu_worker import CPUWorker

    from gra.engines.vllm.cpu_worker import TurnTakingWorker

    shared = asdict(replace(SETTINGS, cores_file="cores", step_tokens=4)) | {"path": "weights"}
    given = start.engine_arguments(shared)
    assert given["worker_cls"] == f"{TurnTakingWorker.__module__}.{TurnTakingWorker.__qualname__}"
    assert given["max_num_batched_tokens"] == 8  # as many as calls that are answered at once
    assert not {"worker_cls", "max_num_batched_tokens"} & set(start.engine_arguments(asdict(SETTINGS)))
    for method in ("execute_model", "sample_tokens"):
        assert callable(getattr(CPUWorker, method))
    assert child_environment(replace(SETTINGS, cores_file="cores"))["GRA_CORES_FILE"] == "cores"


@pytest.mark.parametrize(
    ("device", "preloaded", "method"),
    [("cpu", "/lib/libiomp5.so", "fork"), ("cpu", "", "spawn"), ("cuda", "/lib/libiomp5.so", "spawn")],
)
def test_engine_core_is_forked_on_a_cpu_where_openmp_allows_it(
    installed: Any, monkeypatch: pytest.MonkeyPatch, device: str, preloaded: str, method: str
) -> None:
    config = SimpleNamespace(device_config=SimpleNamespace(device_type=device))
    monkeypatch.setenv("LD_PRELOAD", preloaded)
    monkeypatch.setenv(METHOD, "spawn")  # as vLLM's CPU platform sets it
    monkeypatch.setattr(installed.vllm, "AsyncEngineArgs", lambda: SimpleNamespace(create_engine_config=lambda: config))
    monkeypatch.setattr(installed.AsyncLLM, "from_vllm_config", lambda given: (given, os.environ[METHOD]))
    assert start.start_engine({}) == (config, method)


def test_names_that_fork_an_engine_core_exist(installed: Any) -> None:
    from vllm import envs
    from vllm.utils.system_utils import get_mp_context

    assert callable(installed.vllm.AsyncEngineArgs.create_engine_config)
    assert next(iter(inspect.signature(installed.AsyncLLM.from_vllm_config).parameters)) == "vllm_config"
    assert METHOD in envs.environment_variables
    assert METHOD in inspect.getsource(get_mp_context)


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


def test_adapters_and_sleep_have_the_names_we_use(installed: Any) -> None:
    from vllm.config.lora import MaxLoRARanks
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine import PauseMode

    assert get_args(MaxLoRARanks) == start.LORA_RANKS
    assert LoRARequest(lora_name="a", lora_int_id=1, lora_path="folder").lora_int_id == 1
    parameters = {
        name: list(inspect.signature(getattr(installed.AsyncLLM, name)).parameters)[1:]
        for name in ("sleep", "wake_up", "collective_rpc", "add_lora", "remove_lora")
    }
    assert parameters["sleep"] == ["level", "mode"]
    assert "keep" in get_args(PauseMode)  # calls in flight sleep with their model
    assert parameters["wake_up"] == ["tags"]
    assert parameters["collective_rpc"][0] == "method"
    assert parameters["add_lora"] == ["lora_request"]
    assert parameters["remove_lora"] == ["lora_id"]
    assert {"lora_request", "priority"} <= set(inspect.signature(installed.AsyncLLM.generate).parameters)


def test_the_parts_that_sleep_have_the_tags_we_wake_and_workers_can_read_weights_again(installed: Any) -> None:
    from vllm.v1.executor import abstract
    from vllm.v1.worker.gpu_worker import Worker as GpuWorker

    assert set(abstract.SLEEP_TAGS) == {"weights", "kv_cache"}
    assert callable(GpuWorker.reload_weights)


# --- the order of waking, with an engine that notes its orders --------------------------------------------------------


class Noting:
    """Stands for AsyncLLM: notes the orders, and gives a text the log-likelihood it is set to."""

    def __init__(self) -> None:
        self.orders: list[Any] = []
        self.logprob = -1.0
        self.finish: str | None = "stop"

    async def sleep(self, level: int, mode: str) -> None:
        self.orders.append(("sleep", level, mode))

    async def wake_up(self, tags: list[str] | None = None) -> None:
        self.orders.append(("wake_up", tags))

    async def collective_rpc(self, method: str) -> None:
        self.orders.append(method)

    async def add_lora(self, request: Any) -> None:
        self.orders.append(("add", request.lora_name))

    async def remove_lora(self, number: int) -> None:
        self.orders.append(("remove", number))

    async def generate(
        self, prompt: Any, params: Any, request_id: str, lora_request: Any = None, priority: int = 0
    ) -> Any:
        self.orders += ["asked"] if priority < 0 else []
        tokens = prompt["prompt_token_ids"]
        logprob = self.logprob - (0.5 if lora_request else 0.0)
        scores = [None, *({token: SimpleNamespace(logprob=logprob)} for token in tokens[1:])]
        said = SimpleNamespace(text="said", token_ids=[1], finish_reason=self.finish, logprobs=None)
        yield SimpleNamespace(prompt_logprobs=scores, outputs=[said], num_cached_tokens=0)


@pytest.fixture
def worker(installed: Any) -> vllm_worker.Worker:
    made = object.__new__(vllm_worker.Worker)
    made.engine = Noting()
    made.tokenizer = SimpleNamespace(
        encode=lambda text, add_special_tokens=True: list(range(len(text.split()))),
        apply_chat_template=lambda messages, **options: {"input_ids": [1, 2, 3]},
    )
    made.max_model_len, made.said, made.well = 512, [], asyncio.Event()
    made.well.set()
    made.adapters = {"lora:1": SimpleNamespace(lora_name="lora:1", lora_int_id=1, lora_path="folder")}
    return made


@pytest.mark.parametrize(
    ("level", "order"),
    [
        (1, [("wake_up", None)]),
        (2, [("wake_up", ["weights"]), "reload_weights", ("remove", 1), ("add", "lora:1"), ("wake_up", ["kv_cache"])]),
    ],
)
def test_a_model_is_woken_in_the_order_vllm_wants(worker: Any, level: int, order: list[Any]) -> None:
    async def sleep_and_wake() -> None:
        await worker.remember()
        await worker.sleep(level)
        await worker.wake(level)

    asyncio.run(sleep_and_wake())
    asked = ["asked"] * 2  # of the model and of its adapter, before anything moves
    assert worker.engine.orders == [*asked, ("sleep", level, "keep"), *asked, *order]
    assert worker.well.is_set()
    assert worker.said == pytest.approx([-1.0, -1.5])


@pytest.mark.parametrize("logprob", [-9.0, float("nan")])
def test_a_model_that_wakes_as_another_is_found_out(worker: Any, logprob: float) -> None:
    async def sleep_and_wake() -> None:
        await worker.remember()
        await worker.sleep(2)
        worker.engine.logprob = logprob
        await worker.wake(2)

    with pytest.raises(RuntimeError, match="nats a token and gave it"):
        asyncio.run(sleep_and_wake())
    assert not worker.well.is_set(), "no answer of it goes out"


REQUEST = {"id": 7, "messages": [{"role": "user", "content": "Say it."}], "adapter": "", "sampling": {
    "temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "max_tokens": 9}}  # fmt: skip


def test_an_answer_that_comes_while_the_model_wakes_waits_until_it_is_known_to_be_itself(worker: Any) -> None:
    async def sleep_and_wake() -> None:
        worker.well.clear()
        answer = asyncio.create_task(worker.answer(REQUEST))
        await asyncio.sleep(0.01)
        assert not answer.done()
        worker.well.set()
        assert (await answer)["completion"]["text"] == "said"

    asyncio.run(sleep_and_wake())


@pytest.mark.parametrize("finish", ["abort", "error", None, "odd"])
def test_answer_with_an_unknown_end_is_a_fault_that_names_it(worker: Any, finish: str | None) -> None:
    worker.engine.finish = finish
    reply = asyncio.run(worker.answer(REQUEST))
    assert reply == {"id": 7, "fault": f"vLLM ended the answer with finish_reason {finish!r}", "permanent": False}


def test_settings_that_are_null_are_left_to_vllm(installed: Any) -> None:
    sampling = {"temperature": None, "top_p": None, "repetition_penalty": None, "max_tokens": 9}
    params = vllm_worker.sampling_params({"sampling": sampling}, 100, [], False)
    assert (params.temperature, params.top_p, params.repetition_penalty, params.max_tokens) == (1.0, 1.0, 1.0, 9)


# --- reward models ----------------------------------------------------------------------------------------------------


def test_reward_models_are_pooled_under_the_names_we_use(installed: Any, tmp_path: Path) -> None:
    from vllm import PoolingParams
    from vllm.outputs import PoolingOutput, PoolingRequestOutput
    from vllm.tasks import PoolingTask

    given = start.engine_arguments(asdict(replace(SETTINGS, rewards=True)) | {"path": str(tmp_path)})
    assert not set(given) - set(inspect.signature(installed.vllm.AsyncEngineArgs).parameters)
    installed.vllm.AsyncEngineArgs(**given)
    assert "classify" in get_args(PoolingTask)
    params = PoolingParams(task="classify", use_activation=False)
    assert (params.task, params.use_activation) == ("classify", False)
    parameters = list(inspect.signature(installed.AsyncLLM.encode).parameters)
    assert parameters[1:4] == ["prompt", "pooling_params", "request_id"]
    assert "priority" in parameters
    assert {"outputs", "num_cached_tokens"} <= set(inspect.signature(PoolingRequestOutput).parameters)
    assert "data" in inspect.signature(PoolingOutput).parameters


def test_reward_model_answers_and_is_checked_after_sleep_by_its_reward(worker: Any) -> None:
    import torch

    class Pooling(Noting):
        async def encode(self, prompt: Any, pooling_params: Any, request_id: str, priority: int = 0) -> Any:
            self.orders += ["asked"] if priority < 0 else []
            data = torch.tensor([0.0, float(len(prompt["prompt_token_ids"])) + self.logprob])
            yield SimpleNamespace(outputs=SimpleNamespace(data=data), num_cached_tokens=2)

    worker.__class__, worker.engine, worker.adapters, worker.padding = vllm_worker.RewardWorker, Pooling(), {}, 3

    async def scenario() -> Any:
        await worker.remember()
        await worker.sleep(1)
        await worker.wake(1)
        reply = await worker.answer(REQUEST | {"reward": "an answer"})
        worker.engine.logprob = -3.0
        with pytest.raises(RuntimeError, match="before it slept"):
            await worker.wake(1)
        return reply["completion"]

    found = asyncio.run(scenario())
    assert (found["scores"], found["prompt_tokens"], found["cached_tokens"]) == (
        {"reward": 1.0},
        2,
        2,
    )  # without padding
    assert worker.engine.orders == [
        "asked",
        ("sleep", 1, "keep"),
        "asked",
        ("wake_up", None),
        "asked",
        ("wake_up", None),
    ]
