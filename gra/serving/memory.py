"""Plan the models of a machine into its memory, and how one is swapped for another when not all fit."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gra.config.committee import BackendConfig, EngineConfig
from gra.config.synthesis import SynthesisRecipe, members_of
from gra.core.errors import RecipeError
from gra.core.hardware import gpu_memory_gb, width
from gra.engines.vllm.core_turns import MOST_CORES
from gra.models.adapters import Adapter

# Resident size of an engine beside weights and KV cache, measured; see docs/benchmarks.md. Short steps need less.
_CPU_OVERHEAD_GB, _SHORT_STEPS_OVERHEAD_GB = 3.5, 2.5
_GPU_OVERHEAD_GB = 2.5
# What a sleeping engine keeps of its GPU (CUDA context, kernels, graphs). A cautious assumption, not measured.
_ASLEEP_GB = 1.5
# The share of the free host memory that offloaded weights may take; the run itself needs some.
_HOST_SHARE = 0.6


@dataclass(frozen=True)
class MemoryPlan:
    """Sizes in GB: each resident model, all models together at most, and each sleeping model.

    Attributes:
        sleep_level: of vLLM's sleep mode; 0 where a swapped model's engine is ended.
    """

    memory_gb: Mapping[str, float]
    limit_gb: float
    kv_gb: float
    sleep_level: int
    asleep_gb: float


def plan_memory(
    weights_gb: Mapping[str, float], engine: EngineConfig, gpu_gb: float | None, host_gb: float
) -> MemoryPlan:
    """Plan models into memory.

    Args:
        weights_gb: the size of each model's weights.
        engine: the recipe's settings.
        gpu_gb: the GPU's memory; None where there is no GPU.
        host_gb: the free host memory.

    Raises:
        RecipeError: when models are to sleep on a machine without a GPU.
    """
    on_gpu = gpu_gb is not None
    memory = {name: engine_gb(size, engine, on_gpu) for name, size in weights_gb.items()}
    limit = limit_gb(engine, gpu_gb, host_gb)
    level = _sleep_level(engine.offload, memory, weights_gb, limit, on_gpu, host_gb)
    return MemoryPlan(memory, limit, kv_cache_gb(engine, on_gpu), level, _ASLEEP_GB if level else 0.0)


def check_weights(recipe: SynthesisRecipe) -> None:
    """Check that the weights that a recipe asks for can be computed with on this machine.

    Raises:
        RecipeError: 8-bit weights are asked for, and there is a GPU.
    """
    here = any((member.engine or recipe.engine).kind == "vllm" for member in members_of(recipe))
    if recipe.engine.weights is not None and here and gpu_memory_gb() is not None:
        raise RecipeError(
            f"`engine.weights: {recipe.engine.weights}` is for machines without a GPU, and models are served on the "
            "GPU here; leave `engine.weights` out"
        )


def kv_cache_gb(engine: EngineConfig, on_gpu: bool) -> float:
    """Return the GB of an engine's KV cache in bfloat16; in float32 it takes twice as much (`width`)."""
    return engine.kv_cache_gb or (4.0 if on_gpu else 1.0)


def engine_gb(weights: float, engine: EngineConfig, on_gpu: bool) -> float:
    """Return the GB that an engine takes, from those of its weights."""
    cache = kv_cache_gb(engine, on_gpu) * width("bfloat16", on_gpu=on_gpu) / 2
    overhead = _SHORT_STEPS_OVERHEAD_GB if on_few_cores(engine) else _CPU_OVERHEAD_GB
    return weights + cache + (_GPU_OVERHEAD_GB if on_gpu else overhead)


def cpu_threads(engine: EngineConfig) -> int:
    """Return the CPU threads of each model, where there is no GPU."""
    return engine.threads or len(os.sched_getaffinity(0))


def on_few_cores(engine: EngineConfig) -> bool:
    """Return whether models on a CPU compute in short steps, and in turns where there are several."""
    return cpu_threads(engine) <= MOST_CORES


def adapters_gb(adapters: Collection[Adapter]) -> float:
    """Return the GB of one model's adapters: vLLM reserves the size of the largest for each."""
    return 2 * len(adapters) * max((adapter.gb for adapter in adapters), default=0.0)


def limit_gb(engine: EngineConfig, gpu_gb: float | None, host_gb: float) -> float:
    """Return the GB that all engines may take together."""
    return engine.memory_gb or (0.92 * gpu_gb if gpu_gb is not None else 0.85 * host_gb)


def cluster_gpus(served: BackendConfig) -> float:
    """Return the GPUs that a model holds of a Ray cluster; a replica without a GPU counts as one."""
    return (served.replicas or 1) * (served.gpus or 1.0)


def _sleep_level(
    offload: str, memory: Mapping[str, float], weights: Mapping[str, float], limit: float, on_gpu: bool, host_gb: float
) -> int:
    """Return the fastest way of offloading that memory has room for."""
    if offload in ("sleep-1", "sleep-2"):
        if not on_gpu:
            raise RecipeError(
                f"`engine.offload: {offload}` needs a CUDA GPU, and there is none here: on a CPU vLLM cannot sleep. "
                "Set `offload: auto` or `offload: end`"
            )
        return int(offload[-1])
    if offload == "end" or not on_gpu or sum(memory.values()) <= limit:
        return 0
    if max(memory.values()) + _ASLEEP_GB * (len(memory) - 1) > limit:
        return 0  # sleeping engines would leave no room for the largest
    return 1 if sum(weights.values()) <= _HOST_SHARE * host_gb else 2
