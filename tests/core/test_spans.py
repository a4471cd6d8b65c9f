"""Mentions find their places in a text, and of overlapping spans the heavier and longer stay."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.core.text.spans import LabelSpan, align, without_overlaps


@pytest.mark.parametrize(
    ("text", "mentions", "spans", "missing"),
    [
        ("Ann met Ann.", [("Ann", "p"), ("Ann", "p")], [(0, 3), (8, 11)], 0),
        ("Ann met Ann.", [("Ann", "p")] * 3, [(0, 3), (8, 11)], 1),
        ("Annual report of Ann", [("Ann", "p")], [(17, 20)], 0),  # whole words first
        ("Annual", [("Ann", "p")], [(0, 3)], 0),
        ("New York City", [("York", "c"), ("New York City", "c")], [(0, 13)], 1),  # none outside the longer
        ("The University of Oslo is in Oslo.", [("University of Oslo", "o"), ("Oslo", "c")], [(4, 22), (29, 33)], 0),
        ("The University of Oslo is in Oslo.", [("Oslo", "c"), ("University of Oslo", "o")], [(4, 22), (29, 33)], 0),
        ("a+b (c)", [("(c)", "x"), ("d", "x"), (" ", "x")], [(4, 7)], 2),
        ("", [], [], 0),
    ],
)
def test_mentions_are_aligned(
    text: str, mentions: list[tuple[str, str]], spans: list[tuple[int, int]], missing: int
) -> None:
    found = align(text, mentions)
    assert ([(s.start, s.end) for s in found.spans], found.missing) == (spans, missing)


def test_heavier_span_goes_before_a_longer_one() -> None:
    short, long = LabelSpan(0, 3, "a"), LabelSpan(0, 9, "b")
    assert without_overlaps([short, long]) == (long,)
    assert without_overlaps([short, long], {short: 0.9, long: 0.6}) == (short,)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6), st.sampled_from("ab")), max_size=8))
def test_kept_spans_never_overlap(drawn: list[tuple[int, int, str]]) -> None:
    spans = [LabelSpan(start, start + length, kind) for start, length, kind in drawn]
    kept = without_overlaps(spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(kept))
    assert set(kept) <= set(spans)
    assert bool(kept) == bool(spans)
