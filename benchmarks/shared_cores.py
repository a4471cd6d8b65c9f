"""Measure engines that share CPU cores: computing at once or in turns, with long steps or short ones.

Run as: python benchmarks/shared_cores.py [--large MODEL] [--small MODEL] [--seconds 60] [--json FILE]

Callers ask for texts and likelihoods in turns, each a new prompt, and ask again when they are answered. First the large
model works alone, then both do. Work is in billions of parameters x tokens (read, not from the cache, and written) a
second. `in turns` is gra/engines/vllm/core_turns.py. A step is what vLLM computes at once (`max_num_batched_tokens`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.core.files import write_json
from gra.engines.types import Call, Completion, Likelihood, ModelId, SamplingSettings, Text
from gra.engines.vllm.core_turns import cores_file
from gra.engines.vllm.engine import VllmEngine, VllmSettings
from gra.models.catalog import resolve

TALE = "The cat sat on the mat and looked at the moon for a while, until the {i}th star was there. "
SIZES = {"qwen2.5-coder-1.5b-instruct": 1.54, "qwen2.5-coder-0.5b-instruct": 0.49, "smollm2-135m-instruct": 0.135}
WAYS = ((0, False), (0, True), (256, False), (256, True))  # tokens a step (0: vLLM's own), in turns


def make_call(name: str, number: int) -> Call:
    """Return a request for a text, or for the likelihood of one."""
    words = f"{number} is a number. Write a tale about it."
    output = Likelihood(TALE.format(i=number) * 4) if number % 3 else Text()
    return Call(ModelId(name, name, ""), (("user", words),), output, SamplingSettings(0.6, 1.0, 1.0, 64))


async def work(engines: list[VllmEngine], seconds: float, callers: int, numbers: Any) -> dict[str, tuple[float, float]]:
    """Return the tokens that each engine read and wrote a second."""
    counts = {engine.name: [0, 0] for engine in engines}
    ends = time.monotonic() + seconds

    async def ask(engine: VllmEngine) -> None:
        while time.monotonic() < ends:
            reply = await engine.submit(make_call(engine.name, next(numbers)))
            if isinstance(reply, Completion) and time.monotonic() < ends:
                counts[engine.name][0] += reply.prompt_tokens - reply.cached_tokens
                counts[engine.name][1] += reply.completion_tokens

    await asyncio.gather(*(ask(engine) for engine in engines for _ in range(callers)))
    return {name: (read / seconds, written / seconds) for name, (read, written) in counts.items()}


async def measure(
    names: list[str], step_tokens: int, turns: bool, seconds: float, callers: int, logs: Path
) -> list[dict[str, Any]]:
    """Start both engines in one way, and return the rates of the large one alone and of both."""
    engines = []
    for name in names:
        settings = VllmSettings(resolve(name).path, 2048, 0.5, len(os.sched_getaffinity(0)), 32)
        settings = replace(settings, step_tokens=step_tokens, cores_file=str(cores_file()) if turns else "")
        engines.append(VllmEngine(name, settings, memory_gb=8.0, log_file=logs / f"{name}.log"))
    await asyncio.gather(*(engine.start() for engine in engines))
    rows: list[dict[str, Any]] = []
    numbers = itertools.count(1)
    try:
        for busy in (engines[:1], engines):
            await work(busy, 10.0, 8, numbers)  # kernels are prepared
            rates = await work(busy, seconds, callers, numbers)
            total = sum(SIZES[name] * sum(rate) for name, rate in rates.items())
            rows.append({"step": step_tokens, "turns": turns, "busy": len(busy), "rates": rates, "work": total})
    finally:
        await asyncio.gather(*(engine.unload() for engine in engines))
    return rows


def main(
    large: Annotated[str, typer.Option()] = "qwen2.5-coder-1.5b-instruct",
    small: Annotated[str, typer.Option()] = "qwen2.5-coder-0.5b-instruct",
    seconds: Annotated[float, typer.Option(help="of each measurement")] = 60.0,
    callers: Annotated[int, typer.Option(help="of each engine")] = 48,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the rows to FILE")] = None,
) -> None:
    """Print the rates of every way."""
    found = []
    print("| step, tokens | in turns | busy | large: read, written/s | small: read, written/s | work |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as logs:
        for step, turns in WAYS:
            for row in asyncio.run(measure([large, small], step, turns, seconds, callers, Path(logs))):
                found.append(row)
                shown = [f"{r[0]:.1f}, {r[1]:.1f}" for r in row["rates"].values()] + [""]
                print(
                    f"| {step or 'as vLLM'} | {turns} | {row['busy']} | {shown[0]} | {shown[1]} | {row['work']:.1f} |",
                    flush=True,
                )
    if json_file is not None:
        write_json(json_file, {"rows": found})


if __name__ == "__main__":
    typer.run(main)
