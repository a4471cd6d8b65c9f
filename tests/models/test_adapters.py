"""LoRA adapters of members: what one is known by, which are refused, and where one may be named."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from scripted_run import fake_resolve, make_recipe

from gra.config.committee import EngineConfig, MemberConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import RecipeError
from gra.core.progress import View
from gra.engines.broker import call_key
from gra.engines.ray import RayEngine
from gra.engines.types import Call, ModelId, SamplingSettings, Text
from gra.models.adapters import find_adapter
from gra.serving import models as registry
from gra.serving.memory import plan_memory

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def make(folder: Path, weights: bytes = b"weights", modules: tuple[str, ...] = ("q_proj",), **changes: Any) -> str:
    """An adapter as far as its headers go."""
    folder.mkdir(exist_ok=True)
    names = [f"base_model.model.layers.0.{module}.lora_{side}.weight" for module in modules for side in "AB"]
    size = len(weights)
    facts = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [size * place, size * (place + 1)]}
        for place, name in enumerate(names)
    }
    header, weights = json.dumps(facts).encode(), weights * len(names)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)
    return str(folder)


def test_an_adapter_is_known_by_what_it_computes_and_not_by_its_folder(tmp_path: Path) -> None:
    first = find_adapter(make(tmp_path / "a"))
    same = find_adapter(make(tmp_path / "b", target_modules=["v_proj", "q_proj"], inference_mode=True))
    assert first.identity == same.identity
    others = [
        find_adapter(make(tmp_path / "c", b"other weights")),
        find_adapter(make(tmp_path / "d", lora_alpha=16)),
        find_adapter(make(tmp_path / "e", rank_pattern={"q_proj": 32})),
    ]
    assert len({adapter.identity for adapter in (first, *others)}) == 4
    assert [adapter.rank for adapter in (first, *others)] == [4, 4, 4, 32]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "is of the kind IA3, and engines serve LORA alone"),
        ({"use_dora": True}, "uses DoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"modules_to_save": ["embed_tokens"]}, r"replaces whole modules \(embed_tokens\)"),
        ({"r": None}, r"has ranks that are no numbers \(None\)"),
        ({"rank_pattern": {"q_proj": "8"}}, r"has ranks that are no numbers \(4, 8\)"),
        ({"r": 1024}, "has rank 1024, and engines serve up to 512"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_way_out(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message + ".*merge it into its model"):
        find_adapter(make(tmp_path / "a", **changes))


def test_one_that_adapts_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="adapts lm_head, and vLLM cannot give likelihoods beside such"):
        find_adapter(make(tmp_path / "a", modules=("q_proj", "lm_head")))


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no folder with a LoRA adapter"):
        find_adapter(str(tmp_path))


def test_an_adapter_is_part_of_what_an_answer_is_found_by() -> None:
    sampling = SamplingSettings(0.7, 0.95, 1.0, 64)
    keys = {
        call_key(Call(ModelId("m", "id", "t", adapter), (("user", "x"),), Text(), sampling))
        for adapter in ("", "a", "b")
    }
    assert len(keys) == 3


def test_an_adapter_goes_with_one_model_and_not_with_a_server(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has an `adapter`, which fits `model` alone"):
        MemberConfig(model="a", fallback="b", adapter="folder")
    recipe = SynthesisRecipe.model_validate(
        {
            "name": "x", "seeds": {"source": "seeds.jsonl"}, "engine": {"kind": "openai", "base_url": "http://host/v1"},
            "committee": {"models": {"a": {"model": "m", "adapter": make(tmp_path / "a")}}, "reviewers": 0},
        }
    )  # fmt: skip
    with pytest.raises(RecipeError, match="cannot be used with a server"):
        registry.find_models([recipe], View(None, quiet=True))


def find(monkeypatch: pytest.MonkeyPatch, models: dict[str, Any], **changes: Any) -> registry.ModelRegistry:
    """The workshop of a committee, on models that are nowhere."""
    monkeypatch.setattr(registry, "resolve", fake_resolve)
    monkeypatch.setattr(registry, "has_chat_template", lambda path: True)
    monkeypatch.setattr(registry, "template_digest", lambda path: "t")
    monkeypatch.setattr(registry, "context_length", lambda path: 4096)
    committee = {"models": models, "reviewers": 1}
    return registry.find_models([make_recipe(committee=committee, **changes)], View(None, quiet=True))


def test_members_on_shared_weights_share_an_engine_whatever_they_wear(tmp_path: Path, monkeypatch) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other", b"other weights", r=12)
    models = {"a": "m", "b": {"model": "m", "adapter": one}, "c": {"model": "m", "adapter": other}}
    found = find(monkeypatch, models)
    ids = [found.model_id("m", adapter) for adapter in (None, one, other)]
    assert len({model.adapter for model in ids}) == 3
    assert {(model.name, model.identity) for model in ids} == {("m", "sha256:m")}
    pool = found.pool(tmp_path)
    assert list(pool.engines) == ["m"]
    settings = pool.engines["m"].settings  # type: ignore[attr-defined]
    assert (set(settings.adapters.values()), settings.lora_rank) == ({one, other}, 12)
    assert settings.lora_modules == ("q_proj",)


def test_a_model_may_be_served_by_a_cluster_beside_one_on_this_machine(tmp_path: Path, monkeypatch) -> None:
    cluster = {"kind": "ray", "replicas": 3, "gpus": 0.5, "concurrency": 16}
    models = {"a": "here", "b": {"model": "there", "engine": cluster}}
    found = find(monkeypatch, models)
    assert found.gpus == 1 + 3 * 0.5
    pool = found.pool(tmp_path)
    there = pool.engines["there"]
    assert isinstance(there, RayEngine)
    assert (there.concurrency, there.memory_gb) == (48, 0.0)
    assert pool.engines["here"].memory_gb > 0
    with pytest.raises(RecipeError, match=r"`there` is named with two different `engine`s"):
        find(monkeypatch, models | {"c": "there"})


@pytest.mark.parametrize(
    ("names", "threads", "gpu", "step", "shared"),
    [
        ("ab", 2, None, 256, True),
        ("a", 2, None, 256, False),  # nobody to take turns with
        ("ab", 64, None, 0, False),
        ("ab", 2, 80.0, 0, False),
    ],
)
def test_models_on_a_few_cores_compute_in_turns_and_in_short_steps(
    tmp_path: Path, monkeypatch, names: str, threads: int, gpu: float | None, step: int, shared: bool
) -> None:
    monkeypatch.setattr(registry, "gpu_memory_gb", lambda: gpu)
    models = {name: f"model-{name}" for name in names}
    found = find(monkeypatch, models, engine={"threads": threads})
    for engine in found.pool(tmp_path).engines.values():
        settings = engine.settings  # type: ignore[attr-defined]
        assert (settings.step_tokens, bool(settings.cores_file)) == (step, shared)


# --- how models are planned into memory -------------------------------------------------------------------------------

SEVEN_B = dict.fromkeys("abcde", 15.0)


def test_models_that_fit_together_never_sleep() -> None:
    plan = plan_memory(SEVEN_B, EngineConfig(), 141.0, 200.0)
    assert (plan.sleep_level, plan.asleep_gb, plan.memory_gb["a"]) == (0, 0.0, 21.5)


@pytest.mark.parametrize(
    ("gpu", "host", "park", "level"),
    [
        (80.0, 200.0, "auto", 1),  # their weights wait in the machine's memory
        (80.0, 64.0, "auto", 2),  # which has no room for them here
        (24.0, 200.0, "auto", 0),  # what four sleepers keep leaves no room for the fifth
        (80.0, 200.0, "end", 0),
        (80.0, 64.0, "sleep-1", 1),  # said is done
        (None, 64.0, "auto", 0),  # vLLM cannot sleep on a CPU
    ],
)
def test_models_that_do_not_fit_give_way_in_the_quickest_way_there_is_room_for(gpu, host, park, level) -> None:
    assert plan_memory(SEVEN_B, EngineConfig(offload=park), gpu, host).sleep_level == level


def test_sleep_without_a_gpu_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"`engine\.offload: sleep-2` needs a CUDA GPU"):
        plan_memory(SEVEN_B, EngineConfig(offload="sleep-2"), None, 64.0)


def tensors(file: Path, **shapes: tuple[int, ...]) -> None:
    from numpy import zeros
    from safetensors.numpy import save_file

    save_file({name: zeros(shape, "float32") for name, shape in shapes.items()}, file)


def adapted(folder: Path, inputs: int, outputs: int, module: str = "model.layers.0.q_proj") -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    sides = {"A": (4, inputs), "B": (outputs, 4)}
    named = {f"base_model.model.{module}.lora_{side}.weight": shape for side, shape in sides.items()}
    tensors(folder / "adapter_model.safetensors", **named)
    return str(folder)


def test_adapter_of_another_model_is_refused_by_file_headers(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tensors(model / "model.safetensors", **{"model.layers.0.q_proj.weight": (16, 8)})
    find_adapter(adapted(tmp_path / "own", 8, 16), model)
    with pytest.raises(
        RecipeError, match=r"is for a `model\.layers\.0\.q_proj` of 16 x 12, and that of model has 16 x 8"
    ):
        find_adapter(adapted(tmp_path / "wider", 12, 16), model)
    two = tmp_path / "two"
    find_adapter(adapted(two, 8, 16), model)
    tensors(two / "adapter_model.safetensors", **{
        f"base_model.model.model.layers.{n}.q_proj.lora_{side}.weight": shape
        for n in (0, 7) for side, shape in (("A", (4, 8)), ("B", (16, 4)))
    })  # fmt: skip
    with pytest.raises(RecipeError, match=r"adapts `model\.layers\.7\.q_proj`, which model does not have"):
        find_adapter(str(two), model)


def test_adapter_for_other_names_of_tensors_is_left_to_the_engine(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tensors(model / "model.safetensors", **{"language_model.layers.0.q_proj.weight": (16, 8)})
    assert find_adapter(adapted(tmp_path / "own", 8, 16), model).rank == 4
