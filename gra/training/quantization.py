"""Load frozen weights in 4 bits under a LoRA adapter (QLoRA; Dettmers et al. 2023, arXiv 2305.14314)."""

from __future__ import annotations

import importlib.util
from typing import Any

from gra.config.loader import Loaded
from gra.config.training import TrainRecipe
from gra.core.errors import RecipeError
from gra.training.launch import Launch


def quantization_problem(launch: Launch, *, cpu: bool) -> str | None:
    """Return why training on 4-bit weights is impossible here, or None."""
    if cpu:
        return "`model.quantization: nf4` needs a CUDA GPU; remove it to train the same adapter on whole weights"
    if launch.shards_weights:
        return f"`model.quantization: nf4` cannot be sharded by {launch.strategy}; use recipes/accelerate/ddp.yaml"
    if importlib.util.find_spec("bitsandbytes") is None:
        return (
            "`model.quantization: nf4` needs the package bitsandbytes (MIT), which is not installed: "
            "pip install 'gra-synthesis[qlora]'"
        )
    return None


def require_quantization(loaded: Loaded[TrainRecipe], launch: Launch, *, cpu: bool) -> None:
    """Stop before the weights are downloaded when they cannot be used in 4 bits.

    Raises:
        RecipeError: Without a GPU, without bitsandbytes, or when weights are sharded.
    """
    problem = quantization_problem(launch, cpu=cpu) if loaded.recipe.model.quantization else None
    if problem is not None:
        raise RecipeError(problem, loaded.path)


def four_bit() -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for doubly quantized NF4 weights on this process's GPU."""
    import torch
    from accelerate import PartialState
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": PartialState().local_process_index}}
