"""A misfit of model, tokenizer, rows or adapter is one sentence before weights are read, in a dry run too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_tiny import PAIRS, load, make_student, row, train, write_recipe, write_rows

from gra.core.errors import RecipeError


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def adapter(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    rows = write_rows(folder / "rows.jsonl", [row(*pair) for pair in PAIRS])
    train(write_recipe(folder, student, rows, train={"max_steps": 1}), folder / "model")
    return folder / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRA_OFFLINE", "1")


def changed(folder: Path, target: Path, **values: Any) -> Path:
    """Copy a model folder and overwrite keys of its config.json."""
    shutil.copytree(folder, target)
    rewrite(target / "config.json", **values)
    return target


def rewrite(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def remade(folder: Path, target: Path, **values: Any) -> Path:
    """Copy a model folder and save random weights of another shape in it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(folder, target)
    config = LlamaConfig.from_pretrained(folder)
    for name, value in values.items():
        setattr(config, name, value)
    LlamaForCausalLM(config).save_pretrained(target)
    return target


def with_tokens(folder: Path, target: Path, change: Callable[[Any], Any]) -> Path:
    """Copy a model folder and add tokens to its tokenizer, but no embeddings to its weights."""
    from transformers import AutoTokenizer

    shutil.copytree(folder, target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    change(tokenizer)
    tokenizer.save_pretrained(target)
    return target


def refused(recipe: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a dry run and a run refuse a recipe with exit code 2 and load no weights."""
    from gra.training import run

    def fail(plan: Any) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(run, "load_student", fail)
    for dry in (True, False):
        with pytest.raises(RecipeError, match=message) as caught:
            train(recipe, recipe.parent / "out", dry_run=dry)
        assert caught.value.exit_code == 2


# --- the adapter that training goes on from -----------------------------------------------------------


def going_on(folder: Path, model: Path | str, rows: Path, adapter: Path) -> Path:
    return write_recipe(folder, model, rows, lora=None, model={"adapter": str(adapter)})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden_size": 64}, r"lora_B\.weight` has the shape \[48, 4\] in the adapter and \[64, 4\] in the model"),
        ({"num_hidden_layers": 1}, r"14 of its tensors have no place in the model"),
        ({"num_hidden_layers": 4}, r"it was trained on sha256:\w+, and .* is sha256:"),
        ({}, r"it was trained on sha256:\w+, and .* is sha256:"),
    ],
    ids=["wider", "shallower", "deeper", "other weights of the same shape"],
)
def test_adapter_of_another_base_is_refused_before_loading(
    tmp_path: Path, student: Path, adapter: Path, data: Path, monkeypatch: Any, shape: dict[str, Any], message: str
) -> None:
    import torch

    torch.manual_seed(7)
    other = remade(student, tmp_path / "other", **shape)
    recipe = going_on(tmp_path, other, data, adapter)
    refused(recipe, f"(?s)does not belong to .*{message}.*name the model that it was trained on", monkeypatch)


def test_adapter_of_its_base_is_accepted_at_another_place(
    tmp_path: Path, student: Path, adapter: Path, data: Path
) -> None:
    moved = Path(shutil.copytree(student, tmp_path / "moved"))
    plan = train(going_on(tmp_path, moved, data, adapter), tmp_path / "out", dry_run=True)
    assert plan["warnings"] == []
    assert plan["memory"]["trained"] > 0


def test_adapter_that_names_another_model_is_warned_of(
    tmp_path: Path, student: Path, adapter: Path, data: Path
) -> None:
    from transformers import AutoConfig

    from gra.training.adapters import check_adapter
    from gra.training.model_fit import empty_model

    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    (copy / "manifest.json").unlink()
    rewrite(copy / "adapter_config.json", base_model_name_or_path="meta-llama/Llama-3.2-1B")
    loaded = load(going_on(tmp_path, "Qwen/Qwen2.5-0.5B", data, copy))
    model = empty_model(AutoConfig.from_pretrained(student))
    (note,) = check_adapter(loaded, model, copy, None)
    assert "was trained on meta-llama/Llama-3.2-1B; is Qwen/Qwen2.5-0.5B a copy of it?" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": ["foo"]}, "does not belong to"),
        ({"peft_type": "NOPE"}, "PEFT cannot read adapter_config.json"),
        ({"peft_type": None}, "PEFT cannot read adapter_config.json"),
        ({"peft_type": "PROMPT_TUNING"}, "of the kind PROMPT_TUNING, which cannot be trained further"),
        ({"r": 8}, r"has the shape \[4, 96\] in the adapter and \[8, 96\] in the model"),
        ({"r": "many"}, "does not belong to"),
    ],
)
def test_adapter_with_an_odd_configuration_is_refused(
    tmp_path: Path, student: Path, adapter: Path, data: Path, monkeypatch: Any, change: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    rewrite(copy / "adapter_config.json", **change)
    refused(going_on(tmp_path, student, data, copy), message, monkeypatch)


def test_adapter_without_weights_is_refused(
    tmp_path: Path, student: Path, adapter: Path, data: Path, monkeypatch: Any
) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    (copy / "adapter_model.safetensors").unlink()
    refused(going_on(tmp_path, student, data, copy), r"has no adapter_model\.safetensors", monkeypatch)


@pytest.mark.parametrize("modules", [["foo"], "((", ["embed_tokenz", "norm"]])
def test_target_modules_that_the_model_lacks_are_refused(
    tmp_path: Path, student: Path, data: Path, monkeypatch: Any, modules: Any
) -> None:
    recipe = write_recipe(tmp_path, student, data, lora={"r": 4, "target_modules": modules})
    refused(recipe, r"`lora\.target_modules: .*` does not fit .*name modules of the model, such as", monkeypatch)


# --- tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "user"),
    [
        (lambda tokenizer: tokenizer.add_tokens(["<tool>"]), r"rows\.jsonl row 10 uses token 259 \(<tool>\)"),
        (lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "<p>"}), "`pad_token` uses token 259"),
        (lambda tokenizer: tokenizer.add_special_tokens({"eos_token": "<e>"}), "`eos_token` uses token 259"),
    ],
    ids=["in a row", "for padding", "to stop"],
)
def test_tokens_added_without_resizing_are_refused_where_they_are_used(
    tmp_path: Path, student: Path, data: Path, monkeypatch: Any, change: Callable[[Any], Any], user: str
) -> None:
    write_rows(data, [row(*pair) for pair in PAIRS] + [row("Say <tool>.", "ok")])
    model = with_tokens(student, tmp_path / "model", change)
    message = f"{user}.*embeddings for 259 tokens; .*resize_token_embeddings"
    refused(write_recipe(tmp_path, model, data), message, monkeypatch)


def test_tokens_without_embedding_that_no_row_uses_are_warned_of(tmp_path: Path, student: Path, data: Path) -> None:
    model = with_tokens(student, tmp_path / "model", lambda tokenizer: tokenizer.add_tokens(["<tool>"]))
    recipe = write_recipe(tmp_path, model, data)
    (warning,) = train(recipe, tmp_path / "out", dry_run=True)["warnings"]
    assert "1 tokens of the tokenizer have no embedding (<tool>); no row uses them" in warning
    assert train(recipe, tmp_path / "out")["status"] == "trained"


def test_template_of_another_model_is_warned_of(tmp_path: Path, student: Path, data: Path) -> None:
    (tmp_path / "chatml.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% else %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    recipe = write_recipe(tmp_path, student, data, model={"chat_template": "chatml.jinja"})
    (warning,) = train(recipe, tmp_path / "out", dry_run=True)["warnings"]
    assert "writes <|im_end|> and <|im_start|>, which" in warning
    assert "has no tokens for" in warning


# --- weights and configuration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 269}, r"`model\.embed_tokens\.weight` has the shape \[259, 48\] .* and \[269, 48\] by config"),
        ({"num_hidden_layers": 3}, r"the weights lack 9 tensors that config\.json describes"),
        ({"model_type": "bert"}, r"the weights lack \d+ tensors that config\.json describes"),
        ({"model_type": "t5"}, "cannot be trained as a causal language model"),
        ({"model_type": "nope"}, "cannot be trained as a causal language model"),
        ({"hidden_size": "x"}, "cannot be trained as a causal language model"),
        ({"hidden_size": 47}, "cannot be trained as a causal language model|has the shape"),
        ({"pad_token_id": 5_000}, "cannot be trained as a causal language model"),
    ],
    ids=str,
)
def test_configuration_of_other_weights_is_refused(
    tmp_path: Path, student: Path, data: Path, monkeypatch: Any, values: dict[str, Any], message: str
) -> None:
    model = changed(student, tmp_path / "model", **values)
    refused(write_recipe(tmp_path, model, data), message, monkeypatch)


def test_configuration_with_fewer_layers_is_warned_of(tmp_path: Path, student: Path, data: Path) -> None:
    model = changed(student, tmp_path / "model", num_hidden_layers=1)
    (warning,) = train(write_recipe(tmp_path, model, data), tmp_path / "out", dry_run=True)["warnings"]
    assert "config.json describes fewer layers than are stored; 9 tensors are left out" in warning


def test_rows_longer_than_learned_positions_are_refused(
    tmp_path: Path, student: Path, data: Path, monkeypatch: Any
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = Path(shutil.copytree(student, tmp_path / "gpt2"))
    config = GPT2Config(
        vocab_size=259, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(model)
    refused(write_recipe(tmp_path, model, data), r"has 32 positions.*set `train\.max_length: 32`", monkeypatch)
    monkeypatch.undo()
    short = write_rows(data, [row("a", word) for word in "bcd"])
    template = {"chat_template": "t.jinja"}
    (tmp_path / "t.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
        "{% endif %}{% endfor %}"
    )
    recipe = write_recipe(tmp_path, model, short, model=template, lora=None, train={"max_steps": 1})
    assert train(recipe, tmp_path / "out", dry_run=True)["memory"]["parameters"] > 0
    assert train(recipe, tmp_path / "out")["status"] == "trained"


def test_rows_longer_than_computed_positions_are_warned_of(tmp_path: Path, student: Path, data: Path) -> None:
    model = changed(student, tmp_path / "model", max_position_embeddings=16)
    (warning,) = train(write_recipe(tmp_path, model, data), tmp_path / "out", dry_run=True)["warnings"]
    assert "has 16 positions, and the longest row has" in warning


def test_attention_that_is_not_installed_is_a_warning_in_a_dry_run_and_an_error_in_a_run(
    tmp_path: Path, student: Path, data: Path
) -> None:
    recipe = write_recipe(tmp_path, student, data, model={"attn_implementation": "flash_attention_2"})
    (warning,) = train(recipe, tmp_path / "out", dry_run=True)["warnings"]
    assert "flash_attention_2` needs a GPU and the package flash-attn" in warning
    with pytest.raises(RecipeError, match="cannot be loaded as the `model` section"):
        train(recipe, tmp_path / "out")


def test_attention_that_the_architecture_lacks_is_refused(
    tmp_path: Path, student: Path, data: Path, monkeypatch: Any
) -> None:
    from transformers import LlamaForCausalLM, LlamaModel

    for part in (LlamaForCausalLM, LlamaModel):
        monkeypatch.setattr(part, "_supports_sdpa", False)
    refused(
        write_recipe(tmp_path, student, data),
        "cannot be trained as a causal language model .*sdpa|scaled_dot",
        monkeypatch,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"model_init_kwargs": {"foo": 1}}}, "cannot be loaded as .*'foo'"),
        ({"train": {"model_init_kwargs": {"device_map": "nope"}}}, "cannot be loaded as .*nope"),
    ],
)
def test_options_that_transformers_refuses_are_one_sentence(
    tmp_path: Path, student: Path, data: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        train(write_recipe(tmp_path, student, data, **changes), tmp_path / "out")
