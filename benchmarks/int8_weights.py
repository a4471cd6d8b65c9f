"""Compare a model's 8-bit weights with its own on a CPU: rates, greedy answers, sizes.

Run as: python benchmarks/int8_weights.py [MODEL] [--turns 2] [--batch 16] [--json FILE]

Both kinds of weights are served in turns, each time by a fresh vLLM engine. Greedy answers are compared word by word.
Their likelihood by the other weights says more than the first word that differs.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from itertools import takewhile
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from gra.core.files import write_json
from gra.engines.types import Call, Completion, Likelihood, ModelId, Output, SamplingSettings, Text
from gra.engines.vllm.engine import VllmEngine, VllmSettings
from gra.models.catalog import ResolvedModel, resolve
from gra.models.int8 import int8_model
from gra.serving.models import weights_gb

QUESTIONS = [
    "What is the capital of France?",
    "How many legs do three spiders have?",
    "Write a Python function that adds two numbers.",
    "Name the four seasons.",
    "What is 17 times 6?",
    "Explain in one sentence what a compiler does.",
    "Give the plural of the word mouse.",
    "Which planet is closest to the sun?",
    "Write a SQL query that counts the rows of the table users.",
    "Is 91 a prime number?",
    "Translate the word water into French.",
    "What does the HTTP status 404 mean?",
    "Write a regular expression that matches a year of four digits.",
    "Who wrote Romeo and Juliet?",
    "A train goes 120 km in 2 hours. What is its speed?",
    "What is the opposite of early?",
    "Write a Python list of the first five square numbers.",
    "What is the boiling point of water in degrees Celsius?",
    "Explain in one sentence what an index of a database is for.",
    "Sort these numbers: 9, 2, 7, 4.",
]
TEXT = "The cat sat on the mat and looked at the moon for a while. " * 16
GREEDY = SamplingSettings(0.0, 1.0, 1.0, 96)


async def serve(model: ResolvedModel, batch: int, answers: list[str] | None, logs: Path) -> dict[str, Any]:
    """Return the rates of one model in tokens per second, its greedy answers, and the likelihood of given answers."""
    settings = VllmSettings(model.path, 2048, 0.5, len(os.sched_getaffinity(0)), batch)
    engine = VllmEngine(model.name, settings, memory_gb=4.0, log_file=logs / "engine.log")
    name = ModelId(model.name, model.identity, "")

    async def ask(prompts: list[str], outputs: list[Output]) -> tuple[list[Completion], float]:
        begun = time.monotonic()
        calls = [Call(name, (("user", p),), o, GREEDY) for p, o in zip(prompts, outputs, strict=True)]
        replies = await asyncio.gather(*map(engine.submit, calls))
        done = [reply for reply in replies if isinstance(reply, Completion)]
        assert len(done) == len(calls), replies
        return done, time.monotonic() - begun

    await engine.start()
    try:
        wrote, writing_s = await ask(QUESTIONS, [Text()] * len(QUESTIONS))
        read, reading_s = await ask([f"{i} {TEXT}" for i in range(len(QUESTIONS))], [Likelihood("Yes.")] * 20)
        given, _ = await ask(QUESTIONS, [Likelihood(a) for a in answers or [c.text for c in wrote]])
    finally:
        await engine.unload()
    return {
        "weights": model.weights or "bfloat16",
        "gb": weights_gb(model.path, on_gpu=False),
        "started_s": engine.stats.started_in,
        "written_per_s": sum(c.completion_tokens for c in wrote) / writing_s,
        "read_per_s": sum(c.prompt_tokens - c.cached_tokens for c in read) / reading_s,
        "answers": [c.text for c in wrote],
        "nats_a_token": sum(c.scores["logprob"] for c in given) / sum(c.scores["tokens"] for c in given),
    }


def agreement(one: list[str], other: list[str]) -> tuple[int, float]:
    """Return how many texts are equal, and the mean share of words before the first that differs."""
    shares = []
    for a, b in zip(one, other, strict=True):
        words = a.split(), b.split()
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*words, strict=False)))
        shares.append(same / max(1, *map(len, words)))
    return sum(a == b for a, b in zip(one, other, strict=True)), mean(shares)


def main(
    model: Annotated[str, typer.Argument()] = "qwen2.5-coder-0.5b-instruct",
    turns: int = 2,
    batch: int = 16,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure in turns and print a table; the likelihood is that of the greedy answers by the model's own weights."""
    own = resolve(model)
    begun = time.monotonic()
    eight = int8_model(own, print)
    print(f"int8 weights ready after {time.monotonic() - begun:.1f} s\n")
    print("| weights | GB | start s | tokens written/s | tokens read/s | nats a token |\n|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as logs:
        for _ in range(turns):
            for served in (own, eight):
                answers = rows[0]["answers"] if rows else None
                row = asyncio.run(serve(served, batch, answers, Path(logs)))
                rows.append(row)
                print(
                    f"| {row['weights']} | {row['gb']:.2f} | {row['started_s']:.0f} | {row['written_per_s']:.0f} | "
                    f"{row['read_per_s']:.0f} | {row['nats_a_token']:.3f} |",
                    flush=True,
                )
    equal, share = agreement(rows[0]["answers"], rows[1]["answers"])
    print(f"\n{equal} of {len(QUESTIONS)} greedy answers are equal; {share:.0%} of the words come before a difference")
    if turns > 1:
        equal, share = agreement(rows[0]["answers"], rows[2]["answers"])
        print(f"of two turns with the model's own weights: {equal} are equal, {share:.0%} of the words")
    if json_file:
        write_json(json_file, {"rows": rows, "cpus": os.cpu_count()})


if __name__ == "__main__":
    typer.run(main)
