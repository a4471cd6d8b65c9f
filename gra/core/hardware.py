"""Measure memory and GPUs of this machine without importing torch."""

from __future__ import annotations

import shutil
import subprocess

from gra.core.errors import EngineUnavailable


def available_gb() -> float:
    """Return the memory that can be taken now without swapping, in GB."""
    import psutil

    return float(psutil.virtual_memory().available / 2**30)


def gpu_memories_gb() -> list[float]:
    """Return the total memory of each CUDA GPU in GB; empty without one.

    Raises:
        EngineUnavailable: when nvidia-smi answers something that cannot be read.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return []
    try:
        return [float(line) / 1024 for line in done.stdout.split()]
    except ValueError:
        raise EngineUnavailable(f"nvidia-smi answered {done.stdout!r} when asked for the GPU's memory") from None


def gpu_count() -> int:
    """Count the CUDA GPUs."""
    return len(gpu_memories_gb())


def gpu_memory_gb() -> float | None:
    """Return the memory of the first CUDA GPU in GB; None without one."""
    return next(iter(gpu_memories_gb()), None)
