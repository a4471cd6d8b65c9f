"""Read the shipped seeds and evaluation instructions, and compare their texts."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from paths import ROOT

from gra.checks.format import failed, parse_checks

DOMAINS = ("coding", "math", "qa", "reasoning", "role-play", "language", "creation")


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]


SEEDS = read("recipes/seeds/quickstart.jsonl")
TASKS = read("eval/tasks/instructions.jsonl")
REPORT = read("eval/tasks/instructions_report.jsonl")  # other items of the same kinds, for reported figures


def by_id(rows: list[dict[str, Any]]) -> Callable[[Any], Any]:
    return pytest.mark.parametrize("row", rows, ids=[r["id"] for r in rows])


def obeys(text: str, checks: list[dict[str, Any]]) -> bool:
    return failed(parse_checks(checks, "here"), text) == []


def check(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"kind": kind, **arguments}


FILLER = {"a", "an", "the", "of", "in", "on", "at", "to", "for", "and", "or", "is", "it", "as", "with", "one", "use"}


def near(one: str, other: str) -> bool:
    first, second = (set(re.findall(r"\w+", text.lower())) - FILLER for text in (one, other))
    overlap = len(first & second) / max(1, len(first | second))
    return overlap >= 0.5 or difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio() >= 0.8
