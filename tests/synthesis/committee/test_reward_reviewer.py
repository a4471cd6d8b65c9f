"""A reward model as a reviewer: what is asked of it, which recipes and models are refused, and how it is served."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_rounds import check_ended_once, make_setting, run
from scripted_run import answer_by_content, fake_resolve, make_recipe, make_seeds, open_ledger, said

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import RecipeError
from gra.core.progress import View
from gra.core.types import Review
from gra.data.questions import Question
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.openai_server.engine import OpenAIEngine, ServerSettings
from gra.engines.types import Call, Completion, Fault, ModelId, Reward, SamplingSettings
from gra.engines.vllm import start
from gra.engines.vllm import worker as vllm_worker
from gra.engines.vllm.engine import VllmSettings
from gra.forecast.memory import memory_plan
from gra.forecast.mock_run import mock_run
from gra.serving import models as registry
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.reviewer import add_comment, check_instruction, score_response
from gra.synthesis.measuring.calibration import make_control_items, measure_reviewer
from gra.synthesis.measuring.natural import natural_controls

JUDGE = {"model": "judge", "ask": "reward", "roles": ["reviewer"]}
WRITERS = {name: f"model-{name}" for name in "abc"}


def recipe_with(judge: dict[str, Any] = JUDGE, **changes: Any) -> SynthesisRecipe:
    review = {"control_items": 4, "comments": "always"} | changes.pop("review", {})
    return make_recipe(committee={"models": WRITERS | {"judge": judge}, "reviewers": 2}, review=review, **changes)


@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        ({"roles": ["reviewer", "generator"]}, r"writes no text; set `roles: \[reviewer\]`"),
        ({"roles": ["adjudicator"]}, r"writes no text; set `roles: \[reviewer\]`"),
        ({"adapter": "folder"}, "takes no `adapter`"),
        ({"dimensions": ["correctness"]}, "gives one number; leave `dimensions` out"),
        ({"engine": {"kind": "openai", "base_url": "http://host/v1"}}, "a server cannot answer"),
    ],
)
def test_member_asked_for_rewards_only_reviews(judge: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        recipe_with(JUDGE | judge)


def test_recipe_refuses_rewards_that_nothing_can_give() -> None:
    with pytest.raises(ValueError, match="`ask: reward` is for one member with a reward model"):
        recipe_with(review={"ask": "reward"})
    with pytest.raises(ValueError, match=r"`committee\.models\.judge\.ask: reward` cannot be answered by a server"):
        recipe_with(engine={"kind": "openai", "base_url": "http://host/v1"})
    with pytest.raises(ValueError, match=r"has no scale of its own; set `review\.control_items`"):
        recipe_with(review={"control_items": 0})


def quality(call: Call) -> Completion:
    """A reward that is high for the seeds' own responses, and a committee that answers as always."""
    if isinstance(call.output, Reward):
        own = {seed.instruction: seed.response for seed in make_seeds()}
        return said("", reward=2.5 if own.get(call.messages[-1][1]) == call.output.answer else -2.5)
    return answer_by_content(call)


def judging(folder: Path, scenario: Any) -> tuple[Any, list[Call]]:
    asked: list[Call] = []

    def script(call: Call) -> Completion:
        asked.append(call)
        return quality(call)

    members = make_setting(recipe_with()).members
    ledger = open_ledger(folder / "ledger.sqlite")
    engines = {member.model.name: MockEngine(member.model.name, script) for member in members.values()}
    try:
        return asyncio.run(scenario(Broker(ledger, EnginePool(engines, 9.0)), members)), asked
    finally:
        ledger.close()


def test_reward_is_one_call_about_the_conversation_and_brings_no_comment(tmp_path: Path) -> None:
    seed = make_seeds()[0]

    async def review(broker: Broker, members: Any) -> tuple[Review, Review, Any]:
        recorder, judge = CallRecorder(broker, "c1"), members["judge"]
        given = (recorder, judge, seed.instruction, seed.response)
        found = await score_response(*given, comment=True, calibrate=lambda raw: raw + 5)
        checked = await check_instruction(recorder, judge, seed.instruction, {})
        return found, await add_comment(*given, found), checked

    (found, commented, checked), asked = judging(tmp_path, review)
    assert found == commented == Review("judge", {"correctness": 2.5}, 2.5, 7.5, "")
    assert (checked.values, checked.failed) == ({}, ())
    assert [call.output for call in asked] == [Reward(seed.response)]
    assert asked[0].messages == (("user", seed.instruction),)


def test_reward_model_is_calibrated_and_is_asked_no_question(tmp_path: Path) -> None:
    seeds = make_seeds()

    async def measure(broker: Broker, members: Any) -> Any:
        return await measure_reviewer(broker, members["judge"], make_control_items(seeds, 4, 0))

    measured, asked = judging(tmp_path, measure)
    assert (measured.auc, measured.unanswered, measured.thresholds) == (1.0, 0, {})
    assert measured.calibration(2.5) > 5 > measured.calibration(-2.5)
    assert {type(call.output) for call in asked} == {Reward}

    async def natural(broker: Broker, members: Any) -> Any:
        questions = [Question(f"q{i}", f"Say something about {i}.", ("tides",)) for i in range(6)]
        return await natural_controls(broker, list(members.values()), questions)

    (tmp_path / "natural").mkdir()
    _, asked = judging(tmp_path / "natural", natural)
    assert asked
    assert "judge" not in {call.member for call in asked}


def test_rounds_with_a_reward_model_end_every_candidate(tmp_path: Path) -> None:
    rounds = {"count": 1, "accept": 2, "max_candidates": 12}
    recipe = recipe_with(rounds=rounds, review={"comments": "disputed", "accept_mean": 4.0, "dispute_std": 3.0})
    found = run(tmp_path, recipe, 4)
    check_ended_once(found)
    reviews = [review for c in found.candidates for review in c.reviews if review.reviewer == "judge"]
    assert reviews
    assert all(review.comment == "" for review in reviews)


# --- which models are taken -----------------------------------------------------------------------------------------


def model(folder: Path, kind: str, tensor: str = "score.weight", **config: Any) -> Path:
    """A model as far as config.json and the header of its weights go."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [kind], "model_type": "llama"} | config))
    header = json.dumps({tensor: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"0000")
    return folder


REWARD, CHAT = "LlamaForSequenceClassification", "LlamaForCausalLM"


def find(monkeypatch: pytest.MonkeyPatch, paths: dict[str, Path], recipe: SynthesisRecipe) -> registry.ModelRegistry:
    def resolve(name: str, **_: Any) -> Any:
        return fake_resolve(name) if name not in paths else registry.replace(fake_resolve(name), path=paths[name])

    monkeypatch.setattr(registry, "resolve", resolve)
    monkeypatch.setattr(registry, "has_chat_template", lambda path: path.name != "no template")
    monkeypatch.setattr(registry, "context_length", lambda path: 4096)
    return registry.find_models([recipe], View(None, quiet=True))


def test_reward_model_is_served_as_one_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(monkeypatch, {"judge": model(tmp_path / "judge", REWARD, id2label={"0": "x"})}, recipe_with())
    assert found.rewards == {"judge"}
    engines = found.pool(tmp_path).engines
    assert {name: engine.settings.rewards for name, engine in engines.items()} == {  # type: ignore[attr-defined]
        "model-a": False, "model-b": False, "model-c": False, "judge": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "sentence"),
    [
        (
            CHAT,
            {},
            f"`judge` has no reward head: its config.json names {CHAT}, and `ask: reward` needs .*method: reward",
        ),
        (REWARD, {"id2label": dict.fromkeys("01234", "x")}, "a classifier with 5 labels, and `ask: reward` reads"),
        (REWARD, {"id2label": {}}, "a classifier with 0 labels"),
        (REWARD, {"tensor": "model.norm.weight"}, "and none of its tensors is a head"),
    ],
)
def test_model_without_a_reward_head_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, config: dict[str, Any], sentence: str
) -> None:
    path = model(tmp_path / "judge", kind, **config)
    with pytest.raises(RecipeError, match=sentence):
        find(monkeypatch, {"judge": path}, recipe_with())
    monkeypatch.setattr("gra.forecast.memory.cached", lambda name: name == "judge")
    monkeypatch.setattr(
        "gra.forecast.memory.resolve", lambda name, **_: registry.replace(fake_resolve(name), path=path)
    )
    with pytest.raises(RecipeError, match=sentence):
        memory_plan([recipe_with()])


def test_model_without_config_or_with_a_broken_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="names no architecture"):
        find(monkeypatch, {}, recipe_with())
    broken = model(tmp_path / "judge", REWARD)
    (broken / "config.json").write_text("[")
    with pytest.raises(RecipeError, match="cannot be read"):
        find(monkeypatch, {"judge": broken}, recipe_with())


def test_reward_model_cannot_generate_or_go_without_a_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(tmp_path / "a", REWARD, id2label={"0": "x"})
    with pytest.raises(RecipeError, match=r"`model-a` is a reward model or classifier \(.*\), which writes no text"):
        find(monkeypatch, {"model-a": path}, recipe_with(WRITERS["c"]))  # type: ignore[arg-type]
    bare = model(tmp_path / "no template", REWARD, id2label={"0": "x"})
    with pytest.raises(RecipeError, match="no chat template, with which a reward model reads"):
        find(monkeypatch, {"judge": bare}, recipe_with())


def test_forecast_asks_the_reward_model(tmp_path: Path) -> None:
    from gra.config.loader import Loaded
    from gra.core.run_folder import RunFolder
    from gra.synthesis.job import Job

    loaded = Loaded(recipe_with(), tmp_path / "recipe.yaml", {})
    job = Job(loaded, RunFolder(tmp_path), tmp_path / "ledger.sqlite", None, None)
    observed = mock_run(job, make_seeds())
    assert ("reviewer", "judge") in observed.keys


# --- how it is served -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1), st.none() | st.integers(0, 3))
def test_scored_tokens_end_where_transformers_reads(tokens: list[int], padding: int | None) -> None:
    kept = vllm_worker.scored_tokens(tokens, padding)
    real = [place for place, token in enumerate(tokens) if token != padding]
    last = real[-1] if real else 0  # argmax over nothing but zeros
    assert kept == tokens[: last + 1]


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_reward_is_the_logit_or_the_log_odds(one: float, two: float) -> None:
    assert vllm_worker.reward_of([one]) == one
    assert vllm_worker.reward_of([one, two]) == two - one
    with pytest.raises(ValueError, match="3 labels"):
        vllm_worker.reward_of([one, two, one])


def test_worker_scores_conversations_and_refuses_text() -> None:
    class Scoring(vllm_worker.RewardWorker):
        def __init__(self) -> None:
            self.tokenizer, self.padding, self.max_model_len = self, 2, 6
            self.well = asyncio.Event()
            self.well.set()
            self.seen: list[Any] = []

        def apply_chat_template(self, messages: Any, return_dict: bool) -> Any:
            self.seen.append(messages)
            return {"input_ids": [7] * len(messages[-1]["content"]) + [2, 2]}

        async def _reward(self, tokens: list[int], name: str, priority: int = 0) -> tuple[float, int]:
            return float(len(tokens)), 1

    request = {"id": 3, "messages": [{"role": "user", "content": "Say it."}], "adapter": "", "reward": "four"}

    async def answers() -> None:
        worker = Scoring()
        reply = (await worker.answer(request))["completion"]
        assert (reply["scores"], reply["text"], reply["finish"]) == ({"reward": 4.0}, "", "stop")
        assert (reply["prompt_tokens"], reply["completion_tokens"], reply["cached_tokens"]) == (4, 0, 1)
        assert worker.seen[0][-1] == {"role": "assistant", "content": "four"}
        long = await worker.answer(request | {"reward": "sevenxx"})
        assert (long["permanent"], "holds 6" in long["fault"]) == (True, True)
        with pytest.raises(ValueError, match="writes no text"):
            await worker.answer({key: request[key] for key in ("id", "messages", "adapter")})
        with pytest.raises(ValueError, match="gives no rewards"):
            await vllm_worker.Worker.answer(worker, request)

    asyncio.run(answers())


def test_engine_arguments_of_a_reward_model_pool() -> None:
    from dataclasses import asdict, replace

    settings = VllmSettings(Path("weights"), 512, 1.0, 2, 8)
    text, reward = (start.engine_arguments(asdict(replace(settings, rewards=r))) for r in (False, True))
    assert "runner" not in text
    assert (reward["runner"], reward["convert"]) == ("pooling", "classify")
    assert reward.keys() ^ text.keys() == {"runner", "convert", "enable_prefix_caching"}


def test_server_gives_no_reward() -> None:
    call = Call(ModelId("m", "i", "t"), (("user", "x"),), Reward("y"), SamplingSettings(0.0, 1.0, 1.0, 9))
    engine = OpenAIEngine("m", ServerSettings(base_url="http://localhost:9/v1", model="m"))
    reply = asyncio.run(engine.submit(call))
    assert isinstance(reply, Fault)
    assert reply.permanent
