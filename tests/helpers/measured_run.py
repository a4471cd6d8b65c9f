"""Whole runs on a scripted engine whose committee is measured on answers to questions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import scripted_run
from scripted_run import answer_by_content, content, make_recipe, said, write_job

from gra.data.export import read_lineage
from gra.engines.types import Call, Choice, Completion, Fault, Text

QUESTIONS = [{"id": f"n{i}", "instruction": f"What is {i} + {i}?", "value": 2 * i} for i in range(40)]
REVIEW = {
    "comments": "never",
    "control_items": 12,
    "control_kinds": ["mismatched", "natural"],
    "control_questions": "questions.jsonl",
    "control_instructions": 6,
    "accept_mean": 4.0,
    "dispute_std": 10.0,
}


def knowing(call: Call) -> Completion | Fault:
    """Members add right or wrong at random; reviewers know the sum, more or less, and judge other texts by chance."""
    luck = random.Random(int(content(call), 16))
    prompt = call.messages[-1][1]
    if isinstance(call.output, Text) and prompt.startswith("What is "):
        number = int(prompt.split()[2])
        return said(f"The answer is {2 * number + (luck.random() < 0.5)}.")
    if isinstance(call.output, Choice) and "<answer>" in prompt and "What is " in prompt:
        number = int(prompt.split("What is ")[1].split()[0])
        right = f"The answer is {2 * number}." in prompt
        yes = min(0.95, max(0.05, (0.75 if right else 0.25) + luck.gauss(0, 0.2)))
        return said("yes", "length", yes=yes, no=1 - yes)
    return answer_by_content(call)


def prepare(folder: Path, **changes: Any) -> None:
    recipe = {"rounds": {"count": 1, "accept": 8, "max_candidates": 30}, "review": REVIEW | {"ask": "yes_no"}} | changes
    write_job(folder, make_recipe(**recipe))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))


def made(folder: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    prepare(folder, **changes)
    scripted_run.make(folder, answer=knowing)
    facts = json.loads((folder / "manifest.json").read_text())["synthesis"]
    return read_lineage(folder / "lineage.parquet"), facts
