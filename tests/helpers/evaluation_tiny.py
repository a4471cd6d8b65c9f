"""A small suite and a small model for the evaluation tests; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gra.config.suite import SuiteConfig
from gra.evaluation.model import ModelUnderTest
from gra.evaluation.suite import load_suite

INSTRUCTIONS = [
    {"id": f"i{n:02}", "instruction": f"Say a word of {n % 7 + 1} letters.", "category": "ab"[n % 2],
     "checks": [{"kind": "words_at_most", "n": 1 + n % 3}]}
    for n in range(40)
]  # fmt: skip
QUESTIONS = [
    {"id": f"q{n:02}", "question": f"What is {n} plus {n}?", "choices": [f"{2 * n}", "a fish", f"{n} and a half"],
     "answer": n % 3}
    for n in range(6)
]  # fmt: skip


def write_suite(
    folder: Path, *, instructions: list[Any] = INSTRUCTIONS, questions: list[Any] = QUESTIONS, **changes: Any
) -> Path:
    """A suite file with its two data files beside it; keyword arguments replace top-level keys."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("instructions", instructions), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite: dict[str, Any] = {
        "name": "tiny",
        "tasks": [
            {"name": "instructions", "kind": "instructions", "data": "instructions.jsonl"},
            {"name": "sums", "kind": "likelihood", "data": "questions.jsonl"},
        ],
        "generation": {"max_new_tokens": 6},
        "batch_size": 8,
        "dtype": "float32",
        **changes,
    }
    path = folder / "suite.yaml"
    path.write_text(json.dumps(suite), encoding="utf-8")  # JSON is YAML
    return path


def tiny_suite(folder: Path, **changes: Any) -> SuiteConfig:
    """The suite, loaded."""
    return load_suite(write_suite(folder, **changes))


def under_test(path: Path, adapter: Path | None = None, **changes: Any) -> ModelUnderTest:
    """A model that is asked through the plain template."""
    fields = {"name": "tiny", "chat_template": "builtin:plain", "identity": f"sha256:{path.name}", **changes}
    return ModelUnderTest(path=path, adapter=adapter, **fields)
