"""Carry the answers that prepare a committee from one run to others: `preparation` in a recipe.

Preparing a committee takes answers to control items, and keywords and domains of seeds. These questions are the same in
every run with the same members, seeds and control questions. The key of an answer is the digest of its question and
its model's weights. So a recorded answer is used for the very same question alone, and all others are asked.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any, get_args

from gra.core.errors import DataError
from gra.core.files import atomic_path
from gra.core.vocabulary import WorkKind
from gra.data.seeds.files import BadRow, read_rows
from gra.engines.types import Finish
from gra.ledger.ledger import Recorded
from gra.ledger.reader import LedgerReader
from gra.ledger.schema import request_key
from gra.synthesis.call_names import read_name

ENDING = ".jsonl.gz"
_MOST = 1 << 31
_SHOWN = 5  # problems listed before "and N more"
_TYPES: Mapping[str, type] = {
    "request": str, "text": str, "finish": str, "scores": dict, "role": str, "member": str, "model": str,
    "candidate": str, "attempt": int, "prompt_tokens": int, "completion_tokens": int, "cached_tokens": int,
}  # fmt: skip


def write_preparation(ledger: Path, target: Path) -> int:
    """Write the recorded answers that prepared the committees of a ledger's runs, and return their number.

    Args:
        ledger: the ledger's file.
        target: the file to write, which ends in `.jsonl.gz`; equal answers give equal bytes.

    Raises:
        DataError: the file has another ending, or the ledger is damaged or holds no such answers.
    """
    if not target.name.endswith(ENDING):
        raise DataError(f"{target} must end in {ENDING}")
    if not ledger.is_file():
        raise DataError(f"there is no ledger {ledger}; give a run folder or a ledger file")
    reader = LedgerReader(ledger)
    try:
        reader.check_usable()
        found = [answer for answer in reader.all_answers() if _prepares(answer.candidate)]
    finally:
        reader.close()
    if not found:
        raise DataError(f"{ledger} holds no answers to control items or about seeds; give the ledger of a finished run")
    if any(not answer.request for answer in found):
        raise DataError(f"{ledger} has dropped the texts of its questions, so its answers cannot be carried over")
    usable = sorted((answer for answer in found if _is_finite(answer)), key=lambda answer: answer.key)
    with atomic_path(target) as temporary:
        temporary.write_bytes(gzip.compress("".join(map(_line, usable)).encode(), mtime=0))
    return len(usable)


def read_preparation(path: Path) -> list[Recorded]:
    """Read recorded answers, with keys computed from their questions.

    Raises:
        DataError: for rows that are no such answers, with their places, or a file without rows.
    """
    if not path.name.endswith(ENDING) or not path.is_file():
        raise DataError(f"`preparation`: {path} is no {ENDING} file; make one with `gra ledger preparation RUN FILE`")
    found: list[Recorded] = []
    problems: list[str] = []
    for placed in read_rows(path):
        made = placed.row if isinstance(placed.row, BadRow) else _recorded(placed.row)
        if isinstance(made, BadRow):
            problems.append(f"{placed.where}: {made.problem}")
        else:
            found.append(made)
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN])
        raise DataError(
            f"`preparation`: {len(problems)} rows are no recorded answers:\n  {listed}{more}\n"
            "Make the file with `gra ledger preparation RUN FILE`, or leave `preparation` out"
        )
    if not found:
        raise DataError(f"`preparation`: {path} has no rows; leave `preparation` out, or make the file anew")
    return found


def of_models(answers: Iterable[Recorded], names: Mapping[str, str]) -> list[Recorded]:
    """Return the answers of some models, each under the name that the model has in this run.

    Args:
        answers: recorded answers.
        names: the models' names by their identity.
    """
    asked = ((answer, json.loads(answer.request)["model"]) for answer in answers)
    return [replace(answer, model=names[identity]) for answer, identity in asked if identity in names]


def prepared_items(answers: Sequence[Recorded], models: Collection[str]) -> dict[WorkKind, set[str]]:
    """Return the control items and seeds that all these models, by name, were asked about; none where one was not."""
    found: dict[WorkKind, set[str]] = {WorkKind.CONTROL_ITEM: set(), WorkKind.SEED: set()}
    if set(models) <= {answer.model for answer in answers}:
        for answer in answers:
            if (named := read_name(answer.candidate)) is not None:
                found[named.kind].add(named.item)
    return found


def _is_finite(answer: Recorded) -> bool:
    """Return whether JSON can hold the scores; an answer with another one is asked anew."""
    return all(isfinite(score) for score in answer.scores.values())


def _prepares(candidate: str) -> bool:
    named = read_name(candidate)
    return named is not None and named.kind.prepares


def _line(answer: Recorded) -> str:
    """Return an answer as a line; the time that it took belongs to the machine that gave it."""
    values = {name: value for name, value in asdict(answer).items() if name in _TYPES}
    values["scores"] = {name: float(score) for name, score in answer.scores.items()}
    return json.dumps(values, ensure_ascii=False, sort_keys=True) + "\n"


def _recorded(row: dict[str, Any]) -> Recorded | BadRow:
    if row.keys() != _TYPES.keys():
        strange = sorted(row.keys() ^ _TYPES.keys())[0]
        return BadRow(f"it must have the columns {', '.join(_TYPES)}; `{strange}` is missing or one too many")
    for name, kind in _TYPES.items():
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            return BadRow(f"`{name}` must be of type {kind.__name__}")
    if not all(0 <= row[name] < _MOST for name, kind in _TYPES.items() if kind is int):
        return BadRow(f"its counts must be from 0 to {_MOST - 1:,}")
    if row["finish"] not in get_args(Finish):
        return BadRow(f"`finish` must be one of {', '.join(get_args(Finish))}")
    if any(isinstance(score, bool) or not isinstance(score, int | float) for score in row["scores"].values()):
        return BadRow("`scores` must be numbers")
    if not _prepares(row["candidate"]):
        return BadRow("`candidate` must name a control item or a seed")
    try:
        request = json.loads(row["request"])
        key = request_key(row["request"])
    except (ValueError, RecursionError):
        return BadRow("`request` must be a question as JSON text")
    if not isinstance(request, dict) or not isinstance(request.get("model"), str):
        return BadRow("`request` must name its model")
    return Recorded(**row, key=key, seconds=0.0)
