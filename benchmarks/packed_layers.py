"""Measure how much faster float32 layers are on this CPU when their weights are kept in oneDNN's layout.

Run as: python benchmarks/packed_layers.py [--json FILE]

The shapes are inner layers of a 1.5B model and of Gemma-3-270m, and a quarter of the vocabulary of Gemma-3-270m.
The plain and the packed layer take turns (gra/evaluation/packed.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from gra.core.files import write_json
from gra.evaluation.packed import PackedLinear, can_be_packed

SHAPES = {"1536 x 8960": (1536, 8960), "640 x 2048": (640, 2048), "640 x 65536": (640, 65536)}
ROWS = (1, 8, 32, 64, 256)


def seconds(layer: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> float:
    """Return how long one product takes."""
    begun = time.perf_counter()
    layer(states)
    return time.perf_counter() - begun


@torch.inference_mode()
def measured(width: int, outputs: int, rows: int, turns: int) -> tuple[float, float]:
    """Return the GFLOP/s of the plain and of the packed layer."""
    plain = torch.nn.Linear(width, outputs, bias=False)
    packed, states = PackedLinear(plain), torch.randn(rows, width)
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns + 1):  # the first turn of each prepares the kernels
        for times, layer in zip(took, (plain, packed), strict=True):
            times.append(seconds(layer, states))
    one, other = (2 * rows * width * outputs / median(times[1:]) / 1e9 for times in took)
    return one, other


def main(
    turns: Annotated[int, typer.Option(help="of each layer")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the rows to FILE")] = None,
) -> None:
    """Print the rates of both layers."""
    if not can_be_packed():
        raise SystemExit("this build of PyTorch has no packed product")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    found: list[dict[str, Any]] = []
    print("| layer | rows | plain, GFLOP/s | packed, GFLOP/s | ratio |\n|---|---|---|---|---|")
    for name, (width, outputs) in SHAPES.items():
        for rows in ROWS:
            plain, packed = measured(width, outputs, rows, turns)
            found.append({"layer": name, "rows": rows, "plain": plain, "packed": packed, "ratio": packed / plain})
            print(f"| {name} | {rows} | {plain:.0f} | {packed:.0f} | {packed / plain:.1f} |")
    if json_file is not None:
        write_json(json_file, {"rows": found})


if __name__ == "__main__":
    typer.run(main)
