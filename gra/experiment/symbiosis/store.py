"""Keep solutions of solved problems, of which the teacher sees those of the nearest problems."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gra.core.errors import DataError
from gra.data.embedder import Embedder, similarities
from gra.data.seeds.files import BadRow, read_rows
from gra.experiment.symbiosis.problems import WordProblem, question_key

Author = Literal["given", "teacher", "student"]


@dataclass(frozen=True, slots=True)
class StoredSolution:
    """A solution in the store; round 0 is that of a store that was given."""

    question: str
    solution: str
    author: Author = "given"
    round: int = 0


class SolutionStore:
    """Solutions by question; it never holds a held-out problem.

    Args:
        held_out: the problems that measure.
        known: solutions that it begins with.
    """

    def __init__(self, held_out: Iterable[WordProblem], known: Iterable[StoredSolution] = ()) -> None:
        self._held_out = {question_key(problem.question): problem.id for problem in held_out}
        self._by_question: dict[str, list[StoredSolution]] = {}
        for entry in known:
            self.add(entry)

    def add(self, entry: StoredSolution) -> None:
        """Add a solution, unless the question has the same one of this author already.

        Raises:
            DataError: when its question is held out.
        """
        key = question_key(entry.question)
        if key in self._held_out:
            raise DataError(
                f"the store holds the held-out problem `{self._held_out[key]}`; remove it from the file of `store`, or "
                "from `held_out`"
            )
        entries = self._by_question.setdefault(key, [])
        if (entry.solution, entry.author) not in {(other.solution, other.author) for other in entries}:
            entries.append(entry)

    def entries(self) -> list[StoredSolution]:
        """Return all solutions, in the order of their questions."""
        return [entry for entries in self._by_question.values() for entry in entries]

    def shown(self) -> dict[str, StoredSolution]:
        """Return by question the solution that prompts show: the first that is not the student's, else the first."""
        return {
            key: min(entries, key=lambda entry: entry.author == "student") for key, entries in self._by_question.items()
        }

    def counts(self) -> dict[str, int]:
        """Return the number of solved questions, and of those that the student alone has solved."""
        return {
            "questions": len(self._by_question),
            "solutions": len(self.entries()),
            "student_alone": sum(entry.author == "student" for entry in self.shown().values()),
        }

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain values, one for each solution."""
        return [asdict(entry) for entry in self.entries()]


async def nearest(
    store: SolutionStore, questions: Sequence[str], count: int, embedder: Embedder | None
) -> Mapping[str, Sequence[StoredSolution]]:
    """Choose the solved problems that a prompt shows, the nearest one last and never the question itself.

    Args:
        store: the solutions.
        questions: the problems to be solved.
        count: how many to show of each.
        embedder: embeds them; None where none are shown.

    Returns:
        The solutions by question.
    """
    shown = store.shown()
    if embedder is None or not shown:
        return {question: () for question in questions}
    solved = list(shown.values())
    near = await asyncio.to_thread(similarities, embedder, questions, [entry.question for entry in solved])
    found: dict[str, Sequence[StoredSolution]] = {}
    for question, row in zip(questions, near, strict=True):
        own = question_key(question)
        order = [solved[place] for place in np.argsort(-row, kind="stable")]
        found[question] = [entry for entry in order if question_key(entry.question) != own][:count][::-1]
    return found


def read_store(path: Path) -> list[StoredSolution]:
    """Read the solutions of a JSONL file with `question` and `solution` in each row.

    Raises:
        DataError: naming the first line that is wrong.
    """
    found = []
    for placed in read_rows(path):
        row = {} if isinstance(placed.row, BadRow) else placed.row
        question, solution = row.get("question"), row.get("solution")
        if not isinstance(question, str) or not isinstance(solution, str):
            raise DataError(f'{placed.where}: a row of the store is {{"question": "...", "solution": "..."}}; mend it')
        found.append(StoredSolution(question, solution))
    return found
