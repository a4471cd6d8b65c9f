"""Measure memory and GPUs of this machine without importing torch."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

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


@cache
def cpu_computes_bfloat16() -> bool:
    """Return whether this machine's CPU multiplies bfloat16 matrices at speed."""
    return multiplies_bfloat16(cpu_flags(Path("/proc/cpuinfo")))


def multiplies_bfloat16(flags: frozenset[str]) -> bool:
    """Return whether a CPU multiplies bfloat16 matrices at speed: by AVX-512 on x86, by the bf16 extension on Arm.

    Without them the product of a long prompt takes five times as long as in float32 (docs/benchmarks.md). The answer is
    yes where no instruction sets are known.
    """
    return not flags or "bf16" in flags or "avx512f" in flags


def cpu_flags(report: Path) -> frozenset[str]:
    """Return the instruction sets in a report such as /proc/cpuinfo; none where there is no such report."""
    if not report.is_file():
        return frozenset()
    for line in report.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def computing_type(dtype: str, *, on_gpu: bool) -> str:
    """Return the type that weights of a type are computed in: float32 where bfloat16 would be slow."""
    return "float32" if dtype == "bfloat16" and not on_gpu and not cpu_computes_bfloat16() else dtype


def width(dtype: str, *, on_gpu: bool) -> int:
    """Return the bytes of a number of a type, `bfloat16` or `float32`, where it is computed."""
    return 2 if computing_type(dtype, on_gpu=on_gpu) == "bfloat16" else 4
