"""Every kind of verifiable check against answers that pass and answers that just fail, and its bad input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.checks.format import FormatCheck, failed, parse_checks
from gra.checks.format_kinds import KINDS
from gra.core.errors import DataError

# kind, arguments, answers that pass, answers that do not
CASES = [
    ("words_at_most", {"n": 3}, ["one two three", "- one\n- two\n- three"], ["one two three four"]),
    ("words_at_least", {"n": 3}, ["one two three"], ["one two", "one — two"]),
    ("words_exactly", {"n": 2}, ["Hello there.", "Hello - there"], ["Hello", "a b c"]),
    ("lowercase", {}, ["all small, 3 times"], ["One Capital", "123"]),
    ("uppercase", {}, ["LOUD 1!"], ["LOUd", "1!"]),
    ("contains", {"text": "Rain"}, ["The Rain falls"], ["the rain falls"]),
    ("contains", {"text": "Rain", "ignore_case": True}, ["the rain falls"], ["the sun"]),
    ("not_contains", {"text": "sorry", "ignore_case": True}, ["fine"], ["Sorry, no"]),
    ("starts_with", {"text": "Yes"}, ["  Yes, it is"], ["yes", "Oh Yes"]),
    ("ends_with", {"text": "Over."}, ["Done. Over.\n"], ["Over", "Over. And out"]),
    ("one_of", {"options": ["Rome"]}, ["Rome", " rome. ", '"Rome."', "'ROME'"], ["Rome is it", "Milan", "Rome!"]),
    ("numbered_list", {"n": 2}, ["1. a\n2. b", "Here:\n1) a\n\n2) b"], 
     ["1. a", "1. a\n2. b\n3. c", "2. a\n1. b"]),
    ("numbered_list", {"n": 1}, ["1. a"], ["1.\n2."]),
    ("bullet_list", {"n": 2}, ["- a\n- b", "* a\n  * b", "Two:\n• a\n• b"], ["- a", "-a\n-b", "- a\n- b\n- c"]),
    ("json_keys", {"keys": ["a"]}, ['{"a": 1}', '{"a": 1, "b": 2}', '```json\n{"a": 1}\n```'],
     ['{"b": 1}', "a", '[{"a": 1}]', 'Sure: {"a": 1}', '{"a": 1']),
    ("json_keys", {"keys": ["a"], "exact": True}, ['{"a": 1}'], ['{"a": 1, "b": 2}']),
    ("sentences_exactly", {"n": 2}, ["It is 3.5 m. Yes!", 'She said "go." He went.', "One. Two"],
     ["One.", "One. Two. Three?"]),
    ("sentences_at_most", {"n": 1}, ["One.", "Half"], ["One. Two."]),
    ("sentences_at_least", {"n": 2}, ["One. Two.", "A! B? C."], ["One.", "1.5 m"]),
    ("has_word", {"text": "Rain"}, ["rain", "It rained."], ["the sun"]),
    ("has_word", {"text": "rain", "at_least": 2}, ["Rain, rain!"], ["rain"]),
    ("lacks_word", {"text": "no"}, ["I know", "nobody"], ["No, thanks", "yes or no"]),
    ("lacks_word", {"text": "so", "more_than": 2}, ["so", "sofa so sob"], ["so so"]),
    ("first_words", {"text": "In my opinion"}, ["**In my opinion**, yes", '"in my opinion'], ["Yes, in my opinion"]),
    ("last_words", {"text": "Any questions?"}, ["So. Any questions", "*Any questions?*\n"], ["Any questions? No."]),
    ("quoted", {}, ['"a b"', "“Yes.”\n"], ['"a" b', '"', "a"]),
    ("bulleted", {}, ["So:\n- a", "* a\n* b"], ["a - b", "-a"]),
    ("numbered", {}, ["1. a\n2. b", "So:\n1) a"], ["2. a", "1. a\n3. b", "a 1. b"]),
    ("json_value", {}, ['{"a": 1}', "[1]", '```json\n{"a": 1}\n```'], ["3", '"a"', 'Sure: {"a": 1}']),
    ("titled", {}, ["<<On rain>>\nIt fell."], ["<On rain>", "<<>>", "# Rain"]),
    ("highlights_at_least", {"n": 2}, ["*a* and **b c**"], ["*a* and b", "* a\n* b\n* c", "2 * 3 * 4 * 5"]),
    ("placeholders_at_least", {"n": 2}, ["[name], [address]"], ["[name]", "[] []"]),
    ("postscript", {"marker": "P.S."}, ["Bye.\nP.S. Come", "**PS:** Come"], ["Bye. P.S. Come", "P.P.S. Come"]),
    ("paragraphs_exactly", {"n": 2}, ["a\n***\nb", "a\n\nb\n***\nc\n***\n"], ["a\n\nb", "a\n***\nb\n***\nc"]),
    ("lines_exactly", {"n": 2}, ["a\n\nb\n"], ["a", "a\nb\nc"]),
    ("no_commas", {}, ["a b"], ["a, b"]),
    ("regex", {"pattern": r"\d{3}"}, [" 123\n"], ["1234", "x123"]),
    ("code_block", {}, ["```\nx\n```", "See:\n```py\nx = 1\n```\nDone."], ["x = 1", "```py\nx = 1"]),
    ("code_block", {"language": "python"}, ["```Python\nx\n```"], ["```\nx\n```", "```js\nx\n```"]),
]  # fmt: skip


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
        ([{"kind": "regex", "pattern": "("}], "not a valid regular expression"),
        (["lowercase"], "a mapping with a `kind`"),
        ([], "at least one check"),
        ({"kind": "lowercase"}, "must be a list"),
    ],
)
def test_bad_checks_name_the_place_and_the_remedy(rows: object, message: str) -> None:
    with pytest.raises(DataError, match=r"items\.jsonl:7: ") as caught:
        parse_checks(rows, "items.jsonl:7")
    assert message in str(caught.value)


@given(st.text(max_size=60))
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
