"""A committee whose answers are given, for the tests of verifiers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from scripted_run import Script, said

from gra.core.types import CHECKS, DIMENSIONS
from gra.engines.types import Call, Completion, Fault, Json, Text


def committee(
    exercise: str,
    *answers: str,
    score: int = 9,
    asked: list[Call] | None = None,
    fault: Callable[[Call], Any] | None = None,
) -> Script:
    """A committee that writes one exercise, answers it with `answers` in turn, and scores everything alike."""
    turns = itertools.cycle(answers)

    def script(call: Call) -> Completion | Fault:
        if asked is not None:
            asked.append(call)
        if fault is not None and (found := fault(call)) is not None:
            return found
        match call.output:
            case Text():
                return said(next(turns))
            case Json(schema):
                fields: dict[str, Any] = {
                    "keywords": ["one", "two", "three"],
                    "exercise": exercise,
                    "comment": "A remark here.",
                }
                fields |= dict.fromkeys(CHECKS, True) | dict.fromkeys(DIMENSIONS, score)
                return said(json.dumps({name: fields[name] for name in schema["properties"]}))
        raise AssertionError(call.output)

    return script
