"""How long the sandbox takes to judge every canonical solution of HumanEval and MBPP, and what one job costs.

Run as: python benchmarks/sandbox.py [--data-dir DIR] [--workers 2] [--json FILE]

Every solution must pass; one that does not is named and the exit status is 1.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import typer

from gra.core.files import write_json
from gra.core.run_folder import environment
from gra.evaluation.benchmarks.load import resolve_benchmark
from gra.sandbox.job import SandboxJob, SandboxOutcome
from gra.sandbox.permission import Permission
from gra.sandbox.sandbox import Sandbox

NAMES = ("humaneval", "mbpp_sanitized")


def solutions(name: str, data_dir: Path | None) -> dict[str, SandboxJob]:
    """The canonical solutions of a benchmark, by item."""
    text = resolve_benchmark(name, data_dir).path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    return {row["id"]: SandboxJob(row["solution"], row["tests"], row["beginning"], row["entry_point"]) for row in rows}


def measure(sandbox: Sandbox, name: str, jobs: dict[str, SandboxJob]) -> dict[str, Any]:
    """One row of the table: verdicts, wall seconds in all, wall milliseconds a job."""
    begun = time.monotonic()
    outcomes: list[SandboxOutcome] = sandbox.run_all(list(jobs.values()))
    seconds = time.monotonic() - begun
    wall = [1000 * outcome.wall_s for outcome in outcomes]
    wrong = {item: str(o.detail) for item, o in zip(jobs, outcomes, strict=True) if o.verdict != "passed"}
    return {
        "benchmark": name, "jobs": len(jobs), "passed": len(jobs) - len(wrong), "seconds": seconds,
        "ms_median": median(wall), "ms_p95": quantiles(wall, n=20)[-1], "ms_most": max(wall), "wrong": wrong,
    }  # fmt: skip


def main(
    data_dir: Path | None = None,
    workers: int | None = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one table."""
    sandbox = Sandbox(Permission("benchmarks/sandbox.py"), workers=workers)
    rows = [measure(sandbox, name, solutions(name, data_dir)) for name in NAMES]
    print("| solutions of | jobs | passed | wall s | ms a job: median | 95 % | most |\n|---|---|---|---|---|---|---|")
    for row in rows:
        times = " | ".join(f"{row[key]:.0f}" for key in ("ms_median", "ms_p95", "ms_most"))
        print(f"| {row['benchmark']} | {row['jobs']} | {row['passed']} | {row['seconds']:.1f} | {times} |")
    print(f"\n{sandbox.workers} jobs at a time on {len(os.sched_getaffinity(0))} cores; {sandbox.isolation}")
    if json_file:
        write_json(json_file, {"rows": rows, "sandbox": sandbox.facts(), "environment": environment()})
    wrong = {item: detail for row in rows for item, detail in row["wrong"].items()}
    for item, detail in wrong.items():
        print(f"{item}: {detail}")
    raise typer.Exit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
