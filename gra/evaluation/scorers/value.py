"""Task kind `value`: a number or a formula as the answer (GSM8K, MATH).

A row is `{"id", "question", "answer"}`; of an answer such as `... #### 18` the 18 counts.
"""

from __future__ import annotations

from typing import Any

from gra.checks.answers import ANSWERS_VERSION, equals, final_answer, last_number, stated_value
from gra.config.suite import TaskConfig
from gra.core.hashing import digest
from gra.evaluation.rows import Row, text_field
from gra.evaluation.task import RowTask, Sample, SampleScore, common_fields

_VERSION = 2  # raise when an answer is scored differently; comparing values has a version of its own


class ValueTask(RowTask):
    """Answers that are a value; the target of a sample is the right value as text."""

    name = "value"
    extracts = True
    verdicts = ("right", "wrong", "no_answer")

    def parse(self, row: Row, where: str, config: TaskConfig) -> Sample:
        """Make a sample of one row."""
        return parse_answer(row, where)

    def template(self, config: TaskConfig) -> str:
        """Return the template that asks for steps and the value."""
        return "gra_steps.yaml"

    def version(self) -> list[Any]:
        """Return what decides a score beside the sample."""
        return [_VERSION, ANSWERS_VERSION]

    def target_digest(self, sample: Sample) -> str:
        """Return a digest of the right value."""
        return answer_digest(sample)

    def score(self, sample: Sample, text: str, finish: str | None) -> SampleScore:
        """Compare the value that the text states, or ends in, with the right one.

        A text that was cut off counts only where it states its answer.
        """
        found = stated_value(text) or None
        if found is None and finish == "stop":
            found = final_answer(text) or last_number(text)
        return found_score(found, found is not None and equals(found, sample.target))


def parse_answer(row: Row, where: str) -> Sample:
    """Make a sample of a row whose answer is a text; the prompt may name its category.

    Raises:
        DataError: when the row is wrong.
    """
    target = text_field(row, "answer", where).rpartition("####")[2].strip()
    return Sample(**common_fields(row, where), target=target, category_shown=True)


def answer_digest(sample: Sample) -> str:
    """Return a digest of the right answer of a sample that `parse_answer` made."""
    return sample.target_digest([], 0, digest([sample.target, []]))


def found_score(found: str | None, right: bool) -> SampleScore:
    """Return the score of an answer that was looked for in a text; no answer is counted apart from a wrong one."""
    return SampleScore(right, "no_answer" if found is None else "right" if right else "wrong", found)
