"""Measure how fast this CPU multiplies matrices in float32 and in bfloat16, as models do.

Run as: python benchmarks/cpu_types.py [--width 1536] [--json FILE]

A layer multiplies the states of some tokens by its weights: one token when a single text is written, 32 when a batch is
written, 256 when prompts are read. The types take turns. `gra` computes bfloat16 weights in float32 where
`cpu_computes_bfloat16` (gra/core/hardware.py) says no.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from gra.core.files import write_json
from gra.core.hardware import cpu_computes_bfloat16

TYPES = ("float32", "bfloat16")
TOKENS = (1, 32, 256)


def seconds(states: torch.Tensor, weights: torch.Tensor) -> float:
    """Return how long one product takes."""
    begun = time.perf_counter()
    torch.nn.functional.linear(states, weights)
    return time.perf_counter() - begun


def main(
    width: Annotated[int, typer.Option(help="of the states")] = 1536,
    inner: Annotated[int, typer.Option(help="outputs of the layer")] = 8960,
    turns: Annotated[int, typer.Option(help="of each type")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the rows to FILE")] = None,
) -> None:
    """Print the rates of both types."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows: list[dict[str, Any]] = []
    for tokens in TOKENS:
        given = {
            name: (torch.randn(tokens, width).to(dtype), torch.randn(inner, width).to(dtype))
            for name in TYPES
            for dtype in [getattr(torch, name)]
        }
        took: dict[str, list[float]] = {name: [] for name in TYPES}
        for _ in range(turns + 1):  # the first turn of each prepares the kernels
            for name, (states, weights) in given.items():
                took[name].append(seconds(states, weights))
        flops = 2 * tokens * width * inner
        rates = {name: flops / median(times[1:]) / 1e9 for name, times in took.items()}
        rows.append({"tokens": tokens, **rates, "ratio": rates["float32"] / rates["bfloat16"]})
    print("| tokens | float32, GFLOP/s | bfloat16, GFLOP/s | ratio |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['tokens']} | {row['float32']:.0f} | {row['bfloat16']:.0f} | {row['ratio']:.1f} |")
    print(f"`gra` computes bfloat16 weights here in {'bfloat16' if cpu_computes_bfloat16() else 'float32'}.")
    if json_file is not None:
        write_json(json_file, {"rows": rows, "computes_bfloat16": cpu_computes_bfloat16()})


if __name__ == "__main__":
    typer.run(main)
