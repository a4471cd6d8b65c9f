"""Every kind of verifiable check against answers that pass and answers that just fail, and its bad input."""

from __future__ import annotations

import json

import pytest
from format_cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from gra.checks.format import FormatCheck, failed, parse_checks
from gra.checks.format_kinds import KINDS
from gra.core.errors import DataError


@pytest.mark.parametrize(("kind", "arguments", "good", "bad"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_each_kind(kind: str, arguments: dict[str, object], good: list[str], bad: list[str]) -> None:
    (check,) = parse_checks([{"kind": kind, **arguments}], "here:1")
    assert [text for text in good if not check.passes(text)] == []
    assert [text for text in bad if check.passes(text)] == []
    assert not check.passes("")
    assert not check.passes(" \n\t")


def test_every_kind_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(KINDS)


def test_a_row_fails_on_each_demand_it_misses() -> None:
    checks = parse_checks([{"kind": "lowercase"}, {"kind": "no_commas"}, {"kind": "words_at_most", "n": 9}], "here:1")
    assert failed(checks, "Well, yes") == ["lowercase", "no_commas"]
    assert failed(checks, "well yes") == []
    assert failed(checks, "") == ["lowercase", "no_commas", "words_at_most"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"kind": "word_at_most", "n": 3}], "did you mean `words_at_most`"),
        ([{"kind": "words_at_most", "m": 3}], "has no argument `m`; it takes n"),
        ([{"kind": "words_at_most"}], "needs `n`"),
        ([{"kind": "words_at_most", "n": "3"}], "whole number above 0, not '3'"),
        ([{"kind": "words_at_most", "n": True}], "whole number above 0"),
        ([{"kind": "words_at_most", "n": 0}], "whole number above 0"),
        ([{"kind": "contains", "text": "a", "ignore_case": 1}], "true or false"),
        ([{"kind": "one_of", "options": "a"}], "a list of texts"),
        ([{"kind": "one_of", "options": []}], "a list of texts"),
        ([{"kind": "starts_with", "text": ""}], "a text"),
        ([{"kind": "one_of", "options": ["a", ""]}], "a list of texts"),
        ([{"kind": "regex", "pattern": "("}], "not a valid regular expression"),
        ([{"kind": "regex", "pattern": "(a+)+b"}], "may take forever"),
        ([{"kind": "regex", "pattern": "(?:x|(.*,)*)y"}], "may take forever"),
        ([{"kind": "json_types", "types": {"a": "int"}}], "a mapping of paths to types (string, number"),
        ([{"kind": "json_types", "types": {"a": ["string"]}}], "a mapping of paths to types"),
        ([{"kind": "json_values", "values": {}}], "a mapping of paths to values, not {}"),
        ([{"kind": "contains_any", "texts": ["a", "a"], "at_least": 2}], "more than the number of `texts`"),
        (["lowercase"], "a mapping with a `kind`"),
        ([], "at least one check"),
        ({"kind": "lowercase"}, "must be a list"),
    ],
)
def test_bad_checks_name_the_place_and_the_remedy(rows: object, message: str) -> None:
    with pytest.raises(DataError, match=r"items\.jsonl:7: ") as caught:
        parse_checks(rows, "items.jsonl:7")
    assert message in str(caught.value)


@pytest.mark.parametrize("pattern", [r"(\d+, *)*\d+", r"(\n[^\n]+)*", r"(?:a++)+", r"(\w+\s+)*", r"(?is).*\b(a|b).*"])
def test_harmless_patterns_are_accepted(pattern: str) -> None:
    assert parse_checks([{"kind": "regex", "pattern": pattern}], "here:1")


pieces = st.sampled_from(
    ["a", "B", ".", "\n", " ", "1.", "- ", "```", "{", '"', "**", "(", "9" * 5000, "\ud800", "\0", "\u0301", ":"]
)
hostile = st.one_of(st.text(st.characters(), max_size=60), st.lists(pieces, max_size=30).map("".join))


@given(hostile)
def test_any_answer_gets_a_verdict(answer: str) -> None:
    for kind, arguments, _, _ in CASES:
        assert FormatCheck(kind, arguments).passes(answer) in (True, False)


@given(st.lists(st.text("abcdefg", min_size=1, max_size=6), min_size=1, max_size=8), st.integers(1, 10))
def test_words_are_counted_alike_by_the_three_word_checks(words: list[str], n: int) -> None:
    answer = " ".join(words)
    kinds = ("words_at_most", "words_at_least", "words_exactly")
    most, least, exact = (FormatCheck(kind, {"n": n}).passes(answer) for kind in kinds)
    assert (most and least) == exact == (len(words) == n)
    assert most or least


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=1, max_size=4))
def test_json_that_was_written_is_recognised(value: dict[str, int]) -> None:
    check = FormatCheck("json_keys", {"keys": list(value), "exact": True})
    assert check.passes(json.dumps(value))
    assert check.passes("```json\n" + json.dumps(value, indent=2) + "\n```")
    assert not check.passes(json.dumps({**value, "one more key": 0}))
