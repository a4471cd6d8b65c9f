"""Remember what a server takes: which form of each question, and which sampling settings; no I/O.

Knowledge comes from what the server did with calls. It decides how a call is put, never what a recorded answer means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

# A form is given up when it never worked in a few answers, or seldom in many.
_NEVER_OBEYED = 2
_RARELY_OBEYED = 10
_OBEYED_SHARE = 0.5
# A form is given up when this number of calls were declined in it and answered in a later one.
_PASSED_OVER = 2
_LENGTH_KEYS = ("max_tokens", "max_completion_tokens")  # OpenAI's newer models take the second alone

Fields = frozenset[tuple[str, float]]


@dataclass
class FormRecord:
    """Count what became of calls that were put in one form."""

    obeyed: int = 0  # Answered in the shape that was asked for.
    disobeyed: int = 0  # Answered in another shape.
    passed_over: int = 0  # Declined, and answered in a later form.
    refused: bool = False  # Declined by the name of its field, and answered in a later form.

    @property
    def answered(self) -> int:
        """Return the number of answers."""
        return self.obeyed + self.disobeyed

    @property
    def share(self) -> float:
        """Return the share of answers in the shape that was asked for."""
        return self.obeyed / self.answered if self.answered else 0.0

    @property
    def works(self) -> bool:
        """Return whether the form is worth another call."""
        if not self.answered:
            return not self.refused and self.passed_over < _PASSED_OVER
        if not self.obeyed:
            return self.disobeyed < _NEVER_OBEYED
        return self.answered < _RARELY_OBEYED or self.share >= _OBEYED_SHARE


class FormChoice:
    """Choose the form of each question by what became of earlier calls."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, int], FormRecord] = defaultdict(FormRecord)

    def order(self, question: str, count: int) -> list[int]:
        """Return the places of the forms to try: the first that works, then those after it.

        Where none works any more, the form with the largest share of good answers is tried first.
        """
        records = [self._records[question, place] for place in range(count)]
        works = next((place for place, record in enumerate(records) if record.works), None)
        first = max(range(count), key=lambda place: records[place].share) if works is None else works
        return list(range(first, count))

    def answered(self, question: str, place: int, *, obeyed: bool) -> None:
        """Count an answer, and whether it has the shape that was asked for."""
        record = self._records[question, place]
        record.obeyed += obeyed
        record.disobeyed += not obeyed

    def passed_over(self, question: str, place: int, *, named: bool) -> None:
        """Count a call that was declined in this form and answered in a later one.

        Args:
            question: What was asked.
            place: The form's place.
            named: Whether the server named the form's own field as the reason.
        """
        record = self._records[question, place]
        record.passed_over += 1
        record.refused |= named


@dataclass
class SamplingChoice:
    """Know which sampling settings a server takes, by their values: some take a default temperature alone."""

    length_key: str = _LENGTH_KEYS[0]
    _omitted: dict[Fields, frozenset[str]] = field(default_factory=dict)
    _proven: set[Fields] = field(default_factory=set)
    _given_up: set[Fields] = field(default_factory=set)

    def omitted(self, fields: Mapping[str, float]) -> frozenset[str]:
        """Return the settings to leave out of a call that wants these."""
        return self._omitted.get(frozenset(fields.items()), frozenset())

    def settled(self, fields: Mapping[str, float]) -> bool:
        """Return whether there is nothing left to find out about these settings."""
        wanted = frozenset(fields.items())
        return wanted in self._proven or wanted in self._given_up

    def give_up(self, fields: Mapping[str, float]) -> None:
        """Remember that calls with these settings are declined whichever of them are left out."""
        self._given_up.add(frozenset(fields.items()))

    def answered(self, fields: Mapping[str, float], omitted: Collection[str], length_key: str) -> None:
        """Remember that a call with these settings was answered without the omitted ones."""
        wanted = frozenset(fields.items())
        self._proven.add(wanted)
        self._omitted[wanted] = frozenset(omitted)
        self.length_key = length_key

    def other_length_key(self, length_key: str) -> str:
        """Return the other name of the length limit."""
        return _LENGTH_KEYS[length_key == _LENGTH_KEYS[0]]

    def relaxations(self, fields: Mapping[str, float]) -> Iterator[frozenset[str]]:
        """Yield sets of settings to leave out, small ones first and those that matter least first."""
        names = [name for name in ("repetition_penalty", "top_p", "temperature") if name in fields]
        for size in range(1, len(names) + 1):
            yield from map(frozenset, combinations(names, size))
