"""How far vLLM and transformers agree on one model: greedy texts, likelihoods, verdicts, and the time of each.

Run as: python benchmarks/backends.py [--model NAME] [--limit 24] [--data-dir DIR] [--work DIR] [--json FILE]

The same suite is evaluated with `--backend hf` and `--backend vllm`, in bfloat16: instructions and GSM8K are answered
in writing, ARC-Challenge is weighed. Both write below `--work`, so a run that was stopped goes on from there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from gra.core.files import write_json
from gra.core.run_folder import environment
from gra.evaluation.results import read_records, read_results

ROOT = Path(__file__).parent.parent
TASKS = [
    {"name": "instructions", "kind": "instructions", "data": str(ROOT / "eval" / "tasks" / "instructions.jsonl")},
    {"name": "gsm8k", "kind": "value", "data": "catalog:gsm8k"},
    {"name": "arc_challenge", "kind": "likelihood", "data": "catalog:arc_challenge"},
]
BACKENDS = ("hf", "vllm")


def evaluated(work: Path, model: str, limit: int, tokens: int, data_dir: Path | None) -> dict[str, Path]:
    """Both evaluations, done or taken up where they were."""
    work.mkdir(parents=True, exist_ok=True)
    suite = {
        "name": "backends", "tasks": [{**task, "limit": limit} for task in TASKS],
        "generation": {"max_new_tokens": tokens}, "batch_size": 16,
    }  # fmt: skip
    (work / "suite.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    where = ["--data-dir", str(data_dir)] if data_dir else []
    for backend in BACKENDS:
        command = ["eval/run.py", str(work / "suite.yaml"), "--model", model, "--backend", backend]
        done = subprocess.run(
            [sys.executable, *command, "--output", str(work / backend), *where], cwd=ROOT, check=False
        )
        if done.returncode:
            raise SystemExit(done.returncode)
    return {backend: work / backend for backend in BACKENDS}


def compared(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> dict[str, Any]:
    """Two runs of one task."""
    pairs = list(zip(one, two, strict=True))
    assert all(a["item"] == b["item"] and a["prompt_hash"] == b["prompt_hash"] for a, b in pairs)
    found: dict[str, Any] = {"items": len(pairs), "same_score": sum(a["score"] == b["score"] for a, b in pairs)}
    found["mean_hf"], found["mean_vllm"] = (sum(row["score"] for row in rows) / len(rows) for rows in (one, two))
    if one[0]["output"] is None:
        gaps = sorted(
            abs(x - y) for a, b in pairs for x, y in zip(a["loglikelihoods"], b["loglikelihoods"], strict=True)
        )
        return {**found, "gap_median": gaps[len(gaps) // 2], "gap_most": gaps[-1]}
    shared = [len(common(a["output"], b["output"])) / max(1, len(a["output"])) for a, b in pairs]
    same = sum(a["output"] == b["output"] and a["finish"] == b["finish"] for a, b in pairs)
    return {**found, "same_text": same, "shared_beginning": sum(shared) / len(shared)}


def common(one: str, two: str) -> str:
    """What two texts begin with."""
    return one[: next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))]


def main(
    model: str = "smollm2-135m-instruct",
    limit: int = 24,
    tokens: int = 96,
    data_dir: Path | None = None,
    work: Path = Path("runs/backends"),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one line a task."""
    runs = evaluated(work, model, limit, tokens, data_dir)
    rows = {backend: read_records(run) for backend, run in runs.items()}
    found = {
        str(task["name"]): compared(*([r for r in rows[b] if r["task"] == task["name"]] for b in BACKENDS))
        for task in TASKS
    }
    for name, figures in found.items():
        print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in figures.items())}")
    seconds = {backend: read_results(run)["seconds"] for backend, run in runs.items()}
    print(f"seconds of the last piece, start included: {seconds}")
    if json_file:
        write_json(json_file, {"tasks": found, "seconds": seconds, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
