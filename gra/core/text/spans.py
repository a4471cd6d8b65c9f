"""Find the places of named mentions in a text, and choose among places that overlap."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class LabelSpan:
    """A part of a text, from `start` to before `end` in characters, and its type.

    The label of a whole text is a span over all of it.
    """

    start: int
    end: int
    type: str


@dataclass(frozen=True, slots=True)
class AlignedSpans:
    """The spans of mentions, left to right and without overlaps, and how many mentions are not in the text."""

    spans: tuple[LabelSpan, ...]
    missing: int


def align(text: str, mentions: Sequence[tuple[str, str]]) -> AlignedSpans:
    """Find mentions in a text: the n-th mention of a name is its n-th occurrence.

    Occurrences as whole words come first. Of spans that overlap, the longer one stays.

    Args:
        text: what the mentions were copied from.
        mentions: name and type, in the order of the text.
    """
    used: Counter[str] = Counter()
    found: list[LabelSpan] = []
    for name, kind in mentions:
        places = _occurrences(text, name)
        if used[name] < len(places):
            found.append(LabelSpan(places[used[name]], places[used[name]] + len(name), kind))
        used[name] += 1
    return AlignedSpans(without_overlaps(found), len(mentions) - len(found))


def _occurrences(text: str, name: str) -> list[int]:
    if not name.strip():
        return []
    whole = [found.start() for found in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    return whole or [found.start() for found in re.finditer(re.escape(name), text)]


def without_overlaps(
    spans: Iterable[LabelSpan], weights: Mapping[LabelSpan, float] | None = None
) -> tuple[LabelSpan, ...]:
    """Return spans that do not overlap, left to right: the heavier goes before, then the longer, then the earlier."""
    known = weights or {}
    kept: list[LabelSpan] = []
    for span in sorted(set(spans), key=lambda s: (-known.get(s, 0.0), s.start - s.end, s)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return tuple(sorted(kept))
