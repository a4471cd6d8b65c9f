"""What the models of a machine need of its memory, and how one gives way to another when they do not fit together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gra.config.committee import BackendConfig
from gra.config.synthesis import EngineConfig
from gra.core.errors import RecipeError
from gra.models.adapters import Adapter

# Resident size of an engine beside weights and KV cache, measured; see docs/benchmarks.md.
_CPU_OVERHEAD_GB = 3.5
_GPU_OVERHEAD_GB = 2.5
# What a sleeping engine keeps of its GPU (CUDA's context, kernels, graphs). An assumption from above; not measured.
_ASLEEP_GB = 1.5
# The share of the free host memory that sleeping weights may take: the run itself needs some, too.
_HOST_SHARE = 0.6


@dataclass(frozen=True)
class MemoryPlan:
    """Sizes in GB: of each model while it serves, of all together at most, and of each while it sleeps."""

    memory_gb: Mapping[str, float]
    limit_gb: float
    kv_gb: float
    sleep_level: int  # of vLLM's sleep mode; 0: a model that gives way is ended
    asleep_gb: float


def plan_memory(
    weights_gb: Mapping[str, float], engine: EngineConfig, gpu_gb: float | None, host_gb: float
) -> MemoryPlan:
    """Plan models, by the size of their weights, into a GPU (None: there is none) and so much free host memory.

    Raises:
        RecipeError: when models are to sleep on a machine without a GPU.
    """
    on_gpu = gpu_gb is not None
    memory = {name: engine_gb(size, engine, on_gpu) for name, size in weights_gb.items()}
    limit = limit_gb(engine, gpu_gb, host_gb)
    level = _sleep_level(engine.offload, memory, weights_gb, limit, on_gpu, host_gb)
    return MemoryPlan(memory, limit, kv_cache_gb(engine, on_gpu), level, _ASLEEP_GB if level else 0.0)


def kv_cache_gb(engine: EngineConfig, on_gpu: bool) -> float:
    """What an engine sets aside for what it has read."""
    return engine.kv_cache_gb or (4.0 if on_gpu else 1.0)


def engine_gb(weights: float, engine: EngineConfig, on_gpu: bool) -> float:
    """What an engine with weights of so many GB takes in memory."""
    return weights + kv_cache_gb(engine, on_gpu) + (_GPU_OVERHEAD_GB if on_gpu else _CPU_OVERHEAD_GB)


def adapters_gb(worn: Collection[Adapter]) -> float:
    """What the adapters of one model take beside its weights: room for the largest rank in every one's place."""
    return 2 * len(worn) * max((adapter.gb for adapter in worn), default=0.0)


def limit_gb(engine: EngineConfig, gpu_gb: float | None, host_gb: float) -> float:
    """What all engines may take together."""
    return engine.memory_gb or (0.92 * gpu_gb if gpu_gb is not None else 0.85 * host_gb)


def cluster_gpus(served: BackendConfig) -> float:
    """What a model on a Ray cluster holds of it; a replica without a GPU counts as one, like such a machine."""
    return (served.replicas or 1) * (served.gpus or 1.0)


def _sleep_level(
    offload: str, memory: Mapping[str, float], weights: Mapping[str, float], limit: float, on_gpu: bool, host_gb: float
) -> int:
    """The quickest way to give way that memory has room for."""
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
        return 0  # what the sleeping ones keep would leave no room for the largest
    return 1 if sum(weights.values()) <= _HOST_SHARE * host_gb else 2
