"""Test 8-bit weights: the error of quantization, the folder's form, refusals, identity and memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from scripted_run import make_recipe, write_job

from gra.core.errors import ModelUnavailable, RecipeError
from gra.core.hashing import file_digest
from gra.core.progress import View
from gra.downloads.cache import read_seal
from gra.engines.broker import call_key
from gra.engines.types import Call, SamplingSettings, Text
from gra.forecast.memory import memory_plan
from gra.forecast.plan import make_plan
from gra.models import int8
from gra.models.catalog import resolve, verify
from gra.models.int8 import int8_gb, int8_model, quantize
from gra.models.packages import SEAL
from gra.reports import statistics
from gra.serving import memory as serving_memory
from gra.serving import models as serving
from gra.synthesis.summary import card_facts

TYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I64": np.int64}
Q = "model.layers.0.self_attn.q_proj"
TENSORS = {
    "model.embed_tokens.weight": ("BF16", [[1.0, -2.0, 0.5, 0.0], [4.0, 0.25, -1.0, 3.0]]),
    f"{Q}.weight": ("BF16", [[1.0, -0.5, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0], [-254.0, 1.0, 3.0, 127.0]]),
    f"{Q}.bias": ("BF16", [1.0, 2.0, -3.0]),
    "model.norm.weight": ("F32", [1.0, 1.00390625, 1.01171875, -3.0]),
}


def write_tensors(file: Path, tensors: dict[str, Any]) -> None:
    """Write a safetensors file; NumPy has no bfloat16, which is the upper half of float32."""
    facts, data = {}, b""
    for name, (kind, values) in tensors.items():
        array = np.asarray(values, np.float32).view(np.uint32) >> 16 if kind == "BF16" else np.asarray(values)
        content = array.astype(TYPES[kind]).tobytes()
        facts[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    header = json.dumps(facts).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + data)


def write(folder: Path, changes: dict[str, Any] | None = None, without: str = "", **config: Any) -> str:
    """Write a model folder of one layer and return its path."""
    folder.mkdir(exist_ok=True)
    tensors = {name: value for name, value in (TENSORS | (changes or {})).items() if name != without}
    write_tensors(folder / "model.safetensors", tensors)
    settings = {"model_type": "llama", "max_position_embeddings": 64, "tie_word_embeddings": True} | config
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "LICENSE").write_text("free\n")
    return str(folder)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "cache"))
    for module in (serving, serving_memory):
        monkeypatch.setattr(module, "gpu_memory_gb", lambda: None)
    monkeypatch.setattr("gra.forecast.memory.gpu_memory_gb", lambda: None)


def quiet(text: str) -> None:
    """Take a line of progress."""


def read(file: Path) -> dict[str, Any]:
    """Return the integers and scales of an int8 file, by name."""
    with safe_open(file, framework="np") as opened:
        names = [name for name in opened.keys() if opened.get_slice(name).get_dtype() != "BF16"]  # noqa: SIM118
        return {name: opened.get_tensor(name) for name in names}


# ---- numbers ----------------------------------------------------------------------------------------


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    )
)
def test_quantization_errs_by_half_a_step_of_its_row(rows: Any) -> None:
    integers, scales = quantize(rows)
    assert (integers.dtype, scales.shape) == (np.int8, (len(rows), 1))
    assert (scales > 0).all()
    assert np.abs(integers.astype(int)).max() <= 127
    error = np.abs(integers.astype(np.float64) * scales.astype(np.float64) - rows)
    assert (error <= scales * (0.5 + 4e-5)).all()
    assert (np.abs(rows).max(axis=1) <= scales[:, 0] * np.float64(127.0001)).all()


@given(arrays.arrays(np.float32, 7, elements=st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False)))
def test_kept_numbers_are_rounded_to_the_nearest_bfloat16(values: Any) -> None:
    rounded = (int8._bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    assert (np.abs(rounded - values) <= np.abs(values) * 2.0**-8).all()
    assert (int8._bfloat16(rounded) == int8._bfloat16(values)).all()


# ---- the folder -------------------------------------------------------------------------------------


def test_folder_has_the_recorded_form(tmp_path: Path) -> None:
    made = int8_model(resolve(write(tmp_path / "m")), quiet)
    stored = made.path / "model.safetensors"
    with safe_open(stored, framework="np") as opened:
        facts = {n: (opened.get_slice(n).get_dtype(), opened.get_slice(n).get_shape()) for n in opened.keys()}  # noqa: SIM118
    assert facts == {
        "model.embed_tokens.weight": ("BF16", [2, 4]),
        f"{Q}.weight": ("I8", [3, 4]),
        f"{Q}.weight_scale": ("F32", [3, 1]),
        f"{Q}.bias": ("BF16", [3]),
        "model.norm.weight": ("BF16", [4]),
    }
    found = read(stored)
    assert found[f"{Q}.weight"].tolist() == [[127, -64, 32, 0], [0, 0, 0, 0], [-127, 0, 2, 64]]
    assert found[f"{Q}.weight_scale"][[0, 2], 0].tolist() == [np.float32(1 / 127), 2.0]
    assert file_digest(stored) == "0c59b7c22bb5e5ef059ebc8a416f055335efa36e9a87f052ff7308d78fa8f3f4"
    config = json.loads((made.path / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
                "input_activations": {
                    "num_bits": 8,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "token",
                    "dynamic": True,
                },
            }
        },
        "ignore": ["lm_head"],
    }
    assert config["max_position_embeddings"] == 64
    names = {"LICENSE", "config.json", SEAL, "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in made.path.iterdir()} == names
    assert (read_seal(made.path, SEAL) or {})["made_from"] == resolve(str(tmp_path / "m")).identity
    verify(str(made.path))


def test_numbers_of_the_file_stay_aligned(tmp_path: Path) -> None:
    odd = {"model.layers.0.mlp.up_proj.weight": ("F16", [[1.0, 2.0, 3.0]]), "steps": ("I64", [1, 2])}
    made = int8_model(resolve(write(tmp_path / "m", odd)), quiet)
    raw = (made.path / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    widths = {"I64": 8, "F32": 4, "BF16": 2, "I8": 1}
    for facts in (value for name, value in header.items() if name != "__metadata__"):
        assert facts["data_offsets"][0] % widths[facts["dtype"]] == 0
    assert read(made.path / "model.safetensors")["steps"].tolist() == [1, 2]


def test_blocks_give_the_same_file_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = int8_model(resolve(write(tmp_path / "m")), quiet)
    digest = file_digest(whole.path / "model.safetensors")
    monkeypatch.setattr(int8, "_BLOCK", 1)
    (whole.path / SEAL).unlink()
    again = int8_model(resolve(str(tmp_path / "m")), quiet)
    assert file_digest(again.path / "model.safetensors") == digest


def test_shards_are_joined_by_their_index(tmp_path: Path) -> None:
    folder = Path(write(tmp_path / "m"))
    single = int8_model(resolve(str(folder)), quiet)
    (folder / "model.safetensors").unlink()
    shards = {}
    for place, (name, value) in enumerate(TENSORS.items()):
        shards[name] = f"model-{place:05}-of-00004.safetensors"
        write_tensors(folder / shards[name], {name: value})
    write_tensors(folder / "consolidated.safetensors", {"other.weight": ("F32", [[1.0]])})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    joined = int8_model(resolve(str(folder)), quiet)
    assert joined.path != single.path
    assert file_digest(joined.path / "model.safetensors") == file_digest(single.path / "model.safetensors")
    assert not list(joined.path.glob("*.index.json"))


def test_second_start_finds_the_folder_and_a_damaged_one_is_written_again(tmp_path: Path) -> None:
    lines: list[str] = []
    model = resolve(write(tmp_path / "m"))
    first = int8_model(model, lines.append)
    assert len(lines) == 1
    assert int8_model(model, lines.append) == first
    assert len(lines) == 1
    (first.path / "model.safetensors").write_bytes(b"cut")
    assert int8_model(model, lines.append) == first
    assert len(lines) == 2
    assert (first.path / "model.safetensors").stat().st_size > 100
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def test_changed_chat_template_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    folder = Path(write(tmp_path / "m"))
    first = int8_model(resolve(str(folder)), quiet)
    (folder / "chat_template.jinja").write_text("new")
    second = int8_model(resolve(str(folder)), quiet)
    assert second.identity == first.identity  # the template has a digest of its own in the ledger's key
    assert (second.path / "chat_template.jinja").read_text() == "new"


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({}, {"quantization_config": {"bits": 4}}, "its weights are quantized already"),
        ({"model.layers.0.mlp.c_fc.weight": ("F32", [[1.0]])}, {}, r"mlp\.c_fc\.weight` is no linear layer"),
        ({"model.layers.0.mlp.up_proj.weight": ("F32", [[[1.0]]])}, {}, "holds F32 of shape 1x1x1, and no matrix"),
        ({"model.layers.0.mlp.up_proj.weight": ("I64", [[1]])}, {}, "holds I64 of shape 1x1, and no matrix"),
        ({f"{Q}.weight": ("F32", [1.0])}, {}, "holds F32 of shape 1, and no matrix"),
        ({f"{Q}.weight": ("F32", [[1.0, np.nan]])}, {}, "holds values that are not finite"),
        ({f"{Q}.weight": ("F32", [[1.0, np.inf]])}, {}, "holds values that are not finite"),
    ],
)  # fmt: skip
def test_other_forms_are_refused_with_a_way_out(
    changes: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = resolve(write(tmp_path / "m", changes, **config))
    with pytest.raises(RecipeError, match=f"`engine.weights: int8` cannot be used with .*{message}.*leave"):
        int8_model(model, quiet)
    assert not list((tmp_path / "cache" / "int8").glob("*"))


def test_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    model = resolve(write(tmp_path / "m", without=f"{Q}.weight"))
    with pytest.raises(RecipeError, match="has no linear layers of the usual form"):
        int8_gb(model)


def test_model_damaged_after_it_was_found_is_an_error(tmp_path: Path) -> None:
    model = resolve(write(tmp_path / "m"))
    (tmp_path / "m" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors has 3 bytes"):
        int8_model(model, quiet)


# ---- a recipe ---------------------------------------------------------------------------------------


def recipe_on(folder: str, **engine: Any) -> Any:
    return make_recipe(committee={"models": {"a": folder}, "reviewers": 0}, engine={"kv_cache_gb": 1} | engine)


def test_recipe_serves_int8_weights_under_an_identity_of_their_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    own = serving.find_models([recipe_on(folder)], View(None, quiet=True))
    eight = serving.find_models([recipe_on(folder, weights="int8")], View(None, quiet=True))
    assert (own.models[folder].weights, eight.models[folder].weights) == (None, "int8")
    assert eight.models[folder].identity == f"{own.models[folder].identity}+int8.1"
    keys = {
        call_key(Call(found.model_id(folder), (("user", "x"),), Text(), SamplingSettings(0.7, 0.95, 1.0, 64)))
        for found in (own, eight)
    }
    assert len(keys) == 2
    assert eight.model_id(folder).template == own.model_id(folder).template
    engine = eight.pool(tmp_path).engines[folder]
    assert engine.settings.path == eight.models[folder].path  # type: ignore[attr-defined]
    assert engine.settings.path != Path(folder)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("threads", "beside"), [(2, 3.5), (16, 4.5)])
def test_forecast_plans_the_size_that_is_written(tmp_path: Path, threads: int, beside: float) -> None:
    up = np.ones((64, 4096), np.float32)
    folder = write(tmp_path / "m", {"model.layers.0.mlp.up_proj.weight": ("BF16", up)})
    model = resolve(folder)
    planned = int8_gb(model)
    recipes = [recipe_on(folder, threads=threads, **engine) for engine in ({}, {"weights": "int8"})]
    plans = [memory_plan([recipe]).models[folder] for recipe in recipes]
    assert not list((tmp_path / "cache").glob("int8/*"))
    assert plans[1] == pytest.approx(planned + beside)
    made = int8_model(model, quiet)
    assert planned == pytest.approx(serving.weights_gb(made.path, on_gpu=False), rel=0.01)
    assert plans[0] is not None
    assert plans[0] - plans[1] == pytest.approx(64 * 4096 / 2**30, rel=0.01)


def test_machine_with_a_gpu_refuses_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_memory, "gpu_memory_gb", lambda: 80.0)
    recipe = recipe_on(write(tmp_path / "m"), weights="int8")
    with pytest.raises(RecipeError, match=r"`engine\.weights: int8` is for machines without a GPU.*leave"):
        serving.find_models([recipe], View(None, quiet=True))
    write_job(tmp_path, recipe)
    with pytest.raises(RecipeError, match="without a GPU"):
        make_plan(tmp_path / "recipe.yaml", [], tmp_path / "runs", None, None)
    served = {"model": "m", "engine": {"kind": "openai", "base_url": "http://host/v1"}}
    serving_memory.check_weights(make_recipe(committee={"models": {"a": served}, "reviewers": 0},
                                             engine={"weights": "int8"}))  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "member", "message"),
    [
        ({"kind": "openai", "base_url": "http://host/v1"}, {}, "on this machine's CPU, not with `kind: openai`; leave"),
        ({"kind": "ray", "gpus": 0}, {}, "not with `kind: ray`; leave `weights` out"),
        ({}, {"engine": {"kind": "ray", "gpus": 0}}, "`m` runs on a Ray cluster; leave `engine.weights` out"),
        ({}, {"adapter": "folder"}, "cannot be used with `adapter: folder`: on a CPU vLLM adds no adapter"),
        ({"weights": "int4"}, {}, "Input should be 'int8'"),
    ],
)  # fmt: skip
def test_recipe_says_where_int8_cannot_be(engine: dict[str, Any], member: dict[str, Any], message: str) -> None:
    models = {"a": {"model": "m"} | member}
    with pytest.raises(ValueError, match=message):
        make_recipe(committee={"models": models, "reviewers": 0}, engine={"weights": "int8"} | engine)


def test_server_may_work_beside_int8_models() -> None:
    served = {"model": "m", "adapter": None, "engine": {"kind": "openai", "base_url": "http://host/v1"}}
    recipe = make_recipe(committee={"models": {"a": served, "b": "n"}, "reviewers": 1}, engine={"weights": "int8"})
    assert recipe.engine.weights == "int8"


def test_report_keeps_int8_members_apart_from_the_student() -> None:
    facts = {"name": "m", "identity": "sha256:0", "weights": None}
    arm = SimpleNamespace(
        name="gra",
        facts={"models": {"m": facts | {"identity": "sha256:0+int8.1", "weights": "int8"}},
               "members": {"a": {"model": "m"}}},
        recipe={}, spec=SimpleNamespace(asks_teacher=False, deduplicates=False),
    )  # fmt: skip
    contents = SimpleNamespace(arms=[arm], students=[SimpleNamespace(facts={"model": facts})])
    found = statistics.models(contents)  # type: ignore[arg-type]
    assert [(use.name, use.identity, use.uses) for use in found] == [
        ("m (int8 weights)", "sha256:0+int8.1", ["gra: a"]),
        ("m", "sha256:0", ["student"]),
    ]


def test_dataset_card_names_int8_weights(tmp_path: Path) -> None:
    recipe = recipe_on(write(tmp_path / "m"), weights="int8")
    registry = serving.find_models([recipe], View(None, quiet=True))
    (name,) = registry.models
    content = {"members": {"a": {"model": name}}, "states": {}, "programs": {}, "prompts": {}}
    facts = card_facts(SimpleNamespace(recipe=recipe), registry, content)  # type: ignore[arg-type]
    assert [model["name"] for model in facts["models"]] == [f"{name} (int8 weights)"]
    assert facts["models"][0]["identity"].endswith("+int8.1")
