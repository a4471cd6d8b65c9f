"""Load questions whose right answers are known, for control items that members answer themselves.

A row has `instruction` and either `value` or `answers`; `id` and `domain` are optional. A `value` is a number or a
formula. `answers` are names, one of which the response must hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.checks.answers import equals, final_answer
from gra.core.errors import DataError
from gra.data.seeds.files import BadRow, read_rows

_EXTRA_WORDS = 8  # that a short answer may have beside the name; a list of guesses is no answer
_SHOWN = 10  # problems listed before "and N more"


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answers: names, or one value."""

    id: str
    instruction: str
    answers: tuple[str, ...] = ()
    value: str = ""
    domain: str = ""

    def is_right(self, response: str) -> bool:
        """Decide by program whether a response is right."""
        if self.value:
            given = final_answer(response)
            return given is not None and equals(given, self.value)
        said = _plain(response)
        return any(
            f" {_plain(name)} " in f" {said} " and len(said.split()) <= len(name.split()) + _EXTRA_WORDS
            for name in self.answers
        )


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def load_questions(path: Path) -> list[Question]:
    """Read questions with known answers.

    Raises:
        DataError: for rows that are no such questions, with their places, or a file without rows.
    """
    found: dict[str, Question] = {}
    problems: list[str] = []
    for placed in read_rows(path):
        made = placed.row if isinstance(placed.row, BadRow) else _question(placed.row, f"question-{placed.number}")
        if isinstance(made, Question) and made.id in found:
            made = BadRow(f"the id `{made.id}` is used twice")
        if isinstance(made, BadRow):
            problems.append(f"{placed.where}: {made.problem}")
        else:
            found[made.id] = made
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN])
        raise DataError(f"`review.control_questions`: {len(problems)} rows cannot be used:\n  {listed}{more}")
    if not found:
        raise DataError(f"`review.control_questions`: {path} has no rows")
    return list(found.values())


def _question(row: dict[str, Any], name: str) -> Question | BadRow:
    if extra := sorted(set(row) - {"id", "domain", "instruction", "answers", "value"}):
        return BadRow(f"unknown column `{extra[0]}`; the columns are id, domain, instruction, and answers or value")
    instruction, answers, value = row.get("instruction"), row.get("answers"), row.get("value")
    if not isinstance(instruction, str) or not instruction.strip():
        return BadRow("`instruction` must be a text")
    if not isinstance(identity := row.get("id", name), str | int) or isinstance(identity, bool):
        return BadRow("`id` must be a text or a whole number")
    if not isinstance(domain := row.get("domain") or "", str):
        return BadRow("`domain` must be a text")
    if (answers is None) == (value is None):
        return BadRow("a question has either `answers` or `value`")
    if value is not None:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or final_answer(f"{value}") is None:
            return BadRow("`value` must be a number, or a text that states one value")
        return Question(str(identity), instruction.strip(), value=str(value), domain=domain)
    names = [answers] if isinstance(answers, str) else answers
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and _plain(n) for n in names):
        return BadRow("`answers` must be a list of texts")
    return Question(str(identity), instruction.strip(), answers=tuple(names), domain=domain)
