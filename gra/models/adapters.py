"""Read LoRA adapters of committee members: their identity, and whether an engine can serve them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.errors import RecipeError, user_path
from gra.core.hashing import file_digest
from gra.models.weights import damage, read_object, tensors_in

_WEIGHTS = "adapter_model.safetensors"
# Keys of the configuration that decide how the weights are used.
_DECIDING = (
    "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "layers_to_transform",
    "layers_pattern",
)  # fmt: skip
LARGEST_RANK = 512


@dataclass(frozen=True)
class Adapter:
    """One adapter on this machine."""

    path: Path
    identity: str
    rank: int
    modules: tuple[str, ...]  # adapted modules, by the last part of their names
    gb: float


def find_adapter(name: str, model: Path | None = None) -> Adapter:
    """Read the adapter in a folder.

    Args:
        name: the folder, as the recipe names it.
        model: the folder of the model that it adapts, to compare shapes with; None where it is not on this machine.

    Raises:
        RecipeError: there is none, or it is not a LoRA adapter that an engine can serve, or it adapts another model.
    """
    path = user_path(name, f"`adapter: {name}`")
    config_file, weights = path / "adapter_config.json", path / _WEIGHTS
    if not config_file.is_file() or not weights.is_file():
        raise RecipeError(
            f"`adapter: {name}` is no folder with a LoRA adapter (adapter_config.json and {_WEIGHTS}); "
            "give the folder that `gra train` or PEFT wrote"
        )
    if damaged := damage(path):
        raise RecipeError(f"`adapter: {name}`: {damaged}; copy that file again")
    config = read_object(config_file)
    if problem := _cannot_be_served(config):
        raise RecipeError(f"`adapter: {name}` {problem}; merge it into its model and name that as `model`")
    decides = {key: _ordered(config.get(key)) for key in _DECIDING}
    content = json.dumps([decides, file_digest(weights)], sort_keys=True)
    identity = f"lora:{hashlib.sha256(content.encode()).hexdigest()}"
    rank = max(_ranks(config))
    modules = _adapted(weights)
    if vocabulary := sorted({"lm_head", "embed_tokens"} & set(modules)):
        raise RecipeError(
            f"`adapter: {name}` adapts {' and '.join(vocabulary)}, and vLLM cannot give likelihoods beside such an "
            "adapter; merge it into its model and name that as `model`"
        )
    if model is not None and (misfit := _misfit(tensors_in(weights), model)):
        raise RecipeError(f"`adapter: {name}` {misfit}; give an adapter of {model.name}, or name its own model")
    return Adapter(path.resolve(), identity, rank, modules, weights.stat().st_size / 2**30)


def _misfit(adapter: Mapping[str, tuple[int, ...]], model: Path) -> str:
    """Return how an adapter's tensors differ from the model's, by file headers; "" where they fit."""
    base: dict[str, tuple[int, ...]] = {}
    for file in sorted(model.glob("*.safetensors")):
        base |= tensors_in(file)
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in adapter.items():
        module, found, side = name.removeprefix("base_model.model.").partition(".lora_")
        if found and len(shape) == 2:
            sides.setdefault(module, {})[side[:1]] = shape
    known = {module: base[f"{module}.weight"] for module in sides if f"{module}.weight" in base}
    if not known:
        return ""  # the model's file names its tensors in another way, and the engine maps them
    for module, shapes in sorted(sides.items()):
        if module not in known:
            return f"adapts `{module}`, which {model.name} does not have"
        inputs, outputs = shapes.get("A", (0, 0))[1], shapes.get("B", (0, 0))[0]
        if len(known[module]) == 2 and (outputs, inputs) != known[module]:
            rows, columns = known[module]
            return f"is for a `{module}` of {outputs} x {inputs}, and that of {model.name} has {rows} x {columns}"
    return ""


def _adapted(weights: Path) -> tuple[str, ...]:
    """Find the adapted modules by the names of the tensors; the configuration may hold a pattern instead."""
    names = (name.partition(".lora_")[0] for name in tensors_in(weights))
    return tuple(sorted({name.rpartition(".")[2] for name in names}))


def _ordered(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, list) else value


def _ranks(config: dict[str, Any]) -> list[Any]:
    pattern = config.get("rank_pattern") or {}
    return [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])]


def _cannot_be_served(config: dict[str, Any]) -> str:
    if (kind := config.get("peft_type")) != "LORA":
        return f"is of the kind {kind!s:.60}, and engines serve LORA alone"
    if config.get("use_dora"):
        return "uses DoRA, which engines do not serve"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        return "trains biases, which engines do not serve"
    if config.get("modules_to_save"):
        saved = config["modules_to_save"]
        names = ", ".join(map(str, saved)) if isinstance(saved, list) else str(saved)
        return f"replaces whole modules ({names:.200}), which engines do not serve"
    ranks = _ranks(config)
    if not all(isinstance(rank, int) and not isinstance(rank, bool) and rank > 0 for rank in ranks):
        return f"has ranks that are no numbers ({', '.join(map(str, ranks)):.200})"
    if max(ranks) > LARGEST_RANK:
        return f"has rank {max(ranks)}, and engines serve up to {LARGEST_RANK}"
    return ""
