"""Task kind `letter`: multiple choice where the model writes the letter of its choice.

A row is `{"id", "question", "choices", "answer"}`; `answer` is the index of the right choice, or its text.
An answer without a letter (`no_answer`) is counted apart from a wrong one: it shows a fault of form, not of knowledge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gra.checks.signs import plain_signs
from gra.config.suite import TaskConfig
from gra.evaluation.rows import Row
from gra.evaluation.scorers.likelihood import LETTERS, parse_choices
from gra.evaluation.scorers.value import found_score
from gra.evaluation.task import RowTask, Sample, SampleScore

_VERSION = 2  # raise when an answer is scored differently
_MARKER = re.compile(r"\b(?:answer|option|choice)(?: is| are|:| =)", re.IGNORECASE)
_VALUE = re.compile(r"(?:[\s:=]|\b(?:is|are)\b)*+([^\n]++)", re.IGNORECASE)
_BOX = re.compile(r"\\boxed\{[ \t]*(?:\\(?:text|textbf|mathrm|mathbf)\{)?[ \t]*\(?([A-Za-z])\)?[.:]?[ \t]*\}?")
# A letter, with the mark or the space behind it. Lower case counts only in brackets, before a mark, or alone.
_LETTER = re.compile(
    r"(?:(?:option|choice|letter)\s)?[\"'$]?(?:[(\[{<](?P<enclosed>[A-Za-z])[)\]}>]|(?P<bare>[A-Za-z])(?P<mark>[).:,;]|(?=\s|$|[\"'$!?/&])))",
    re.IGNORECASE,
)
# What follows a letter that is not an article or a pronoun: "A because", and not "A dog".
_AFTER_LETTER = re.compile(
    r"\s+(?:because|since|as|is|are|was|for|which|that|due|given|based|in this|with|when|so|it|this|and|or|from|if|"
    r"by|according|hence|therefore|thus|would|will|fits|matches|best|[-–—(])",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"\s+(?:think|believe|would|am|have|can|do|don't|guess|choose|chose|say|will|was|cannot|know)\b")
_SECOND = re.compile(r"[)\]}>.\s]*(?:\bor\b|\band\b|/|&|,)\s*(?:option\s|choice\s)?\(?([A-Za-z])(?:\b(?!['’])|\))")


class LetterTask(RowTask):
    """Multiple choice by letter; the model may also write the text of its choice."""

    name = "letter"
    extracts = True
    verdicts = ("right", "wrong", "no_answer")

    def parse(self, row: Row, where: str, config: TaskConfig) -> Sample:
        """Make a sample of one row."""
        return parse_choices(row, where)

    def template(self, config: TaskConfig) -> str:
        """Return the template that lists the choices with letters."""
        return "gra_letter.yaml"

    def version(self) -> list[Any]:
        """Return what decides a score beside the sample."""
        return [_VERSION, 0]

    def score(self, sample: Sample, text: str, finish: str | None) -> SampleScore:
        """Compare the letter that the text gives with the right one."""
        found = read_letter(text, sample.choices, finish == "stop")
        return found_score(found, sample.answer is not None and found == LETTERS[sample.answer])


def read_letter(text: str, choices: Sequence[str], ended: bool) -> str | None:
    """Find the letter of the choice that an answer takes.

    Looked for in this order:

    1. the last box
    2. what follows the last "answer:", "the answer is" or the like, on that line or the next one with text
    3. a first line that is a letter, or begins with a letter and a mark
    4. the one choice whose text the answer is

    Args:
        text: the answer, without the model's thinking.
        choices: the texts of the choices.
        ended: whether the model ended the answer; one that was cut off has to state its choice.

    Returns:
        The letter, or None unless the answer says plainly which it is.
    """
    text = plain_signs(re.sub(r"[*_`]", "", text)).strip()
    known = LETTERS[: len(choices)]
    if boxed := _BOX.findall(text):
        return _known(boxed[-1], known)
    if (stated := find_statement(text)) is not None:
        # The text of a choice may begin with a letter: "C major".
        by_text = _by_text(stated.text, choices) if len(stated.text) > 2 else None
        return by_text or leading_letter(stated.text, known, goes_on=not stated.begins)
    first = text.split("\n", 1)[0].strip()
    if found := re.fullmatch(r"[\"'(\[]?([A-J])[).:,\]\"']*", first) or re.match(r"\(?([A-J])[).:]\s*\S", first):
        return None if _names_second(first, found.end(1), found[1], known) else _known(found[1], known)
    return _by_text(text, choices) if ended else None


@dataclass(frozen=True, slots=True)
class Statement:
    """The answer that a text states.

    Attributes:
        text: the rest of its line.
        begins: whether it begins a sentence or a line, as after "Answer:", where "A" may be an article.
    """

    text: str
    begins: bool


def find_statement(text: str) -> Statement | None:
    """Return what follows the last "answer:", "option is" or the like, on that line or the next one with text."""
    for marker in reversed(list(_MARKER.finditer(text))):
        if value := _VALUE.match(text, marker.end()):
            begins = re.search(r"[:=\n]", text[marker.start() : value.start(1)]) is not None
            return Statement(value[1].strip(), begins)
    return None


def leading_letter(stated: str, letters: str, *, goes_on: bool = False) -> str | None:
    """Return the letter that a statement such as "B because ..." or "(b)" begins with, if it names one alone.

    Args:
        stated: what follows "the answer is".
        letters: the letters there are.
        goes_on: whether the statement goes on a sentence, so that "A" in upper case is no article.
    """
    found = _LETTER.match(stated)
    if found is None:
        return None
    letter, end = found["enclosed"] or found["bare"], found.end("enclosed" if found["enclosed"] else "bare")
    rest = stated[found.end() :]
    if found["bare"] and not found["mark"] and rest.strip(" \"'$.!?"):
        # Before a word, "A" may be an article and "I" a pronoun; a letter in lower case is part of a phrase.
        follows = _AFTER_LETTER.match(rest) is not None or rest[0] in "/&\"'$"
        if letter.islower() or (letter == "I" and (_PRONOUN.match(rest) or not follows)):
            return None
        if letter == "A" and not (follows or goes_on):
            return None
    return None if _names_second(stated, end, letter, letters) else _known(letter, letters)


def _names_second(text: str, end: int, letter: str, known: str) -> bool:
    """Return whether another letter is named beside the one that ends at `end`: "A or B"."""
    second = _SECOND.match(text, end)
    return second is not None and second[1] in known and second[1] != letter


def _known(found: str, known: str) -> str | None:
    return found.upper() if found.upper() in known else None


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    wanted = plain_text(text)
    same = [LETTERS[place] for place, choice in enumerate(choices) if plain_text(choice) == wanted]
    return same[0] if len(same) == 1 else None


def plain_text(text: str) -> str:
    """Return a text without case, marks around it and spaces that differ."""
    return re.sub(r"\s+", " ", text).strip().strip(".\"'$ ").casefold()
