"""The screen: what would be accepted and repeats an item of the recipe's suite does not get into the dataset.

What stands in a candidate depends on nothing but its own texts, so the verdict is part of its story: it is recorded
with it, and neither concurrency nor a restart can change it.
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
from gra.data.contamination import RULES, Match, SuiteIndex, SuiteItem, verdict_of

# From a suite's file (and a folder with benchmark files) to its items, and why which tasks are left out.
ReadSuite = Callable[[Path, Path | None], tuple[Sequence[SuiteItem], Mapping[str, str]]]
_ROWS = 512  # looked at in one go
_BUILDING = Lock()
_INDEXES: WeakValueDictionary[str, SuiteIndex] = WeakValueDictionary()  # of the suites in use, by digest


class Decontaminator:
    """A suite's items, held against candidates; the index is built when the first comes."""

    def __init__(self, suite: str, items: Sequence[SuiteItem], left_out: Mapping[str, str]) -> None:
        self._suite = suite
        self._items = list(items)
        self._left_out = dict(left_out)

    @cached_property
    def digest(self) -> str:
        """Of all that a verdict depends on beside the candidate."""
        return digest([RULES, [[item.task, item.id, item.text, list(item.choices)] for item in self._items]])

    def notes(self) -> Iterator[str]:
        """What a person should know before the run."""
        for task, reason in self._left_out.items():
            yield f"! {task} of {self._suite} is not looked for in the rows: {reason}"

    def to_json(self) -> dict[str, Any]:
        """What is looked for, for the manifest."""
        tasks = Counter(item.task for item in self._items)
        return {
            "suite": self._suite,
            "digest": self.digest,
            "items": len(self._items),
            "items_by_task": dict(tasks),
            "left_out": self._left_out,
        }

    def judge(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Each of these candidates, which all would be accepted, with the verdict on it."""
        # Of a candidate with drafts the others may become the worse half of preference pairs.
        texts = [[c.instruction, c.response, *(draft.response for draft in c.alternatives)] for c in candidates]
        return [self._judged(c, found) for c, found in zip(candidates, self._index.check(texts), strict=True)]

    @cached_property
    def _index(self) -> SuiteIndex:
        with _BUILDING:  # arms that are made side by side share it
            index = _INDEXES.get(self.digest)
            if index is None:
                index = _INDEXES[self.digest] = SuiteIndex(self._items)
            return index

    def _judged(self, candidate: Candidate, matches: Sequence[Match]) -> Candidate:
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
        return replace(candidate, state=State.CONTAMINATED, reason=reason, contamination=found)


def open_decontaminator(loaded: Loaded[SynthesisRecipe], read_suite: ReadSuite) -> Decontaminator | None:
    """The screen that a recipe asks for.

    Raises:
        RecipeError: when the suite or its folder is wrong or not there.
        DataError: when a row of the suite is wrong.
        ModelUnavailable: when the data of one of its tasks cannot be had.
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
    """The candidates, those that would be accepted with the verdict of the screen, if there is one."""
    told = list(candidates)
    if decontaminator is None:
        return told
    places = [place for place, candidate in enumerate(told) if candidate.state is State.ACCEPTED]
    for start in range(0, len(places), _ROWS):
        some = places[start : start + _ROWS]
        judged = await asyncio.to_thread(decontaminator.judge, [told[place] for place in some])
        for place, candidate in zip(some, judged, strict=True):
            told[place] = candidate
    return told
