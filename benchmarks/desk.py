"""Measure the desk (`gra review`) on a large run: first page, filters, pages, decisions, memory.

Run as: python benchmarks/desk.py [--candidates 100000] [--folder FOLDER]

It writes a run folder of made-up candidates, serves it in a process of its own, and asks as the page does. The folder
is kept when it is named, so that the second start can be measured with the file cache warm.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from gra.core.run_folder import RunFolder
from gra.core.types import CHECKS, DIMENSIONS, Candidate, InstructionReview, Review, State, Usage
from gra.data.export import export
from gra.ledger.ledger import Ledger

WORDS = ("tide", "owl", "bread", "chess", "comet", "river", "bee", "map", "clock", "violin", "desert", "kite", "moon")
CARD = {"name": "big", "arm": "gra", "states": {s.value: 0 for s in State}, "models": [], "shared_weights": {},
        "seeds": "s", "reviewers": [], "committee_auc": None, "prompts": {}}  # fmt: skip
FILTERS = {
    "state": {"state": "accepted"},
    "score": {"low": "7", "high": "8"},
    "domain and disputed": {"domain": "qa", "disputed": "1"},
    "text, many": {"text": "violin"},
    "text, none": {"text": "no such text"},
    "disagreement": {"order": "disagreement"},
    "random draw": {"order": "random", "state": "accepted"},
    "page 1,000": {"offset": "50000"},
}


def made_up(count: int) -> Iterator[Candidate]:
    luck = random.Random(0)
    for index in range(count):
        scores = [min(10.0, max(0.0, luck.gauss(7, 1.5))) for _ in range(3)]
        mean = sum(scores) / 3
        state = State.ACCEPTED if mean >= 6.5 else State.REJECTED
        yield Candidate(
            f"r1-{index:06d}", 1, index, luck.choice(("qa", "math", "code")), state, "reviewers agree", generator="a",
            reviewers=("b", "c", "d"), instruction=f"Explain {index}: {' '.join(luck.choices(WORDS, k=25))}.",
            response=" ".join(luck.choices(WORDS, k=110)), mean=mean, std=max(scores) - min(scores),
            checks=tuple(InstructionReview(name, dict.fromkeys(CHECKS, 0.9), ()) for name in "bcd"),
            reviews=tuple(Review(n, dict.fromkeys(DIMENSIONS, s), s, s) for n, s in zip("bcd", scores, strict=True)),
            disputed=max(scores) - min(scores) > 3, usage={"generator": Usage(3, 400, 200)}, calls=("k",) * 12,
        )  # fmt: skip


def write_run(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.resolved.yaml").write_text('{"name": "big"}')
    Ledger(folder / "ledger.sqlite", "big").close()
    files = export(folder, made_up(count), CARD)
    RunFolder(folder).record("synthesis", {"name": "big", "arm": "gra"}, files)


def get(address: str, path: str, values: dict[str, str] | None = None) -> tuple[Any, float]:
    began = time.perf_counter()
    query = f"?{urllib.parse.urlencode(values)}" if values else ""
    with urllib.request.urlopen(f"{address}{path}{query}") as answer:
        content = answer.read()
    seconds = time.perf_counter() - began
    return (json.loads(content) if path.startswith("api") else content), seconds


def post(address: str, body: dict[str, str]) -> float:
    began = time.perf_counter()
    request = urllib.request.Request(
        f"{address}api/decide", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    urllib.request.urlopen(request).read()
    return time.perf_counter() - began


def megabytes(process: int) -> float:
    return psutil.Process(process).memory_info().rss / 1e6


def processor_seconds(process: int) -> float:
    used = psutil.Process(process).cpu_times()
    return used.user + used.system


def report(process: int, name: str, ask: Callable[[], float]) -> None:
    """Print the time of five requests, and the server's processor time, which other processes do not change."""
    before = processor_seconds(process)
    times = sorted(ask() for _ in range(5))
    spent = (processor_seconds(process) - before) / 5 * 1000
    shown = f"median {times[2] * 1000:.0f} ms, slowest {times[4] * 1000:.0f} ms"
    print(f"  {name}: {shown}; {spent:.0f} ms of processor time each")


def measure(folder: Path) -> None:
    began = time.perf_counter()
    server = subprocess.Popen([sys.executable, "-m", "gra.cli.main", "review", str(folder)], stdout=subprocess.PIPE,
                              text=True)  # fmt: skip
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        print(f"command to address: {time.perf_counter() - began:.2f} s")
        began = time.perf_counter()
        get(address, "")
        while not get(address, "api/rows")[0]["rows"]:
            time.sleep(0.01)
        print(f"address to first rows: {time.perf_counter() - began:.2f} s, {megabytes(server.pid):.0f} MB")
        while not get(address, "api/status")[0]["loaded"]:
            time.sleep(0.2)
        print(f"all rows listed: {time.perf_counter() - began:.1f} s, {megabytes(server.pid):.0f} MB")
        print(f"processor time of the server so far: {processor_seconds(server.pid):.1f} s")
        for when in ("while format constraints are read", "again"):
            for name, values in FILTERS.items():
                report(server.pid, f"{when}: {name}", lambda given=values: get(address, "api/rows", given)[1])
            report(server.pid, f"{when}: status", lambda: get(address, "api/status")[1])
        rows = get(address, "api/rows", {"state": "accepted", "order": "random"})[0]["rows"]
        looks, decisions = [], []
        for row in rows:
            found, seconds = get(address, "api/candidate", {"id": row["id"]})
            looks.append(seconds)
            body = {"name": "ann", "candidate": row["id"], "verdict": "keep", "subject": found["subject"]}
            decisions.append(post(address, body))
        for name, times in (("candidate's page", sorted(looks)), ("decision, on the disk", sorted(decisions))):
            middle, slow = times[len(times) // 2] * 1000, times[-1] * 1000
            print(f"{name}: median {middle:.0f} ms, slowest of {len(times)} {slow:.0f} ms")
        print(f"memory at the end: {megabytes(server.pid):.0f} MB")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "big"
        if not (folder / "lineage.parquet").is_file():
            began = time.perf_counter()
            write_run(folder, given.candidates)
            size = (folder / "lineage.parquet").stat().st_size / 1e6
            print(f"{given.candidates:,} candidates written in {time.perf_counter() - began:.0f} s, {size:.0f} MB")
        print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        measure(folder)


if __name__ == "__main__":
    main()
