"""What the broker and the ledger cost, without any model: calls per second, memory, and the way back into a run.

Run as: python benchmarks/broker.py [--calls N] [--candidates N] [--json FILE]
Takes about N = 100,000 candidates times 4 ms twice; leave the machine alone meanwhile.

- scripted: broker and durable ledger (synchronous=FULL) on an engine that answers at once.
- http: the same through the OpenAI-compatible engine to a local server that answers at once, in a process of its own;
  `bare` is the HTTP client alone, without broker and ledger.
- memory: whole stories in one round; peak resident memory of the process, its slope, and what that makes of a million.
- resume: a recorded run of so many candidates is opened again; seconds from opening the ledger to the first new call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, TypeVar

import scripted_committee
import typer

from gra.core.ledger import Ledger
from gra.core.manifest import write_json
from gra.core.records import Candidate
from gra.engines.broker import Broker, EnginePool
from gra.engines.openai import OpenAIEngine, ServerSettings
from gra.engines.protocol import Answer, Call, Completion, Engine, Json, ModelId, SamplingSettings, Text
from gra.engines.scripted import ScriptedEngine
from gra.synthesis.reviewer import score_schema
from gra.synthesis.rounds import Round
from gra.synthesis.story import candidate_id

T = TypeVar("T")
MODEL = ModelId("model-a", "sha256:a", "t")
SAMPLING = SamplingSettings(0.7, 0.95, 1.0, 256)
PROMPT = "Review the answer strictly. " + "An exercise and an answer of ordinary length. " * 30
AT_ONCE = 256
IN_FLIGHT = 40


def call(number: int, output: Text | Json) -> Call:
    name = candidate_id(1, number)
    messages = (("user", f"{PROMPT}{number}"),)
    return Call(MODEL, messages, output, SAMPLING, role="reviewer", candidate=name, member="a")


async def ask_all(broker: Broker, calls: int, output: Text | Json) -> float:
    """Calls per second with so many in flight at all times."""
    numbers = iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            outcome = await broker.ask(call(number, output))
            assert isinstance(outcome, Answer), outcome

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return calls / (time.perf_counter() - begun)


async def on(engine: Engine, calls: int, output: Text | Json) -> float:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite", "benchmark")
        try:
            await engine.start()
            rate = await ask_all(Broker(ledger, EnginePool({"model-a": engine}, 100.0)), calls, output)
            assert sum(1 for _ in ledger.answers()) == calls
            return rate
        finally:
            await engine.park()
            ledger.close()


def scripted(calls: int) -> dict[str, float]:
    """Calls per second on a scripted engine: a text, and a review by JSON schema."""
    review = score_schema(comment=True)
    kinds: dict[str, Text | Json] = {"text": Text(), "review": review}
    return {
        kind: asyncio.run(on(ScriptedEngine("model-a", scripted_committee.answer, concurrency=AT_ONCE), calls, output))
        for kind, output in kinds.items()
    }


def http(calls: int) -> dict[str, float]:
    """Calls per second over HTTP to a server that answers at once."""
    command = [sys.executable, str(Path(__file__).parent / "instant_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        settings = ServerSettings(f"http://127.0.0.1:{server.stdout.readline().strip()}/v1", "model-a", None, 64)
        try:
            return {"bare": asyncio.run(bare(settings, calls)), "text": asyncio.run(over_http(settings, calls))}
        finally:
            server.kill()


async def over_http(settings: ServerSettings, calls: int) -> float:
    return await on(OpenAIEngine("model-a", settings), calls, Text())


async def bare(settings: ServerSettings, calls: int) -> float:
    import aiohttp

    numbers = iter(range(calls))
    async with aiohttp.ClientSession() as session:

        async def worker() -> None:
            for number in numbers:
                body = json.dumps({"model": "model-a", "messages": [{"role": "user", "content": f"{PROMPT}{number}"}]})
                async with session.post(f"{settings.base_url}/chat/completions", data=body) as response:
                    json.loads(await response.read())

        begun = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(settings.concurrency)))
        return calls / (time.perf_counter() - begun)


def engines(script: Callable[[Call], Completion]) -> EnginePool:
    return EnginePool({f"model-{n}": ScriptedEngine(f"model-{n}", script) for n in "abcde"}, 100.0)


def resident_mb() -> float:
    """Resident memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def tell(path: Path, candidates: int, script: Callable[[Call], Completion], on_end: Callable[[Candidate], None]):
    recipe = scripted_committee.recipe(candidates, accept=candidates)
    ledger = Ledger(path, "benchmark")
    try:
        broker = Broker(ledger, engines(script))
        setting, pool = scripted_committee.setting(recipe), scripted_committee.pool()
        round_ = Round(setting, broker, ledger, pool, scripted_committee.Embedder(), 1, IN_FLIGHT)
        return await round_._tell({}, on_end)
    finally:
        ledger.close()


def memory(path: Path, candidates: int) -> dict[str, float]:
    """Resident memory while stories are told; the second half of the run gives the slope."""
    seen: list[tuple[int, float]] = []
    count = 0

    def note(_: Candidate) -> None:
        nonlocal count
        count += 1
        if count % max(1, candidates // 20) == 0:
            seen.append((count, resident_mb()))

    begun = time.perf_counter()
    asyncio.run(tell(path, candidates, scripted_committee.answer, note))
    (from_, low), (to, high) = seen[len(seen) // 2], seen[-1]
    slope = (high - low) / (to - from_)
    return {
        "candidates": candidates,
        "seconds": time.perf_counter() - begun,
        "peak_mb": high,
        "kb_per_candidate": 1000 * slope,
        "million_mb": high + slope * (1_000_000 - candidates),
    }


class FirstCall(Exception):
    """The run has come back to where it stopped."""


def resume(path: Path, candidates: int) -> dict[str, float]:
    """Seconds from opening the ledger of a recorded run to the first call that it does not answer."""

    def stop(_: Call) -> Completion:
        raise FirstCall

    begun = time.perf_counter()
    with contextlib.suppress(FirstCall):
        asyncio.run(tell(path, 2 * candidates, stop, lambda _: None))
    return {"candidates": candidates, "seconds": time.perf_counter() - begun, "ledger_mb": path.stat().st_size / 1e6}


def alone(work: Callable[..., T], *arguments: Any) -> T:
    """In a fresh process, so that no measurement stands on the memory of another."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def main(
    calls: Annotated[int, typer.Option()] = 30_000,
    candidates: Annotated[int, typer.Option()] = 100_000,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one table."""
    found: dict[str, Any] = {"scripted": alone(scripted, calls), "http": alone(http, calls)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        found |= {"memory": alone(memory, path, candidates), "resume": alone(resume, path, candidates)}
    print("| what | found |\n|---|---|")
    print(f"| scripted engine, text | {found['scripted']['text']:,.0f} calls/s |")
    print(f"| scripted engine, review by JSON schema | {found['scripted']['review']:,.0f} calls/s |")
    print(f"| HTTP, text | {found['http']['text']:,.0f} calls/s (bare client {found['http']['bare']:,.0f}) |")
    m, r = found["memory"], found["resume"]
    print(f"| {candidates:,} candidates in one round | {candidates / m['seconds']:,.0f}/s, {m['peak_mb']:,.0f} MB |")
    print(f"| memory a candidate | {m['kb_per_candidate']:.2f} kB, a million: {m['million_mb']:,.0f} MB |")
    print(f"| resume to the first new call | {r['seconds']:.1f} s (ledger {r['ledger_mb']:,.0f} MB) |")
    if json_file:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
        write_json(json_file, found | {"calls": calls, "machine": machine})


if __name__ == "__main__":
    typer.run(main)
