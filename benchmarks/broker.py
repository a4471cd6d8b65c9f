"""Measure broker and ledger without any model: calls per second, memory, and the time to resume a run.

Run as: python benchmarks/broker.py [--only PART] [--calls N] [--finished N] [--recorded N] [--json F]
Leave the machine alone meanwhile. Further options: --many N, --rows N.

- scripted: Broker and durable ledger (synchronous=FULL) on an engine that answers at once.
- http: The same through the OpenAI-compatible engine to a local server in a process of its own. It answers at once.
  `bare` is the HTTP client alone, without broker and ledger.
- memory: Whole candidates in one round; peak resident memory of the process and its slope.
- many: A round of recorded candidates is decided, counted and exported, without calls. Resident memory is shown with
  the private part of it. The rest are pages of files, which the system may take back.
- resume: A ledger with many candidates (and eleven short answers each) is opened; seconds to the first new call.
- dedup: Many rows that are all different arrive at a round's dedup; seconds until the last one is accepted.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, TypeVar

import scripted_committee
import typer
from dedup import Memory

from gra.core.files import write_json
from gra.core.types import DIMENSIONS
from gra.data.dedup.incremental import IncrementalDedup
from gra.data.export import export
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.openai_server.engine import OpenAIEngine, ServerSettings
from gra.engines.types import Answer, Call, Completion, Engine, Json, ModelId, SamplingSettings, Text
from gra.ledger.ledger import Ledger
from gra.ledger.schema import seal_verdict
from gra.synthesis.candidate import candidate_id
from gra.synthesis.committee.reviewer import score_schema
from gra.synthesis.records import RecordedCandidates
from gra.synthesis.rounds.round import Round
from gra.synthesis.summary import CandidateCounts

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
    """Return calls per second with 256 in flight at all times."""
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
            await engine.unload()
            ledger.close()


def scripted(calls: int) -> dict[str, float]:
    """Return calls per second on a scripted engine: a text, and a review by JSON schema."""
    review = score_schema(DIMENSIONS, comment=True)
    kinds: dict[str, Text | Json] = {"text": Text(), "review": review}
    return {
        kind: asyncio.run(on(MockEngine("model-a", scripted_committee.answer, concurrency=AT_ONCE), calls, output))
        for kind, output in kinds.items()
    }


def http(calls: int) -> dict[str, float]:
    """Return calls per second over HTTP to a server that answers at once."""
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
    return EnginePool({f"model-{n}": MockEngine(f"model-{n}", script) for n in "abcde"}, 100.0)


def resident_mb() -> float:
    """Return the resident memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def run_round(
    path: Path, candidates: int, script: Callable[[Call], Completion], on_end: Callable[[], None]
) -> RecordedCandidates:
    """Run one round to its end."""
    ledger = Ledger(path, "benchmark")
    try:
        return (await make_round(ledger, candidates, script).run(lambda ended, recorded: on_end())).candidates
    finally:
        ledger.close()


def make_round(ledger: Ledger, candidates: int, script: Callable[[Call], Completion]) -> Round:
    recipe = scripted_committee.recipe(candidates, accept=candidates)
    setting, pool = scripted_committee.setting(recipe), scripted_committee.pool()
    return Round(setting, Broker(ledger, engines(script)), ledger, pool, scripted_committee.Embedder(), 1, IN_FLIGHT)


def memory(path: Path, candidates: int) -> dict[str, float]:
    """Return the resident memory of a round; the second half of the run gives the slope."""
    seen: list[tuple[int, float]] = []
    count = 0

    def note() -> None:
        nonlocal count
        count += 1
        if count % max(1, candidates // 20) == 0:
            seen.append((count, resident_mb()))

    begun = time.perf_counter()
    asyncio.run(run_round(path, candidates, scripted_committee.answer, note))
    (from_, low), (to, high) = seen[len(seen) // 2], seen[-1]
    return {
        "candidates": candidates,
        "seconds": time.perf_counter() - begun,
        "finished_mb": high,
        "kb_per_candidate": 1000 * (high - low) / (to - from_),
        "peak_mb": peak_mb(),
    }


def finish(folder: Path, candidates: int) -> dict[str, float]:
    """Decide, count and export a round whose candidates are all recorded; return seconds and peak memory."""
    path = folder / "many.sqlite"
    write_ledger(path, candidates)
    ledger = Ledger(path, "benchmark")
    with Memory() as memory:
        begun = time.perf_counter()
        result = asyncio.run(make_round(ledger, candidates, no_answer).run(lambda ended, recorded: None))
        decided = time.perf_counter() - begun
        tally = CandidateCounts()
        for candidate in result.candidates:
            tally.add(candidate)
        counted = time.perf_counter() - begun - decided
        facts = {"name": "many", "arm": "gra", "models": [], "shared_weights": {}, "seeds": "", "reviewers": [],
                 "committee_auc": None, "prompts": {}}  # fmt: skip
        export(folder, result.candidates, tally.facts() | facts)
        exported = time.perf_counter() - begun - decided - counted
    ledger.close()
    return {"candidates": candidates, "rows": result.rows.total(), "decided_s": decided, "counted_s": counted,
            "exported_s": exported, "peak_mb": memory.resident * 2**30 / 1e6,
            "own_mb": memory.own * 2**30 / 1e6, "ledger_mb": path.stat().st_size / 1e6}  # fmt: skip


class FirstCall(Exception):
    """Stop at the first call that the ledger does not answer."""


def no_answer(call: Call) -> Completion:
    raise FirstCall


def resume(folder: Path, candidates: int) -> dict[str, float]:
    """Return the seconds from opening the ledger of a recorded run to the first call that it does not answer."""
    path = folder / "resumed.sqlite"
    write_ledger(path, candidates)
    begun = time.perf_counter()
    with contextlib.suppress(FirstCall):
        asyncio.run(run_round(path, 2 * candidates, no_answer, lambda: None))
    return {"candidates": candidates, "seconds": time.perf_counter() - begun, "ledger_mb": path.stat().st_size / 1e6}


_ANSWERS = """
INSERT INTO calls SELECT NULL, c.run, hex(randomblob(32)), c.role, c.member, c.model, v.candidate, c.attempt, '', '',
c.finish, '{}', c.prompt_tokens, c.completion_tokens, c.cached_tokens, c.seconds, 0, 0.0
FROM verdicts v, (SELECT * FROM calls WHERE candidate = (SELECT candidate FROM calls GROUP BY 1 ORDER BY COUNT(*) DESC))
c
"""


def write_ledger(path: Path, count: int) -> None:
    """Write a ledger with verdicts on many candidates: copies of a few finished ones, with texts of their own.

    Each has as many answers as the longest candidate, without texts, which neither resuming nor accounts read.
    """
    asyncio.run(run_round(path, 200, scripted_committee.answer, lambda: None))
    ledger = Ledger(path, "benchmark")
    made = make_round(ledger, count, no_answer)
    finished = [record for _, record in ledger.candidate_records(candidate_id(1, 0), candidate_id(1, 199), made._scope)]
    by_domain = {name: [s for s in finished if s["domain"] == name] for name in scripted_committee.DOMAINS}

    def rows() -> Iterator[tuple[Any, ...]]:
        for index in range(count):
            name, fitting = candidate_id(1, index), by_domain[made._domain(index)]
            record = dict(fitting[index % len(fitting)], id=name, index=index)
            record["instruction"] = f"{record['instruction']} {index}"
            text = json.dumps({"scope": made._scope, "story": record})
            yield "benchmark", name, text, 0.0, seal_verdict("benchmark", name, text)

    ledger._db.execute("PRAGMA synchronous=OFF")
    ledger._db.execute("BEGIN")
    ledger._db.execute("DELETE FROM verdicts")
    ledger._db.executemany("INSERT INTO verdicts (run, candidate, story, written, seal) VALUES (?, ?, ?, ?, ?)", rows())
    ledger._db.execute(_ANSWERS)
    ledger._db.execute("COMMIT")
    ledger.close()


def dedup(rows: int) -> dict[str, float]:
    """Return the seconds until rows that are all different have arrived one by one."""
    import numpy as np

    vectors = scripted_committee.Embedder().encode([f"row {n}" for n in range(rows)])
    arrivals = IncrementalDedup(np.empty((0, vectors.shape[1]), np.float32), [], 0.9)
    begun = time.perf_counter()
    for kept in arrivals.arrive(vectors, [8.0] * rows, [f"row {n}" for n in range(rows)]):
        assert kept.any()
    return {"rows": rows, "seconds": time.perf_counter() - begun}


def peak_mb() -> float:
    """Return the peak resident memory, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def alone(work: Callable[..., T], *arguments: Any) -> T:
    """Run in a fresh process, so that no measurement includes the memory of another."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def main(
    calls: Annotated[int, typer.Option()] = 30_000,
    finished: Annotated[int, typer.Option()] = 30_000,
    recorded: Annotated[int, typer.Option()] = 100_000,
    many: Annotated[int, typer.Option()] = 1_000_000,
    rows: Annotated[int, typer.Option()] = 10_000,
    only: Annotated[str | None, typer.Option(help="calls, memory, resume, many or dedup")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one table."""
    if only not in (None, "calls", "memory", "resume", "many", "dedup"):
        raise typer.BadParameter(f"`--only {only}` is no part; see --help")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if only in (None, "calls"):
            found |= {"scripted": alone(scripted, calls), "http": alone(http, calls)}
        if only in (None, "memory"):
            found["memory"] = alone(memory, folder / "finished.sqlite", finished)
        if only in (None, "resume"):
            found["resume"] = alone(resume, folder, recorded)
        if only in (None, "many"):
            found["many"] = alone(finish, folder, many)
        if only in (None, "dedup"):
            found["dedup"] = alone(dedup, rows)
    print("| what | found |\n|---|---|")
    for line in table(found):
        print("| " + " | ".join(line) + " |")
    if json_file:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
        write_json(json_file, found | {"calls": calls, "machine": machine})


def table(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "scripted" in found:
        yield "scripted engine, text", f"{found['scripted']['text']:,.0f} calls/s"
        yield "scripted engine, review by JSON schema", f"{found['scripted']['review']:,.0f} calls/s"
        yield "HTTP, text", f"{found['http']['text']:,.0f} calls/s (bare client {found['http']['bare']:,.0f})"
    if m := found.get("memory"):
        yield f"{m['candidates']:,} candidates finished in one round", f"{m['candidates'] / m['seconds']:,.0f}/s"
        yield "memory", f"{m['peak_mb']:,.0f} MB, {m['kb_per_candidate']:.2f} kB a candidate"
    if r := found.get("resume"):
        what = f"resume of {r['candidates']:,} candidates to the first new call"
        yield what, f"{r['seconds']:.1f} s (ledger {r['ledger_mb']:,.0f} MB)"
    if m := found.get("many"):
        yield f"{m['candidates']:,} recorded candidates: decided ({m['rows']:,} rows)", f"{m['decided_s']:,.0f} s"
        yield "counted, exported", f"{m['counted_s']:,.0f} s, {m['exported_s']:,.0f} s"
        yield "peak memory, of its own", f"{m['peak_mb']:,.0f}, {m['own_mb']:,.0f} MB (ledger {m['ledger_mb']:,.0f} MB)"
    if d := found.get("dedup"):
        yield f"{d['rows']:,} rows arrive at dedup one by one", f"{d['seconds']:.1f} s"


if __name__ == "__main__":
    typer.run(main)
