"""Find the places of named mentions in a text, and choose among places that overlap."""

from __future__ import annotations

import re
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
    """Find mentions in a text: longer names get their place first, and each the first occurrence that is free.

    So the n-th mention of a name is its n-th occurrence outside longer ones. Occurrences as whole words come first.
    A mention without a free occurrence counts as missing.

    Args:
        text: what the mentions were copied from.
        mentions: name and type, in the order of the text.
    """
    found: list[LabelSpan] = []
    for name, kind in sorted(mentions, key=lambda mention: -len(mention[0])):
        spans = (LabelSpan(start, start + len(name), kind) for start in _occurrences(text, name))
        if free := next((span for span in spans if _is_free(span, found)), None):
            found.append(free)
    return AlignedSpans(tuple(sorted(found)), len(mentions) - len(found))


def _is_free(span: LabelSpan, placed: Iterable[LabelSpan]) -> bool:
    return all(span.end <= other.start or other.end <= span.start for other in placed)


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
        if _is_free(span, kept):
            kept.append(span)
    return tuple(sorted(kept))
