"""Keep candidates that repeat a test item of the recipe's suite out of the dataset.

The verdict depends only on the candidate's own texts. It is recorded with the candidate, so neither concurrency nor a
restart can change it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from gra.config.loader import Loaded, find_file
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import ModelUnavailable
from gra.core.hashing import digest
from gra.core.types import Candidate, ContaminationMatch, State
from gra.core.vocabulary import RejectedAt
from gra.data.contamination import RULES, Match, SuiteIndex, SuiteItem, verdict_of

# Reads a suite file (and a folder with benchmark files); returns its items, and why tasks are left out, by task.
ReadSuite = Callable[[Path, Path | None], tuple[Sequence[SuiteItem], Mapping[str, str]]]
_ROWS = 512  # rows searched at a time
_BUILDING = Lock()
_INDEXES: WeakValueDictionary[str, SuiteIndex] = WeakValueDictionary()  # of the suites in use, by digest


class Decontaminator:
    """Compare candidates with a suite's items; the first candidate builds the index."""

    def __init__(self, suite: str, items: Sequence[SuiteItem], left_out: Mapping[str, str]) -> None:
        self._suite = suite
        self._items = list(items)
        self._left_out = dict(left_out)

    @cached_property
    def digest(self) -> str:
        """The digest of everything that a verdict depends on, except the candidate."""
        return digest([RULES, [[item.task, item.id, item.text, list(item.choices)] for item in self._items]])

    def notes(self) -> Iterator[str]:
        """Say which tasks are not searched for, and why."""
        for task, reason in self._left_out.items():
            yield f"! {task} of {self._suite} is not looked for in the rows: {reason}"

    def to_json(self) -> dict[str, Any]:
        """Return what is searched for, for the manifest."""
        tasks = Counter(item.task for item in self._items)
        return {
            "suite": self._suite,
            "digest": self.digest,
            "items": len(self._items),
            "items_by_task": dict(tasks),
            "left_out": self._left_out,
        }

    def check(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return accepted candidates with their contamination verdicts."""
        # Alternative responses may become the worse half of preference pairs.
        texts = [[c.instruction, c.response, *(other.response for other in c.alternatives)] for c in candidates]
        return [self._with_verdict(c, found) for c, found in zip(candidates, self._index.check(texts), strict=True)]

    @cached_property
    def _index(self) -> SuiteIndex:
        with _BUILDING:  # arms that run at once share an index
            index = _INDEXES.get(self.digest)
            if index is None:
                index = _INDEXES[self.digest] = SuiteIndex(self._items)
            return index

    def _with_verdict(self, candidate: Candidate, matches: Sequence[Match]) -> Candidate:
        verdict = verdict_of(matches)
        if not matches:
            return replace(candidate, contamination=ContaminationMatch(verdict))
        best = matches[0]
        item = self._items[best.item]
        found = ContaminationMatch(
            verdict, len(matches), item.task, item.id, best.method, best.score, best.longest, best.text, best.row_text
        )
        if verdict != "contaminated":
            return replace(candidate, contamination=found)
        reason = f"repeats a test item of {item.task}"
        step = RejectedAt.CONTAMINATION
        return replace(candidate, state=State.CONTAMINATED, rejected_at=step, reason=reason, contamination=found)


def open_decontaminator(loaded: Loaded[SynthesisRecipe], read_suite: ReadSuite) -> Decontaminator | None:
    """Return the search for test items that a recipe asks for, or None.

    Raises:
        RecipeError: when the suite or its folder is wrong or missing.
        DataError: when a row of the suite is wrong.
        ModelUnavailable: when the data of one of its tasks is missing and cannot be downloaded.
    """
    asked = loaded.recipe.contamination
    if asked is None:
        return None
    data_dir = None if asked.data_dir is None else find_file(asked.data_dir, loaded.path)
    try:
        return Decontaminator(asked.suite, *read_suite(find_file(asked.suite, loaded.path), data_dir))
    except ModelUnavailable as error:
        raise ModelUnavailable(
            f"`contamination.suite: {asked.suite}` cannot be looked for: {error} (`contamination.data_dir`)"
        ) from None


async def decontaminate(decontaminator: Decontaminator | None, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates; accepted ones get a contamination verdict where the recipe names a suite."""
    checked = list(candidates)
    if decontaminator is None:
        return checked
    places = [place for place, candidate in enumerate(checked) if candidate.state is State.ACCEPTED]
    for start in range(0, len(places), _ROWS):
        batch = places[start : start + _ROWS]
        found = await asyncio.to_thread(decontaminator.check, [checked[place] for place in batch])
        for place, candidate in zip(batch, found, strict=True):
            checked[place] = candidate
    return checked
