"""Measure the cost of orchestration: wall time of a synthesis over that of vLLM alone on the same calls.

Run as: python benchmarks/synthesis_overhead.py recipes/quickstart/gra.yaml [key=value ...] [--json FILE]

Makes the dataset in a temporary run folder with fresh engines. Then gives every recorded call to `vllm.LLM` at once,
with one process a model and the same settings. There are no dependencies between calls, no ledger and no gate. There,
all calls are known beforehand: a ratio of 1.00 means that waiting for answers costs nothing. Engine
start-up is left out on both sides. The time after the last answer (deduplication, files) is in the ratio, and shown
beside it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.files import write_json
from gra.core.progress import View, read_events
from gra.core.run_folder import RunFolder
from gra.engines.vllm.engine import VllmEngine, child_environment
from gra.evaluation.suite import suite_items
from gra.serving.models import find_models
from gra.synthesis.run import make_job, run_jobs

BARE = """
import json, sys, time
from pathlib import Path
from gra.engines.vllm.start import engine_arguments
from gra.engines.vllm.worker import sampling_params
settings, calls = json.loads(Path(sys.argv[1]).read_text())
from transformers import AutoTokenizer
from vllm import LLM
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind
tokenizer = AutoTokenizer.from_pretrained(settings["path"])
prompts, parameters = [], []
for call in calls:
    encoded = tokenizer.apply_chat_template(call["messages"], add_generation_prompt=True, return_dict=True)
    tokens = list(encoded["input_ids"])
    given = tokenizer.encode(call.get("likelihood", ""), add_special_tokens=False)
    labels = [tokenizer.encode(label, add_special_tokens=False)[0] for label in call.get("choice", [])]
    prompts.append(TokensPrompt(prompt_token_ids=tokens + given))
    parameters.append(sampling_params(call, settings["max_model_len"] - len(tokens) - len(given), labels, bool(given)))
engine = LLM(**engine_arguments(settings))
engine.generate(prompts[:1], parameters[:1], use_tqdm=False)
engine.reset_prefix_cache()
print("ready", flush=True)
sys.stdin.readline()
begun = time.monotonic()
outputs = engine.generate(prompts, parameters, use_tqdm=False)
said = sum(len(o.outputs[0].token_ids) for o in outputs)
print(json.dumps({"seconds": time.monotonic() - begun, "calls": len(calls), "completion_tokens": said}), flush=True)
"""


def recorded_calls(ledger: Path) -> dict[str, list[dict[str, Any]]]:
    """Every recorded request by model, in the order they were answered, in the worker's own form."""
    found: dict[str, list[dict[str, Any]]] = {}
    with sqlite3.connect(ledger) as db:
        for model, text in db.execute("SELECT model, request FROM calls ORDER BY id"):
            request = json.loads(text)
            call = {"messages": [{"role": r, "content": c} for r, c in request["messages"]]}
            call["sampling"] = request["sampling"]
            output = request["output"]
            call |= output if isinstance(output, dict) else {}
            if "json" in call:
                call["json"] = json.loads(call["json"])
            found.setdefault(model, []).append(call)
    return found


def last_answer(ledger: Path) -> float:
    """When the last answer was recorded, in seconds since 1970."""
    with sqlite3.connect(ledger) as db:
        return float(db.execute("SELECT max(written) FROM calls").fetchone()[0])


def bare(engines: dict[str, VllmEngine], calls: dict[str, list[dict[str, Any]]], folder: Path) -> dict[str, Any]:
    """Answer all calls on bare engines side by side; wall time from the common start to the last answer, seconds."""
    children = {}
    for name, engine in engines.items():
        settings = engine.settings
        file = folder / f"{name}.json"
        file.write_text(json.dumps([asdict(settings) | {"path": str(settings.path)}, calls.get(name, [])]))
        children[name] = subprocess.Popen(
            [sys.executable, "-c", BARE, str(file)], env=child_environment(settings), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / f"{name}.log").open("w"),
        )  # fmt: skip
    answers = {}
    for child in children.values():
        wait_for(child, "ready")
    begun = time.monotonic()
    for child in children.values():
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for name, child in children.items():
        answers[name] = json.loads(wait_for(child, "{"))
        child.kill()
    return {"seconds": time.monotonic() - begun, "models": answers}


def wait_for(child: subprocess.Popen[str], start: str) -> str:
    """The child's next line that begins with `start`; vLLM prints lines of its own."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(start):
            return line
    sys.exit(f"a bare engine ended with status {child.wait()}")


def main(
    recipe: Path,
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one table."""
    loaded = load_recipe(recipe, SynthesisRecipe, overrides or [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary) / "run")
        view = View(folder / "log.jsonl")
        run_jobs([make_job(loaded, folder, read_suite=suite_items)], view, folder / "logs")
        stage = next(e for e in read_events(folder / "log.jsonl") if e["event"] == "stage" and e["name"] == "synthesis")
        ours = stage["ended"] - stage["began"]
        after = stage["ended"] - last_answer(folder / "ledger.sqlite")
        pool = find_models([loaded.recipe], view).pool(folder / "logs")
        engines = {name: engine for name, engine in pool.engines.items() if isinstance(engine, VllmEngine)}
        found = bare(engines, recorded_calls(folder / "ledger.sqlite"), Path(temporary))
    result = {
        "synthesis_s": ours,
        "after_the_last_answer_s": after,
        "bare_s": found["seconds"],
        "ratio": ours / found["seconds"],
        "bare": found["models"],
    }
    print("| calls | synthesis s | of it after the last answer | bare vLLM s | ratio |\n|---|---|---|---|---|")
    count = sum(m["calls"] for m in found["models"].values())
    print(f"| {count} | {ours:.1f} | {after:.1f} | {found['seconds']:.1f} | {result['ratio']:.2f} |")
    if json_file:
        write_json(json_file, result | {"recipe": str(recipe), "overrides": overrides, "cpus": os.cpu_count()})


if __name__ == "__main__":
    typer.run(main)
