"""Read problems whose right answer is a number, and compare questions, lines and answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gra.checks.answers import equals, final_answer, stated_value
from gra.checks.arithmetic import evaluate
from gra.core.errors import DataError
from gra.core.types import Seed

_BARE = re.compile(r"-?(?:\d[\d,]*)?\.?\d+\.?")
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A question and the number that answers it."""

    id: str
    question: str
    answer: str


def read_problems(seeds: Sequence[Seed], key: str) -> tuple[list[WordProblem], int]:
    """Return the seeds whose responses end in a number, and how many do not.

    Args:
        seeds: instruction and right response of each problem.
        key: of the recipe, for the error.

    Raises:
        DataError: when no response ends in a number.
    """
    found = [
        WordProblem(seed.id, seed.instruction, number) for seed in seeds if (number := known_number(seed.response))
    ]
    if not found:
        raise DataError(
            f"`{key}`: none of the {len(seeds)} responses ends in a number that a program can check; write a line "
            "`Answer: 42` or `#### 42` at their end, or take other problems"
        )
    return found, len(seeds) - len(found)


def known_number(response: str) -> str | None:
    """Return the number that a response ends in; None where a program cannot find one."""
    answer = final_answer(response)
    try:
        return None if answer is None else str(evaluate(answer.replace(",", "")))
    except ValueError:
        return None


def question_key(question: str) -> str:
    """Return a text that is the same for questions that differ in spaces, case and form of numbers alone."""
    return plain_line(question).casefold()


def refuse_shared(problems: Iterable[WordProblem], held_out: Iterable[WordProblem]) -> None:
    """Refuse problems of the rounds that are held out too: the store would hold what measures it.

    Raises:
        DataError: naming the first one.
    """
    measured = {question_key(problem.question): problem.id for problem in held_out}
    for problem in problems:
        if (twin := measured.get(question_key(problem.question))) is not None:
            raise DataError(
                f"the problem `{problem.id}` of `problems` is `{twin}` of `held_out` too, so the store would hold a "
                "held-out problem; remove it from one of the files"
            )


def plain_line(line: str) -> str:
    """Return a line without spaces and a final period, with numbers in one form: 1,200 and 1200.0 are 1200."""

    def number(found: re.Match[str]) -> str:
        digits = found[0].replace(",", "")
        return digits.rstrip("0").rstrip(".") if "." in digits else digits

    return re.sub(r"\s+", "", _NUMBER.sub(number, line)).rstrip(".")


def split_lines(solution: str, *, ended: bool = True) -> tuple[str, ...]:
    """Return the lines of a solution up to the one that states the answer.

    Args:
        solution: a model's text.
        ended: whether the text is whole. Then a last line is added with the value that it ends in, where no line states
            the answer. A text that was cut off gives () in this case.
    """
    whole = solution if ended else solution.rpartition("\n")[0]
    lines: list[str] = []
    for line in text_lines(whole):
        lines.append(line)
        if states_answer(line):
            return tuple(lines)
    value = final_answer(whole) if ended and lines else None
    return (*lines, f"Answer: {value}") if value is not None else tuple(lines) if ended else ()


def text_lines(text: str) -> list[str]:
    """Return the lines of a text, without empty ones and the marks of code blocks."""
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("```")]


def next_line(text: str, *, ended: bool) -> str | None:
    """Return the first line of a continued solution; None where there is no whole line.

    A number alone is the answer: models that continue a solution leave the word before it out.

    Args:
        text: what a model wrote.
        ended: whether the text is whole; the only line of a text that was cut off is cut off itself.
    """
    lines = text_lines(text)
    if not lines or not (ended or len(lines) > 1):
        return None
    return f"Answer: {lines[0].rstrip('.')}" if ended and len(lines) == 1 and _BARE.fullmatch(lines[0]) else lines[0]


def states_answer(line: str) -> bool:
    """Return whether a line states the answer, which ends a solution."""
    return stated_value(line) is not None


def is_solved(problem: WordProblem, lines: Sequence[str]) -> bool:
    """Return whether lines state the problem's answer."""
    given = final_answer("\n".join(lines)) if lines and states_answer(lines[-1]) else None
    return given is not None and equals(given, problem.answer)
