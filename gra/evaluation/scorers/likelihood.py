"""Task kind `likelihood`: the model weighs given choices and writes nothing.

A row is `{"id", "question", "choices", "answer"}`; `answer` is the index of the right choice, or its text.
"""

from __future__ import annotations

from gra.config.suite import TaskConfig
from gra.core.errors import DataError
from gra.evaluation.rows import Row
from gra.evaluation.task import RowTask, Sample, common_fields

LETTERS = "ABCDEFGHIJ"


class LikelihoodTask(RowTask):
    """Multiple choice by the likelihood of each choice; lm-eval computes both accuracies while it asks."""

    name = "likelihood"
    generates = False

    def parse(self, row: Row, where: str, config: TaskConfig) -> Sample:
        """Make a sample of one row."""
        return parse_choices(row, where)

    def template(self, config: TaskConfig) -> str:
        """Return the template of the task's `prompt`."""
        return f"gra_{config.prompt}.yaml"


def parse_choices(row: Row, where: str) -> Sample:
    """Make a sample of a row with choices.

    Raises:
        DataError: when the row is wrong.
    """
    choices = row.get("choices")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise DataError(f"{where}: `choices` must be a list of at least two texts")
    if len(choices) > len(LETTERS):
        raise DataError(f"{where}: {len(choices)} choices are more than there are letters for ({LETTERS})")
    answer = row.get("answer")
    if isinstance(answer, str) and choices.count(answer) == 1:
        answer = choices.index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        wanted = f"the index (0 to {len(choices) - 1}) or the text of the right choice"
        raise DataError(f"{where}: `answer` must be {wanted}, not {answer!r}")
    return Sample(**common_fields(row, where), choices=tuple(choices), answer=answer)
