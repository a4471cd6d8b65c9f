"""Measure engines that share CPU cores: computing at once or in turns, with long steps or short ones.

Run as: python benchmarks/shared_cores.py [--large MODEL] [--small MODEL] [--calls 24] [--json FILE]

Fixed work is given to the large model alone, and then to both models. Two of three calls ask for the likelihood of a
text, and one for a new text. Every prompt is new. The time is that until the last answer. Work is in billions of
parameters x tokens (read, not from the cache, and written) a second. `in turns` is gra/engines/vllm/core_turns.py. A
step is what vLLM computes at once (`max_num_batched_tokens`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.core.files import write_json
from gra.engines.types import Call, Completion, Likelihood, ModelId, SamplingSettings, Text
from gra.engines.vllm.core_turns import STEP_TOKENS, cores_file
from gra.engines.vllm.engine import VllmEngine, VllmSettings
from gra.models.catalog import resolve

TALE = "The cat sat on the mat and looked at the moon for a while, until the {i}th star was there. "
SIZES = {"qwen2.5-coder-1.5b-instruct": 1.54, "qwen2.5-coder-0.5b-instruct": 0.49, "smollm2-135m-instruct": 0.135}
WAYS = ((0, False), (0, True), (STEP_TOKENS, False), (STEP_TOKENS, True))  # tokens a step (0: vLLM's own), in turns


def make_call(name: str, number: int) -> Call:
    """Return a request for a text, or for the likelihood of one."""
    words = f"{number} is a number. Write a tale about it."
    output = Likelihood(TALE.format(i=number) * 4) if number % 3 else Text()
    return Call(ModelId(name, name, ""), (("user", words),), output, SamplingSettings(0.6, 1.0, 1.0, 64))


async def work(shares: dict[VllmEngine, int], numbers: Iterator[int]) -> dict[str, Any]:
    """Give each engine its share of calls at once; return the seconds until the last answer, and the work."""
    begun = time.monotonic()
    calls = [(engine, make_call(engine.name, next(numbers))) for engine, count in shares.items() for _ in range(count)]
    replies = await asyncio.gather(*(engine.submit(call) for engine, call in calls))
    seconds, tokens = time.monotonic() - begun, Counter[str]()
    for (engine, _), reply in zip(calls, replies, strict=True):
        assert isinstance(reply, Completion), reply
        tokens[engine.name] += reply.prompt_tokens - reply.cached_tokens + reply.completion_tokens
    return {"seconds": seconds, "work": sum(SIZES[name] * count for name, count in tokens.items()) / seconds}


async def measure(names: list[str], step_tokens: int, turns: bool, calls: int, logs: Path) -> list[dict[str, Any]]:
    """Start both engines in one way, and return the work of the large one alone and of both."""
    engines = []
    for name in names:
        settings = VllmSettings(resolve(name).path, 2048, 0.5, len(os.sched_getaffinity(0)), 32)
        settings = replace(settings, step_tokens=step_tokens, cores_file=str(cores_file()) if turns else "")
        engines.append(VllmEngine(name, settings, memory_gb=8.0, log_file=logs / f"{name}.log"))
    await asyncio.gather(*(engine.start() for engine in engines))
    large, small = engines
    more = round(calls * SIZES[large.name] / SIZES[small.name])  # as much work as the large one has
    numbers = itertools.count(1)
    rows: list[dict[str, Any]] = []
    try:
        await work({large: 4, small: 4}, numbers)  # prepares the kernels
        for busy, shares in (("large", {large: calls}), ("both", {large: calls, small: more})):
            rows.append({"step": step_tokens, "turns": turns, "busy": busy} | await work(shares, numbers))
    finally:
        await asyncio.gather(*(engine.unload() for engine in engines))
    return rows


def main(
    large: Annotated[str, typer.Option()] = "qwen2.5-coder-1.5b-instruct",
    small: Annotated[str, typer.Option()] = "qwen2.5-coder-0.5b-instruct",
    calls: Annotated[int, typer.Option(help="of the large model")] = 24,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the rows to FILE")] = None,
) -> None:
    """Print the work that is done in every way."""
    found = []
    print("| step, tokens | in turns | busy | seconds | work a second |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as logs:
        for step, turns in WAYS:
            for row in asyncio.run(measure([large, small], step, turns, calls, Path(logs))):
                found.append(row)
                shown = f"{step or 'as vLLM'} | {'yes' if turns else 'no'} | {row['busy']}"
                print(f"| {shown} | {row['seconds']:.0f} | {row['work']:.1f} |", flush=True)
    if json_file is not None:
        write_json(json_file, {"rows": found})


if __name__ == "__main__":
    typer.run(main)
