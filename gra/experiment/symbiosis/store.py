"""Keep solutions of solved problems, of which the teacher sees those of the nearest problems."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gra.core.errors import DataError
from gra.core.files import read_regular
from gra.data.embedder import Embedder
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
    store: SolutionStore, questions: Sequence[str], count: int, embedder: Path | None
) -> Mapping[str, Sequence[StoredSolution]]:
    """Choose the solved problems that a prompt shows, the nearest one last and never the question itself.

    Args:
        store: the solutions.
        questions: the problems to be solved.
        count: how many to show of each.
        embedder: the folder of the embedding model; None where none are shown.

    Returns:
        The solutions by question.
    """
    shown = store.shown()
    if not count or not shown or embedder is None:
        return {question: () for question in questions}
    solved = list(shown.values())
    texts = [entry.question for entry in solved] + list(questions)
    vectors = (await asyncio.to_thread(Embedder(embedder).encode, texts)).astype(np.float64)
    # Rounded, so that the order of summation does not decide between equals.
    near = np.round(vectors[len(solved) :] @ vectors[: len(solved)].T, 5)
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
    for number, line in enumerate(read_regular(path).splitlines(), 1):
        try:
            row = json.loads(line)
            found.append(StoredSolution(row["question"], row["solution"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            row = None
        if row is None or not (isinstance(found[-1].question, str) and isinstance(found[-1].solution, str)):
            raise DataError(f'{path}:{number}: a row of the store is {{"question": "...", "solution": "..."}}; mend it')
    return found
