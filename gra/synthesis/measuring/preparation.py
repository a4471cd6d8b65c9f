"""Carry the answers that prepare a committee from one run to others: `preparation` in a recipe.

Preparing a committee takes answers to control items, and keywords and domains of seeds. These questions are the same in
every run with the same members, seeds and control questions. The key of an answer is the digest of its question and
its model's weights. So a recorded answer is used for the very same question alone, and all others are asked.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from gra.core.errors import DataError
from gra.core.files import atomic_path
from gra.data.seeds.files import BadRow, read_rows
from gra.engines.types import Finish
from gra.ledger.ledger import Recorded
from gra.ledger.reader import LedgerReader
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
    lines = "".join(_line(answer) for answer in sorted(found, key=lambda answer: answer.key))
    with atomic_path(target) as temporary:
        temporary.write_bytes(gzip.compress(lines.encode(), mtime=0))
    return len(found)


def read_preparation(path: Path) -> list[Recorded]:
    """Read recorded answers, with keys computed from their questions.

    Raises:
        DataError: for rows that are no such answers, with their places, or a file without rows.
    """
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


def of_models(answers: Iterable[Recorded], identities: Collection[str]) -> list[Recorded]:
    """Return the answers of the models with these identities."""
    return [answer for answer in answers if json.loads(answer.request)["model"] in identities]


def is_prepared(answers: Sequence[Recorded], models: Collection[str]) -> bool:
    """Return whether all these models, by name, have recorded answers: then next to nothing is left to ask."""
    return bool(answers) and set(models) <= {answer.model for answer in answers}


def _prepares(candidate: str) -> bool:
    named = read_name(candidate)
    return named is not None and named.kind.prepares


def _line(answer: Recorded) -> str:
    """Return an answer as a line; the time that it took belongs to the machine that gave it."""
    values = {name: value for name, value in asdict(answer).items() if name in _TYPES}
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
    if not all(isinstance(score, float) for score in row["scores"].values()):
        return BadRow("`scores` must be numbers with a decimal point")
    if not _prepares(row["candidate"]):
        return BadRow("`candidate` must name a control item or a seed")
    try:
        request = json.loads(row["request"])
        key = hashlib.sha256(row["request"].encode()).hexdigest()
    except (ValueError, RecursionError):
        return BadRow("`request` must be a question as JSON text")
    if not isinstance(request, dict) or not isinstance(request.get("model"), str):
        return BadRow("`request` must name its model")
    return Recorded(**row, key=key, seconds=0.0)
