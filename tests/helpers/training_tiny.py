"""A student of 60,000 random parameters and a tokenizer of single bytes, built without any download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from gra.config.loader import Loaded, load_recipe
from gra.config.training import TrainRecipe

PAIRS = [(f"Say {word}.", word) for word in ("red", "blue", "green", "one", "two", "three", "north", "south", "east")]


def make_student(folder: Path) -> Path:
    """Save a random two-layer Llama with its tokenizer into `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(["<pad>", "<bos>", "<eos>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=512
    )
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    torch.set_num_threads(1)  # also where an earlier test has loaded PyTorch
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def other_vocabulary(folder: Path) -> Path:
    """The tiny model with its tokens numbered in another order."""
    make_student(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    letters = [token for token in vocabulary if not token.startswith("<")]
    content["model"]["vocab"] |= {
        token: vocabulary[other] for token, other in zip(letters, reversed(letters), strict=True)
    }
    path.write_text(json.dumps(content))
    return folder


def row(prompt: str, answer: str) -> dict[str, Any]:
    """One training row."""
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    return path


def write_recipe(folder: Path, student: Path | str, rows: Path, /, **changes: Any) -> Path:
    """A small recipe; keyword arguments replace or extend its top-level sections."""
    recipe: dict[str, Any] = {
        "name": "tiny",
        "model": {"name": str(student), "chat_template": "builtin:plain"},
        "data": {"train": [{"path": str(rows)}]},
        "lora": {"r": 4, "alpha": 8},
        "train": {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.01,
            "gradient_checkpointing": False,
            "use_cpu": True,
        },
        "tracking": {"wandb": "off"},
    }
    for key, value in changes.items():
        recipe[key] = {**recipe[key], **value} if isinstance(recipe.get(key), dict) and value else value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def load(path: Path, *overrides: str) -> Loaded[TrainRecipe]:
    """The checked recipe."""
    return load_recipe(path, TrainRecipe, overrides)


def train(recipe: Path, output: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    """Train in this process; the metrics."""
    from gra.training.run import train as run

    return run(load(recipe, *overrides), output, **options)


def weights(folder: Path) -> dict[str, Any]:
    """Every tensor of a trained student, by name."""
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*model.safetensors")))


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two students are bit for bit the same."""
    return left.keys() == right.keys() and all(bool((left[key] == right[key]).all()) for key in left)


def logged(output: Path, name: str) -> list[float]:
    """One figure of every logged step."""
    newest = max(output.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry[name] for entry in history if name in entry]
