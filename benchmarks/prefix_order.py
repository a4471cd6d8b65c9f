"""Measure the order of an engine's queue: the share of prompt tokens from the prefix cache, and the time.

Run as: python benchmarks/prefix_order.py [MODEL] [--candidates 40] [--kv-gb 0.1] [--json FILE]
Takes two to five minutes on two cores.

Reviewers ask six questions about each candidate, in prompts that begin with the candidate. The calls of many candidates
arrive shuffled, as after a swap of models. They go to a fresh vLLM engine whose cache holds a part of them. One pass is
in the order of arrival, the other through the queue of the broker.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.core.files import write_json
from gra.engines.broker import EnginePool
from gra.engines.types import Call, Choice, Completion, ModelId, SamplingSettings
from gra.engines.vllm.engine import VllmEngine, VllmSettings
from gra.models.catalog import resolve

WORDS = ("river", "stone", "winter", "letter", "garden", "engine", "market", "silver", "window", "border", "copper")
DIMENSIONS = ("clear", "correct", "complete", "useful", "honest", "short")
SAMPLING = SamplingSettings(0.0, 1.0, 1.0, 1)
CONCURRENCY = 8


def calls(model: str, candidates: int) -> list[Call]:
    luck = random.Random(0)
    asked = []
    for number in range(candidates):
        text = " ".join(luck.choices(WORDS, k=180))
        for dimension in DIMENSIONS:
            prompt = f"Exercise {number}: {text}\n\nIs this {dimension}? Reply with one word, yes or no."
            asked.append(Call(ModelId(model, model, ""), (("user", prompt),), Choice(("yes", "no")), SAMPLING))
    luck.shuffle(asked)
    return asked


async def measure(model: str, candidates: int, kv_gb: float, ordered: bool) -> dict[str, Any]:
    """One fresh engine, every call once."""
    with tempfile.TemporaryDirectory() as logs:
        threads = len(os.sched_getaffinity(0))
        settings = VllmSettings(resolve(model).path, 1024, kv_gb, threads, CONCURRENCY)
        engine = VllmEngine(model, settings, memory_gb=1.0, log_file=Path(logs) / "engine.log")
        pool, as_they_come = EnginePool({model: engine}, 1.0), asyncio.Semaphore(CONCURRENCY)
        await pool.swapper.warm()

        async def ask(call: Call) -> Completion:
            async with pool.turn(call) if ordered else as_they_come:
                reply = await engine.submit(call)
            assert isinstance(reply, Completion), reply
            return reply

        try:
            begun = time.monotonic()
            replies = await asyncio.gather(*map(ask, calls(model, candidates)))
            seconds = time.monotonic() - begun
        finally:
            await pool.swapper.close()
    read, cached = sum(r.prompt_tokens for r in replies), sum(r.cached_tokens for r in replies)
    return {"order": "by prefix" if ordered else "as they come", "calls": len(replies), "prompt_tokens": read,
            "cached_share": cached / read, "seconds": seconds}  # fmt: skip


def main(
    model: str = "smollm2-135m-instruct",
    candidates: int = 40,
    kv_gb: float = 0.1,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one table."""
    rows = [asyncio.run(measure(model, candidates, kv_gb, ordered)) for ordered in (False, True)]
    print("| order | calls | prompt tokens | from the cache | s |\n|---|---|---|---|---|")
    for row in rows:
        share, seconds = f"{row['cached_share']:.0%}", f"{row['seconds']:.1f}"
        print(f"| {row['order']} | {row['calls']} | {row['prompt_tokens']:,} | {share} | {seconds} |")
    if json_file:
        write_json(json_file, {"model": model, "kv_gb": kv_gb, "rows": rows, "cpus": os.cpu_count()})


if __name__ == "__main__":
    typer.run(main)
