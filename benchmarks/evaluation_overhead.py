"""Our evaluation against lm-eval's own command line: wall time, and whether every number is the same.

Run as: python benchmarks/evaluation_overhead.py [--model NAME] [--limit 40] [--data-dir DIR] [--json FILE]

Both run the same items in the same words on the same backend, each as a command of its own, start and loading
included, in turn. ARC-Challenge and HellaSwag are weighed: the log-likelihood of every choice, acc and acc_norm are
compared item by item. The instructions of the quickstart are answered in writing, greedily: the texts are compared.
The aim is at most 1.05 times lm-eval's time, and equal accuracies in float32.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml

from gra.core.files import write_json
from gra.core.run_folder import environment
from gra.evaluation.results import read_records
from gra.evaluation.suite import load_suite, load_tasks
from gra.evaluation.task import LoadedTask, template_file
from gra.models.catalog import resolve

ROOT = Path(__file__).parent.parent
WEIGHED = [
    {"name": "arc_challenge", "kind": "likelihood", "data": "catalog:arc_challenge"},
    {"name": "hellaswag", "kind": "likelihood", "data": "catalog:hellaswag", "prompt": "continue"},
]
WRITTEN = [
    {"name": "instructions", "kind": "instructions", "data": str(ROOT / "eval" / "tasks" / "instructions.jsonl")}
]
TOKENS = 48


def suite_file(folder: Path, tasks: list[dict[str, Any]], limit: int, dtype: str, backend: str, batch: int) -> Path:
    """A suite with these tasks."""
    suite = {
        "name": "overhead", "tasks": [{**task, "limit": limit} for task in tasks], "dtype": dtype, "backend": backend,
        "generation": {"max_new_tokens": TOKENS}, "batch_size": batch,
    }  # fmt: skip
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return path


def task_files(folder: Path, loaded: list[LoadedTask]) -> Path:
    """The same items and forms for lm-eval's command line: a YAML file and a JSON Lines file for each task."""
    for task in loaded:
        rows = [{"id": i.id, "text": i.text, "choices": list(i.choices), "answer": i.answer} for i in task.samples]
        data = folder / f"{task.name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        form = yaml.safe_load(template_file(task.template)[0].read_text(encoding="utf-8"))
        form |= {"task": f"overhead_{task.name}", "dataset_path": "json", "metadata": {"version": 1}}
        form["dataset_kwargs"] = {"data_files": {"test": str(data)}}
        if task.generated:
            form["generation_kwargs"] |= {"max_gen_toks": TOKENS}
        (folder / f"{task.name}.yaml").write_text(yaml.safe_dump(form), encoding="utf-8")
    return folder


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a command; the latter say more on a machine with other work.

    Raises:
        SystemExit: with its output, when it fails.
    """
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, spent


def samples(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """What lm-eval's command line logged of one task, by item."""
    [file] = folder.rglob(f"samples_overhead_{name}_*.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return {row["doc"]["id"]: row for row in rows}


def agreement(task: LoadedTask, ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How far two runs of one task are the same."""
    if task.generated:
        same = sum(ours[item]["output"] == theirs[item]["resps"][0][0] for item in ours)
        return {"items": len(ours), "same_text": same}
    gaps = [
        abs(mine - float(response[0][0]))
        for item, row in ours.items()
        for mine, response in zip(row["loglikelihoods"], theirs[item]["resps"], strict=True)
    ]
    means = {
        f"{key}_{side}": sum(float(row[key]) for row in rows.values()) / len(rows)
        for key in ("acc", "acc_norm")
        for side, rows in (("ours", ours), ("lm_eval", theirs))
    }
    differing = sum(any(row[k] != float(theirs[item][k]) for k in ("acc", "acc_norm")) for item, row in ours.items())
    return {"items": len(ours), "largest_gap": max(gaps), "items_scored_differently": differing, **means}


def measure(
    tasks: list[dict[str, Any]], model: str, limit: int, data_dir: Path | None, dtype: str, backend: str, batch: int
) -> dict[str, Any]:
    """Both commands on the same tasks."""
    base = resolve(model)
    with TemporaryDirectory(prefix="gra-overhead-") as name:
        folder = Path(name)
        suite = suite_file(folder, tasks, limit, dtype, backend, batch)
        loaded = load_tasks(load_suite(suite), data_dir)
        (folder / "tasks").mkdir()
        task_files(folder / "tasks", loaded)
        where = ["--data-dir", str(data_dir)] if data_dir else []
        ours = timed(["eval/run.py", str(suite), "--model", model, "--output", str(folder / "ours"), *where])
        chat = ["--apply_chat_template"] if loaded[0].chat else []
        names = [f"overhead_{task.name}" for task in loaded]
        theirs = timed([
            "-m", "lm_eval", "run", "--model", backend, "--model_args", f"pretrained={base.path},dtype={dtype}",
            "--tasks", *names, "--include_path", str(folder / "tasks"), "--batch_size", str(batch),
            "--log_samples", "--output_path", str(folder / "theirs"), *chat,
        ])  # fmt: skip
        rows = read_records(folder / "ours")
        found = {
            task.name: agreement(
                task,
                {row["item"]: row for row in rows if row["task"] == task.name},
                samples(folder / "theirs", task.name),
            )
            for task in loaded
        }
    return {
        "wall_ours": ours[0], "wall_lm_eval": theirs[0], "wall_ratio": ours[0] / theirs[0],
        "cpu_ours": ours[1], "cpu_lm_eval": theirs[1], "cpu_ratio": ours[1] / theirs[1], "tasks": found,
    }  # fmt: skip


def main(
    model: str = "smollm2-135m-instruct",
    limit: int = 40,
    data_dir: Path | None = None,
    dtype: str = "float32",
    backend: str = "hf",
    batch_size: int = 16,
    only: str | None = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print two tables; `only` is weighed or written."""
    settings = {"model": model, "limit": limit, "dtype": dtype, "backend": backend, "batch_size": batch_size}
    kinds = {kind: tasks for kind, tasks in {"weighed": WEIGHED, "written": WRITTEN}.items() if only in (None, kind)}
    rows = {kind: measure(tasks, model, limit, data_dir, dtype, backend, batch_size) for kind, tasks in kinds.items()}
    print("| answers | seconds | ours | lm-eval | ratio |\n|---|---|---|---|---|")
    for kind, row in rows.items():
        for clock in ("wall", "cpu"):
            seconds = f"{row[f'{clock}_ours']:.1f} | {row[f'{clock}_lm_eval']:.1f} | {row[f'{clock}_ratio']:.2f}"
            print(f"| {kind} | {clock} | {seconds} |")
    for row in rows.values():
        for name, found in row["tasks"].items():
            print(f"{name}: {', '.join(f'{key} {value:.6g}' for key, value in found.items())}")
    if json_file:
        write_json(json_file, {"settings": settings, "rows": rows, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
