"""Task kind `short`: a few words, a number, a letter of an option or closing brackets (BBH).

A row is `{"id", "question", "answer"}`; of an answer such as `... #### yes` the "yes" counts.
"""

from __future__ import annotations

import re
from typing import Any

from gra.checks.answers import stated_value
from gra.checks.signs import plain_signs
from gra.config.suite import TaskConfig
from gra.evaluation.rows import Row
from gra.evaluation.scorers.letter import find_statement, leading_letter, plain_text
from gra.evaluation.scorers.value import answer_digest, found_score, parse_answer
from gra.evaluation.task import RowTask, Sample, SampleScore

_VERSION = 2  # raise when an answer is scored differently
_WORDS = ("true", "false", "yes", "no", "valid", "invalid")
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_CHARACTERS = 200  # of an answer that is nothing but the answer


class ShortTask(RowTask):
    """Answers of a few words; the target of a sample is the right answer as text."""

    name = "short"
    extracts = True
    verdicts = ("right", "wrong", "no_answer")

    def parse(self, row: Row, where: str, config: TaskConfig) -> Sample:
        """Make a sample of one row."""
        return parse_answer(row, where)

    def version(self) -> list[Any]:
        """Return what decides a score beside the sample."""
        return [_VERSION, 0]

    def target_digest(self, sample: Sample) -> str:
        """Return a digest of the right answer."""
        return answer_digest(sample)

    def score(self, sample: Sample, text: str, finish: str | None) -> SampleScore:
        """Compare the answer that the text states, or is, with the right one."""
        found = read_short(text, finish == "stop")
        return found_score(found, found is not None and alike(found, sample.target, sample.text))


def read_short(text: str, ended: bool) -> str | None:
    """Find the short answer that a text states after "answer:" or the like, or that it is.

    Args:
        text: the answer, without the model's thinking.
        ended: whether the model ended the answer; one that was cut off has to state its answer.
    """
    text = plain_signs(re.sub(r"\*\*|`", "", text)).strip()
    if (stated := find_statement(text)) is not None:
        return _trimmed(stated.text)
    if boxed := stated_value(text):
        return _trimmed(boxed)
    return _trimmed(text) if ended and text and "\n" not in text and len(text) <= _MOST_CHARACTERS else None


def alike(found: str, wanted: str, question: str) -> bool:
    """Return whether a short answer is the right one.

    Args:
        found: the answer that was found in a text.
        wanted: the right answer. Options such as "(B)", whole numbers, brackets and words such as "yes" have rules of
            their own.
        question: the question, which lists the options.
    """
    found, wanted = plain_signs(found), plain_signs(wanted)
    if option := re.fullmatch(r"\(([A-Z])\)", wanted):
        listed = dict(re.findall(r"^\(([A-Z])\) (.+)$", question, re.MULTILINE))
        if plain_text(found) == plain_text(listed.get(option[1], "")):
            return True
        return leading_letter(found, "".join(listed) or _CAPITALS) == option[1]
    if re.fullmatch(r"-?\d+", wanted):
        number = re.match(r"[,;\s]*+([-+]?)(\d[\d,]*+)(?:\.0++)?(?![\d.]*\d)", found)
        return number is not None and _whole(number[1] + number[2].replace(",", "")) == _whole(wanted)
    if re.fullmatch(r"[\[\](){}<> ]+", wanted):
        return re.sub(r"\s", "", found) == re.sub(r"\s", "", wanted)
    if wanted.casefold() in _WORDS:
        first = re.match(r"\w+", found)
        return first is not None and first[0].casefold() == wanted.casefold()
    return _words(found) == _words(wanted)


def _whole(number: str) -> str:
    """Return a whole number in one spelling; text has no limit on digits."""
    digits = number.lstrip("+-").lstrip("0") or "0"
    return f"-{digits}" if number.startswith("-") and digits != "0" else digits


def _trimmed(text: str) -> str | None:
    return text.strip().strip("\"'$").rstrip(".").strip() or None


def _words(text: str) -> list[str]:
    return [word.strip(".,;'\"").casefold() for word in re.split(r"[\s,]+", text) if word.strip(".,;'\"")]
