"""Turn the settings of an engine into vLLM's arguments, and start vLLM with them."""

from __future__ import annotations

import os
from typing import Any

from gra.core.hardware import computing_type, width

# The ranks that vLLM reserves memory for, and the adapters that it computes with at once; others wait in memory.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_ADAPTERS_AT_ONCE = 8
_TURN_TAKING_WORKER = "gra.engines.vllm.cpu_worker.TurnTakingWorker"


def engine_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Return vLLM's arguments for the settings of the engine."""
    on_gpu = settings["threads"] == 0
    arguments: dict[str, Any] = {
        "model": settings["path"],
        "dtype": computing_type("bfloat16", on_gpu=on_gpu),
        "max_model_len": settings["max_model_len"],
        "max_num_seqs": settings["concurrency"],
        "enable_prefix_caching": True,
        "enforce_eager": not on_gpu,
        "kv_cache_memory_bytes": int(settings["kv_cache_gb"] * 2**29) * width("bfloat16", on_gpu=on_gpu),
        # Probabilities among the allowed labels only, normalized by vLLM itself.
        "logprobs_mode": "processed_logprobs",
        # Sampling comes from the recipe, never from a file that travels with the weights.
        "generation_config": "vllm",
    }
    if settings.get("rewards"):
        arguments |= {"runner": "pooling", "convert": "classify"}
        del arguments["enable_prefix_caching"]  # vLLM knows which of these models can; an encoder cannot
    if settings["adapters"]:
        # In a mixed batch on a CPU, vLLM computes calls without an adapter by the last place (index -1). So there is
        # one place more than adapters. It stays empty, and the model answers without an adapter.
        places = min(_ADAPTERS_AT_ONCE, len(settings["adapters"])) if on_gpu else len(settings["adapters"]) + 1
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": next(rank for rank in LORA_RANKS if rank >= settings["lora_rank"]),
            "max_loras": places,
            "max_cpu_loras": max(places, len(settings["adapters"])),
            # Only the adapted modules: where the output layer may be adapted, vLLM fails at prompt logprobs.
            "lora_target_modules": list(settings["lora_modules"]),
        }
    if settings["sleep_level"]:
        arguments["scheduling_policy"] = "priority"  # calls stay in the order of arrival, behind the reference text
    if not on_gpu:
        # The CPU default of 128 tokens is longer than most shared prefixes, so nothing would be cached.
        arguments["block_size"] = 32
        if settings.get("step_tokens") and not settings.get("rewards"):
            arguments["max_num_batched_tokens"] = max(settings["step_tokens"], settings["concurrency"])
        if settings.get("cores_file"):
            arguments["worker_cls"] = _TURN_TAKING_WORKER
    if on_gpu:
        arguments["gpu_memory_utilization"] = settings["gpu_memory_utilization"]
        arguments["enable_sleep_mode"] = settings["sleep_level"] > 0
    return arguments


def start_engine(arguments: dict[str, Any]) -> Any:
    """Start vLLM; its engine core is a process of its own."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    config = AsyncEngineArgs(**arguments).create_engine_config()
    if config.device_config.device_type == "cpu" and "libiomp5" in os.environ.get("LD_PRELOAD", ""):
        # On a CPU vLLM asks for a process that imports everything again. GNU's OpenMP cannot go on after a fork, but
        # Intel's can. That saves 10 s of a start.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    return AsyncLLM.from_vllm_config(config)
