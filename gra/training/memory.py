"""Estimate the memory of a training process from shapes alone, without weights or a GPU.

Mixed precision keeps float32 weights (4 bytes a parameter), gradients (4) and two Adam moments (8). Autocast and
DeepSpeed compute with bfloat16 copies (2). A strategy divides what it shards by the number of processes (Rajbhandari
et al. 2020, ZeRO, arXiv 1910.02054, section 3). Activations follow Korthikanti et al. 2022 (arXiv 2205.05198, section
4) for the gated layers of Llama-like models. The estimate is an upper one: every row counts as the longest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gra.config.training import TrainRecipe
from gra.core.hardware import computing_type
from gra.training.adapters import with_adapter
from gra.training.launch import Launch
from gra.training.methods import METHODS
from gra.training.model_fit import empty_model

_BUCKET = 500_000_000  # Elements in DeepSpeed's reduce and all-gather buffers.
_LIVE = 1_000_000_000  # Gathered parameters that ZeRO-3 keeps at once.
_TILE = 4096  # Tokens that TRL's loss projects at once.

# Bytes of CUDA, its libraries and the collectives' buffers.
_CONTEXT = 1.0e9

_SLACK = 1.04  # share that the allocator loses

# Bytes a weight, with the doubly quantized scales (Dettmers et al. 2023, arXiv 2305.14314).
_NF4 = 0.516

# GB of GPUs in use.
_CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141)


@dataclass(frozen=True)
class Shape:
    """The facts of a model that decide its memory: counts of parameters and the widths of a layer."""

    total: int
    trained: int
    layers: int
    layer: int  # parameters of one layer
    hidden: int
    intermediate: int
    queries: int  # width of all query heads
    keys: int  # width of all key heads
    heads: int
    vocabulary: int  # rows of the projection onto the vocabulary; 1 of a reward model
    tied: bool

    @property
    def outside(self) -> int:
        """Parameters outside the layers: embeddings and the head."""
        return self.total - self.layers * self.layer


def shape_of(config: Any, lora: Any = None, *, scores: bool = False) -> Shape:
    """Return the shape of a model with this Transformers configuration, counted on tensors without storage.

    Args:
        config: The model's configuration.
        lora: The PEFT configuration, or None when every parameter is trained.
        scores: Whether it is a reward model, which projects onto no vocabulary.
    """
    model = empty_model(config, scores=scores)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    total = sum(sizes.values())
    text = config.get_text_config()
    layers = text.num_hidden_layers
    trained = total
    if lora is not None:
        trained = with_adapter(model, lora).get_nb_trainable_parameters()[0]
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        total=total,
        trained=trained,
        layers=layers,
        layer=sum(size for name, size in sizes.items() if re.search(r"\.\d+\.", name)) // layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or _feed_forward(sizes, text.hidden_size),
        queries=width * text.num_attention_heads,
        keys=width * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        heads=text.num_attention_heads,
        vocabulary=1 if scores else text.vocab_size,
        tied=bool(text.tie_word_embeddings),
    )


def estimate(
    recipe: TrainRecipe,
    options: Mapping[str, Any],
    shape: Shape,
    launch: Launch,
    *,
    longest: int,
    cpu: bool,
    teacher: Shape | None = None,
) -> dict[str, Any]:
    """Return GB of one process at its peak, in parts, and of one machine while the weights are read.

    Args:
        recipe: Of the run.
        options: The checked `train` section.
        shape: Of the student, with what is trained of it.
        launch: The strategy and the number of processes.
        longest: Tokens of the longest row.
        cpu: Whether the run is on the CPU.
        teacher: Shape of the teacher, when there is one.
    """
    recipe = _as_computed(recipe, on_gpu=not cpu)
    autocast = not cpu and recipe.model.dtype == "float32" and not launch.deepspeed and bool(options.get("bf16", True))
    parts = _state(recipe, options, shape, launch, autocast)
    parts |= _others(recipe, shape, launch, teacher)
    residual = 4 if recipe.model.dtype == "float32" and not launch.deepspeed and launch.strategy != "fsdp2" else 2
    parts |= _activations(recipe, options, shape, longest, residual)
    parts["libraries"] = _CONTEXT
    total = sum(parts.values()) * _SLACK
    local = launch.processes // launch.machines
    at_once = 1 if launch.shards_weights else local
    weight = 4 if recipe.model.dtype == "float32" else 2
    described = {
        "parameters": shape.total,
        "trained": shape.trained,
        "gb_per_process": _gb(total),
        "parts_gb": {name: _gb(size) for name, size in parts.items() if size >= 5e6},
        "machine_gb_to_load": _gb(at_once * weight * shape.total),
    }
    return described if cpu else {**described, "smallest_gpu": _card(total)}


def _as_computed(recipe: TrainRecipe, *, on_gpu: bool) -> TrainRecipe:
    """Return the recipe with the types that frozen weights are loaded in on this machine."""
    changes: dict[str, Any] = {}
    if recipe.adapts and recipe.model.quantization is None:
        dtype = computing_type(recipe.model.dtype, on_gpu=on_gpu)
        changes["model"] = recipe.model.model_copy(update={"dtype": dtype})
    if recipe.teacher is not None:
        dtype = computing_type(recipe.teacher.dtype, on_gpu=on_gpu)
        changes["teacher"] = recipe.teacher.model_copy(update={"dtype": dtype})
    return recipe.model_copy(update=changes)


def _state(
    recipe: TrainRecipe, options: Mapping[str, Any], shape: Shape, launch: Launch, autocast: bool
) -> dict[str, float]:
    """Return the bytes of weights, gradients, optimizer state, and the buffers that exchange them."""
    n, trained, frozen = launch.processes, shape.trained, shape.total if recipe.adapts else 0
    size = 4 if recipe.model.dtype == "float32" else 2
    own = 4 if recipe.adapts else size  # adapters are float32 beside weights of any type
    frozen_bytes = frozen * float(size if not launch.deepspeed else 2)
    if recipe.model.quantization is not None:
        frozen_bytes = shape.layers * shape.layer * _NF4 + shape.outside * 2
    bucket = 2.0 * min(trained, _BUCKET)
    if launch.deepspeed:
        shard = n if launch.strategy == "zero3" else 1
        gathered = 2.0 * min(shape.total, _LIVE) if shard > 1 else bucket
        state = _optimiser_bytes(options, 4) + 4  # and the float32 weights
        return {
            "weights": frozen_bytes / shard + 2.0 * trained / shard,
            "gradients": 6.0 * trained / n,  # bfloat16, and this process's part in float32 at the step
            "optimiser": 0.0 if launch.offload else state * trained / n,
            "buffers": gathered + bucket,
        }
    if launch.strategy == "fsdp2":
        return {
            "weights": (frozen_bytes + own * trained) / n,
            "gradients": own * trained / n,
            "optimiser": _optimiser_bytes(options, own) * trained / n,
            # Two layers gathered in bfloat16 with the gradients of one, and what stands outside the layers.
            "buffers": 2.0 * (2 * shape.layer + shape.outside) + (0.0 if recipe.adapts else 6.0 * shape.layer),
        }
    return {
        "weights": frozen_bytes + float(own * trained),
        "gradients": float(own * trained),
        "optimiser": _optimiser_bytes(options, own) * trained,
        "buffers": (2.0 * trained if autocast else 0.0) + (float(own * trained) if n > 1 else 0.0),
    }


def _optimiser_bytes(options: Mapping[str, Any], size: int) -> float:
    """Return the bytes of optimizer state for each trained parameter."""
    name = str(getattr(options.get("optim"), "value", options.get("optim") or "adamw_torch_fused"))
    if name == "sgd":
        return 0.0
    if name == "adafactor":
        return 0.1 * size  # factored: rows and columns
    if "8bit" in name:
        return 1.0 if "lion" in name else 2.0
    return float(size) if name.startswith(("lion", "paged_lion", "rmsprop", "adagrad")) else 2.0 * size


def _others(recipe: TrainRecipe, shape: Shape, launch: Launch, teacher: Shape | None) -> dict[str, float]:
    """Return the bytes of models beside the student: DPO's frozen reference, or the teacher."""
    shard = launch.processes if launch.strategy == "zero3" else 1
    if METHODS[recipe.method].has_reference and not recipe.adapts:
        return {"reference": (2 if launch.deepspeed or recipe.model.dtype == "bfloat16" else 4) * shape.total / shard}
    if METHODS[recipe.method].has_reference and recipe.model.adapter is not None:
        return {"reference": 4.0 * shape.trained}
    if teacher is not None and recipe.teacher is not None:
        return {"teacher": (2 if recipe.teacher.dtype == "bfloat16" else 4) * teacher.total / shard}
    return {}


def _activations(
    recipe: TrainRecipe, options: Mapping[str, Any], shape: Shape, longest: int, residual: int
) -> dict[str, float]:
    """Return the bytes that the backward pass keeps of a micro-batch, and of the projection onto the vocabulary."""
    rows = options.get("per_device_train_batch_size", 8) * METHODS[recipe.method].answers
    tokens = rows * longest
    # Both norms keep their input, its float32 form and their bfloat16 output. Attention keeps queries, keys, values
    # and its output. The feed-forward part keeps the gate, its activation, the other branch and their product.
    layer = 2 * (residual + 6) * shape.hidden + 6 * shape.queries + 8 * shape.keys + 8 * shape.intermediate
    if recipe.adapts:
        layer += 2 * (5 * shape.hidden + shape.queries + shape.intermediate)  # what each adapter's input keeps
    scores = 6.0 * rows * shape.heads * longest**2 if recipe.model.attn_implementation == "eager" else 0.0
    one = float(tokens * layer) + scores
    if options.get("gradient_checkpointing", True):
        kept = float(shape.layers * tokens * shape.hidden * residual) + one
    else:
        kept = shape.layers * one
    head = 0.0 if recipe.adapts else 4.0 * shape.vocabulary * shape.hidden  # the head's gradient, summed in float32
    tile = 2.0 * min(tokens, _TILE) * min(shape.vocabulary, _TILE * 8)
    if METHODS[recipe.method].keeps_logits:
        tile = 12.0 * tokens * shape.vocabulary  # logits, their log-softmax and its gradient in float32
    return {"activations": kept, "loss": tile + head + 8.0 * tokens * shape.hidden}


def _card(size: float) -> str:
    found = next((card for card in _CARDS if size <= card * 1e9), None)
    return f"{found} GB" if found else f"none of up to {_CARDS[-1]} GB"


def _gb(size: float) -> float:
    return round(size / 1e9, 2)


def _feed_forward(sizes: Mapping[str, int], hidden: int) -> int:
    """Return the width of the feed-forward part, from its largest matrix, for configurations that do not name it."""
    return max(size for name, size in sizes.items() if re.search(r"\.\d+\.", name)) // hidden
