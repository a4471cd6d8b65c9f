"""Test the vLLM engine on real weights: shared engines with adapters, sleep on a CPU, a killed child."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from gra.engines.broker import Broker, EnginePool
from gra.engines.types import Answer, Call, Completion, Engine, Likelihood, ModelId, Reward, SamplingSettings, Text
from gra.engines.vllm.engine import VllmEngine, VllmSettings
from gra.ledger.ledger import Ledger
from gra.models.adapters import Adapter, find_adapter
from gra.models.catalog import resolve
from gra.models.int8 import int8_model

pytestmark = [pytest.mark.models, pytest.mark.slow]

NAME = "smollm2-135m-instruct"
GREEDY = SamplingSettings(0.0, 1.0, 1.0, 12)
ANSWER = "The sun rises in the east and sets in the west."
QUESTION = "Where does the sun rise?"


@pytest.fixture(scope="module")
def weights() -> Path:
    pytest.importorskip("vllm", reason="vLLM is an extra of its own (cpu or cuda)")
    return resolve(NAME).path


@pytest.fixture(scope="module")
def adapters(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    """Two small adapters with random weights, of different rank, as PEFT writes them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = {}
    for seed, rank in ((1, 4), (2, 8)):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj", "down_proj"])
        network = get_peft_model(AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32), config)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        folder = tmp_path_factory.mktemp("adapters") / str(seed)
        network.save_pretrained(folder)
        made[str(seed)] = find_adapter(str(folder))
    return made


def engine_for(path: Path, folder: Path, name: str = NAME, memory_gb: float = 1.0, **options: Any) -> VllmEngine:
    settings = VllmSettings(path, 512, 0.25, len(os.sched_getaffinity(0)), 8, **options)
    return VllmEngine(name, settings, memory_gb=memory_gb, log_file=folder / f"{name}.log", asleep_gb=0.5)


def call(words: str, output: Any = None, adapter: str = "", name: str = NAME) -> Call:
    return Call(ModelId(name, name, "t", adapter), (("user", words),), output or Text(), GREEDY)


def run(
    engines: Mapping[str, Engine],
    ledger: Ledger,
    scenario: Callable[[Broker], Coroutine[Any, Any, Any]],
    limit: float = 9,
) -> Any:
    async def whole() -> Any:
        pool = EnginePool(engines, limit)
        try:
            async with asyncio.timeout(500):
                return await scenario(Broker(ledger, pool, backoff_s=0.1))
        finally:
            await pool.swapper.close()

    return asyncio.run(whole())


def likelihood_by_peft(weights: Path, adapter: Adapter | None) -> float:
    """The log-likelihood of the answer in nats, by Transformers and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights)
    network = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, str(adapter.path))
    messages = [{"role": "user", "content": QUESTION}]
    prompt = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])
    answer = tokenizer.encode(ANSWER, add_special_tokens=False)
    with torch.no_grad():
        logits = network(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


def test_members_with_other_adapters_share_one_engine_which_sleeps_and_wakes_as_it_was(
    weights: Path, adapters: dict[str, Adapter], ledger: Ledger, tmp_path: Path
) -> None:
    adapted = {adapter.identity: str(adapter.path) for adapter in adapters.values()}
    modules = adapters["1"].modules
    assert modules == ("down_proj", "q_proj", "v_proj")
    # On a CPU vLLM follows the orders of sleep and keeps its memory, so only their sequence is tested here.
    engine = engine_for(weights, tmp_path, adapters=adapted, lora_rank=8, lora_modules=modules, sleep_level=2)

    async def scenario(broker: Broker) -> list[dict[str, Any]]:
        found = []
        for sleep_and_wake in range(2):
            if sleep_and_wake:
                await engine.sleep()
                await engine.start()
            # Some are computed in one batch, where each must be answered by its own weights.
            asked = [call(QUESTION, Likelihood(ANSWER), adapter) for adapter in ("", *adapted)] * 3
            replies = await asyncio.gather(*(engine.submit(c) for c in asked))
            assert all(isinstance(reply, Completion) for reply in replies), replies
            said: dict[str, list[float]] = {adapter: [] for adapter in ("", *adapted)}
            for c, reply in zip(asked, replies, strict=True):
                said[c.model.adapter].append(reply.scores["logprob"])  # type: ignore[union-attr]
            assert all(max(values) - min(values) < 0.2 for values in said.values()), said
            found.append({adapter: values[0] for adapter, values in said.items()})
        return found

    before, after = run({NAME: engine}, ledger, scenario)
    assert (engine.stats.starts, engine.stats.wakes, engine.stats.notes) == (1, 1, [])
    assert after == pytest.approx(before, abs=0.2)
    references = {"": likelihood_by_peft(weights, None)}
    references |= {adapter.identity: likelihood_by_peft(weights, adapter) for adapter in adapters.values()}
    # vLLM computes in bfloat16, so its values are near the references; nearer than any two adapters are to each other.
    apart = min(abs(a - b) for a, b in combinations(references.values(), 2))
    assert apart > 0.5
    assert before == pytest.approx(references, abs=apart / 2)


def test_calls_in_flight_sleep_with_their_model_and_go_on_when_it_wakes(
    weights: Path, ledger: Ledger, tmp_path: Path
) -> None:
    engine = engine_for(weights, tmp_path, sleep_level=1)
    long = SamplingSettings(0.0, 1.0, 1.0, 160)
    # More than the eight calls that are computed at once, so that the reference text would wait for a place.
    things = ("rain", "iron", "bees", "salt", "wool", "snow", "fire", "milk", "gold", "moss")
    asked = [replace(call(f"Write a long tale about {thing}."), sampling=long) for thing in things]

    async def scenario(broker: Broker) -> list[Any]:
        undisturbed = await asyncio.gather(*map(engine.submit, asked))
        disturbed = [asyncio.create_task(engine.submit(c)) for c in asked]
        await asyncio.sleep(1.0)
        assert not any(task.done() for task in disturbed)
        await engine.sleep()
        at_night = asyncio.create_task(engine.submit(call(QUESTION, Likelihood(ANSWER))))
        await asyncio.sleep(2 * max(reply.seconds for reply in undisturbed))
        assert not any(task.done() for task in (*disturbed, at_night))
        await engine.start()
        assert not any(task.done() for task in disturbed), "waking waits for no call"
        morning = await engine.submit(call(QUESTION, Likelihood(ANSWER)))
        return [undisturbed, await asyncio.gather(*disturbed), await at_night, morning]

    undisturbed, disturbed, at_night, morning = run({NAME: engine}, ledger, scenario)
    assert (engine.stats.starts, engine.stats.wakes, engine.stats.notes) == (1, 1, [])
    assert all(reply.completion_tokens == 160 for reply in disturbed)
    assert at_night.scores["logprob"] == pytest.approx(morning.scores["logprob"], abs=0.2)
    # Greedy, so they go on as if nothing had been; reading an answer anew rounds otherwise than writing it did.
    same = sum(a.text[:40] == b.text[:40] for a, b in zip(disturbed, undisturbed, strict=True))
    assert same >= 8, "where two words are equally likely, rounding chooses"


def test_a_killed_child_costs_nothing_that_was_queued(weights: Path, ledger: Ledger, tmp_path: Path) -> None:
    engine = engine_for(weights, tmp_path)

    async def scenario(broker: Broker) -> list[Any]:
        asked = [asyncio.create_task(broker.ask(call(f"Name an animal, number {n}."))) for n in range(30)]
        while broker.ledger.paid("model").get(NAME, {}).get("calls", 0) < 3:
            await asyncio.sleep(0.05)
        assert engine._child is not None
        os.kill(engine._child.pid, signal.SIGKILL)
        return await asyncio.gather(*asked)

    outcomes = run({NAME: engine}, ledger, scenario)
    assert all(outcome.key for outcome in outcomes), "each is an answer, or one that was cut off"
    assert engine.stats.starts == 2
    assert len(list(ledger.answers())) == len({answer.key for answer in ledger.answers()}) >= 30
    assert ledger.faults()["died"] >= 1


@pytest.mark.parametrize("sleep_level", [0, 1])
def test_two_models_that_fit_only_alone_take_turns(
    weights: Path, ledger: Ledger, tmp_path: Path, sleep_level: int
) -> None:
    other = "qwen2.5-coder-0.5b-instruct"
    engines = {
        NAME: engine_for(weights, tmp_path, memory_gb=5.0, sleep_level=sleep_level),
        other: engine_for(resolve(other).path, tmp_path, other, memory_gb=5.0, sleep_level=sleep_level),
    }

    async def scenario(broker: Broker) -> tuple[list[Any], int]:
        likely = Likelihood(ANSWER)

        async def candidate(number: int) -> list[Any]:
            return [await broker.ask(call(f"{QUESTION} {number}", likely, name=n)) for n in (NAME, other, NAME)]

        return await asyncio.gather(*map(candidate, range(8))), broker.pool.swapper.switches

    found, switches = run(engines, ledger, scenario, limit=6.0)
    assert all(isinstance(outcome, Answer) for outcomes in found for outcome in outcomes)
    assert switches == 1  # the third question is the first again, and its answer is recorded
    assert [engine.stats.starts for engine in engines.values()] == [1, 1]


@pytest.mark.parametrize("labels", [1, 2])
def test_a_reward_model_gives_the_logits_of_transformers(
    weights: Path, ledger: Ledger, tmp_path: Path, labels: int
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(labels)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    network = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=labels, dtype=torch.float32)
    network.config.pad_token_id = tokenizer.pad_token_id
    torch.nn.init.normal_(network.score.weight, std=0.2)
    tokenizer.save_pretrained(tmp_path / "judge")
    network.save_pretrained(tmp_path / "judge")
    answers = ("It rises in the east.", ANSWER, "In the west.", "Bananas are yellow, and so is the sun.")
    references = []
    for answer in answers:
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        with torch.no_grad():
            logits = network(torch.tensor([ids])).logits[0].tolist()
        references.append(logits[0] if labels == 1 else logits[1] - logits[0])
    engine = engine_for(tmp_path / "judge", tmp_path, rewards=True)

    async def scenario(broker: Broker) -> list[float]:
        asked = [call(QUESTION, Reward(answer)) for answer in answers]
        found = await asyncio.gather(*map(broker.ask, asked))
        assert all(isinstance(each, Answer) for each in found), found
        return [each.value["reward"] for each in found]  # type: ignore[union-attr]

    found = run({NAME: engine}, ledger, scenario)
    spread = max(references) - min(references)
    # vLLM computes in bfloat16, so its values are near the references, and nearer than the answers are to each other.
    assert found == pytest.approx(references, abs=0.15 * spread)
    assert engine.stats.completion_tokens == 0


def test_int8_weights_answer_nearly_as_the_models_own(
    weights: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resolve(NAME)
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "cache"))
    engine = engine_for(int8_model(model, print).path, tmp_path)

    async def scenario(broker: Broker) -> list[Any]:
        calls = call(QUESTION, Likelihood(ANSWER)), call("What is the capital of France?")
        return await asyncio.gather(*map(engine.submit, calls))

    scored, written = run({NAME: engine}, ledger, scenario)
    tokens = scored.scores["tokens"]
    assert scored.scores["logprob"] / tokens == pytest.approx(likelihood_by_peft(weights, None) / tokens, abs=0.15)
    assert "Paris" in written.text
