"""Measure how fast this machine serves a model: text with and without top_p, JSON, labels, likelihood.

Run as: python benchmarks/engine_rates.py [MODEL ...] [--batch 32] [--json FILE]

Each row is one batch of calls to a fresh vLLM engine with the settings of a synthesis. The prompts of one
kind differ from their first words on. So little comes from the prefix cache.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.core.files import write_json
from gra.engines.types import Call, Choice, Completion, Json, Likelihood, ModelId, Output, SamplingSettings, Text
from gra.engines.vllm.engine import VllmEngine, VllmSettings
from gra.models.catalog import resolve

TALE = "The cat sat on the mat and looked at the moon for a while. " * 8
SCHEMA = {"type": "object", "properties": {"tale": {"type": "string", "minLength": 200}}, "required": ["tale"]}
KINDS: list[tuple[str, Output, float, str]] = [
    ("text, top_p 0.95", Text(), 0.95, "{i} is a number. Write a tale about it."),
    ("text, top_p 1", Text(), 1.0, "{i} is a number. Write a tale about it."),
    ("JSON by grammar", Json(SCHEMA), 1.0, "{i} is a number. Write a tale about it."),
    ("yes or no", Choice(("yes", "no")), 1.0, "{i} " + TALE + "Is this long? Reply with one word, yes or no."),
    ("likelihood", Likelihood(TALE), 1.0, "{i} is a number. Write a tale about a cat."),
]


async def measure(name: str, batch: int, logs: Path) -> list[dict[str, Any]]:
    """Return the rates of one model, in tokens per second, and the seconds that its engine took to start."""
    settings = VllmSettings(resolve(name).path, 2048, 0.5, len(os.sched_getaffinity(0)), batch)
    engine = VllmEngine(name, settings, memory_gb=4.0, log_file=logs / "engine.log")
    await engine.start()
    rows = []
    try:
        for label, output, top_p, prompt in KINDS:
            sampling = SamplingSettings(0.6, top_p, 1.0, 64)
            calls = [
                Call(ModelId(name, name, ""), (("user", prompt.format(i=i)),), output, sampling) for i in range(batch)
            ]
            begun = time.monotonic()
            replies = [r for r in await asyncio.gather(*map(engine.submit, calls)) if isinstance(r, Completion)]
            seconds = time.monotonic() - begun
            assert len(replies) == batch
            read = sum(r.prompt_tokens - r.cached_tokens for r in replies)
            written = sum(r.completion_tokens for r in replies)
            rows.append(
                {"model": name, "started_s": engine.stats.started_in, "kind": label, "calls": batch, "seconds": seconds,
                 "read_per_s": read / seconds, "written_per_s": written / seconds}
            )  # fmt: skip
    finally:
        await engine.unload()
    return rows


def main(
    models: Annotated[list[str] | None, typer.Argument()] = None,
    batch: int = 32,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one table."""
    rows = []
    print("| model | start s | asked for | s | tokens read/s | tokens written/s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as logs:
        for name in models or ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"]:
            for row in asyncio.run(measure(name, batch, Path(logs))):
                rows.append(row)
                print(
                    f"| {name} | {row['started_s']:.0f} | {row['kind']} | {row['seconds']:.1f} | "
                    f"{row['read_per_s']:.0f} | {row['written_per_s']:.0f} |",
                    flush=True,
                )
    if json_file:
        write_json(json_file, {"rows": rows, "cpus": os.cpu_count()})


if __name__ == "__main__":
    typer.run(main)
