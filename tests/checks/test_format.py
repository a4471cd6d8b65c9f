"""Every kind of verifiable check against answers that pass and answers that just fail, and its bad input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.checks.format import FormatCheck, failed, parse_checks
from gra.checks.format_kinds import KINDS
from gra.core.errors import DataError

TWICE = '{"a": 1, "a": 2}'
# kind, arguments, answers that pass, answers that just fail
CASES = [
    ("words_at_most", {"n": 3}, ["one two three", "- one\n- two\n- three", "Don't stop now", "1,000 sheep now",
     "see https://a.example/b,c d"], ["one two three four", "one,two,three,four", "red;green;blue;gray",
     "a sea—blue and",
     "yes/no/maybe okay", "我喜欢猫"]),
    ("words_at_least", {"n": 3}, ["one two three", "one,two,three", "我喜欢"], ["one two", "one — two",
     "well-known fact"]),
    ("words_exactly", {"n": 2}, ["Hello there.", "Hello - there", "Done.Next", "one\u200btwo"], ["Hello", "a b c",
     "a,b,c"]),
    ("lowercase", {}, ["all small, 3 times"], ["One Capital", "123"]),
    ("uppercase", {}, ["LOUD 1!"], ["LOUd", "1!"]),
    ("contains", {"text": "Rain"}, ["The Rain falls"], ["the rain falls"]),
    ("contains", {"text": "Rain", "ignore_case": True}, ["the rain falls"], ["the sun"]),
    ("contains", {"text": "caf\u00e9"}, ["a cafe\u0301"], ["a cafe"]),
    ("not_contains", {"text": "sorry", "ignore_case": True}, ["fine"], ["Sorry, no"]),
    ("contains_any", {"texts": ["Rome", "Roma"]}, ["It is Rome.", "Roma"], ["Milan", "rome"]),
    ("contains_any", {"texts": ["red", "green", "blue"], "at_least": 2, "ignore_case": True},
     ["Red and blue"], ["red, red, red"]),
    ("starts_with", {"text": "Yes"}, ["  Yes, it is", '"Yes," she said', "**Yes**, it is", "> Yes.", "Yes—it is"],
     ["yes", "Oh Yes", "Yesterday"]),
    ("starts_with", {"text": "No"}, ["No.", "No, it is not.", "“No way”", "*No* one"], ["Nothing is known.",
     "No-one came", "Not so"]),
    ("starts_with", {"text": "First,"}, ["First, stir", "**First**, stir", "First,stir"], ["First stir",
     "Firstly, stir"]),
    ("starts_with", {"text": "Dog"}, ["Dog, cat"], ["Dog's life", "Dogs"]),
    ("starts_with", {"text": "It's"}, ["It’s late"], ["It is"]),
    ("ends_with", {"text": "Over."}, ["Done. Over.\n", '"Done. Over."', "**Over.**"], ["Over", "Over. And out",
     "Rover."]),
    ("ends_with", {"text": "?"}, ["Why?", '"Why?"', "*Why?*"], ["Why? So."]),
    ("ends_with", {"text": "no"}, ["I say no"], ["Milano", "a yes-no"]),
    ("one_of", {"options": ["Rome"]}, ["Rome", " rome. ", '"Rome."', "'ROME'", "Rome!", "**Rome**", "**Rome.**",
     "*Rome*!",
     "`Rome`", "(Rome)", "«Rome»"], ["Rome is it", "Milan", "Rome?", "Romes", "Rome, Italy"]),
    ("one_of", {"options": ["C++", "C#"]}, ["C++", "**C#**", "c++."], ["C", "C+"]),
    ("one_of", {"options": ["!", "-5"]}, ["!", "-5"], ["5", "?", "."]),
    ("numbered_list", {"n": 2}, ["1. a\n2. b", "Here:\n1) a\n\n2) b", "(1) Foo\n(2) Bar", "**1.** a\n**2.** b",
     "**1. a**\n**2. b**", "1: a\n2: b", "1.Foo\n2.Bar", "1\\. a\n2\\. b", "1\ufe0f\u20e3 a\n2\ufe0f\u20e3 b",
     "① a\n② b",
     "1. a\n   1. x\n   2. y\n2. b", "1. a\n   - x\n2. b", "> 1. a\n> 2. b", "1 - Foo\n2 - Bar",
     "1. In 2019\n2. 3.5 m"],
     ["1. a", "1. a\n2. b\n3. c", "2. a\n1. b", "1. a\n1. b", "1.5 m\n2.5 m", "12:30 tea\n13:30 cake", "(1)\n(2)",
      "1. a\n" + "9" * 5000 + ". b"]),
    ("numbered_list", {"n": 1}, ["1. a"], ["1.\n2."]),
    ("numbered_list", {"n": 10**18}, [], ["1. a"]),
    ("bullet_list", {"n": 2}, ["- a\n- b", "* a\n* b", "Two:\n• a\n• b", "– Foo\n– Bar", "— Foo\n— Bar", "•Foo\n•Bar",
     "- a\n  - x\n  - y\n- b", "* a\n\t* x\n* b", "Two:\n  - a\n  - b", "+ a\n+ b", "> - a\n> - b", "- a\n***\n- b",
     "✓ a\n✓ b"], ["- a", "-a\n-b", "- a\n- b\n- c", "- a\n  - b", "* * *\n- - -", "1. a\n2. b",
     "1. a\n   - b\n   - c"]),
    ("json_keys", {"keys": ["a"]}, ['{"a": 1}', '{"a": 1, "b": 2}', '```json\n{"a": 1}\n```', '```json {"a": 1}```',
     '```{"a": 1}```', '~~~json\n{"a": 1}\n~~~', '\ufeff{"a": 1}'],
     ['{"b": 1}', "a", '[{"a": 1}]', 'Sure: {"a": 1}', '{"a": 1', '{"a": NaN}', '{"a": -Infinity}', TWICE,
      '{"a": {"b": 1, "b": 2}}', '```json\n{"a": 1}\n```\nDone.', '{"a": ' + "1" * 5000 + "}"]),
    ("json_keys", {"keys": ["a"], "exact": True}, ['{"a": 1}'], ['{"a": 1, "b": 2}', TWICE]),
    ("json_types", {"types": {"a": "integer", "b.c": "string", "d.0": "boolean", "d": "array", "": "object"}},
     ['{"a": 1, "b": {"c": "x"}, "d": [true]}', '{"a": 1.0, "b": {"c": ""}, "d": [false, 1]}'],
     ['{"a": true, "b": {"c": "x"}, "d": [true]}', '{"a": 1.5, "b": {"c": "x"}, "d": [true]}',
      '{"a": "1", "b": {"c": "x"}, "d": [true]}', '{"a": 1, "b": "c", "d": [true]}',
     '{"a": 1, "b": {"c": "x"}, "d": []}', "1"]),
    ("json_types", {"types": {"n": "number", "z": "null"}}, ['{"n": 0.5, "z": null}'], ['{"n": true, "z": null}',
     '{"n": 1}']),
    ("json_types", {"types": {"a": "integer"}}, ['{"a": 2}'], ['{"a": 1e999}', '{"a": -1e999}', '{"a": null}']),
    ("json_types", {"types": {"": "null"}}, ["null"], ["nil", "{}"]),
    ("json_values", {"values": {"sum": 7, "list": [1, "a"], "deep.key": True}},
     ['{"sum": 7, "list": [1, "a"], "deep": {"key": true}}',
     '{"sum": 7.0, "list": [1, "a"], "deep": {"key": true}, "x": 0}'],
     ['{"sum": "7", "list": [1, "a"], "deep": {"key": true}}', '{"sum": 7, "list": [1, "a"], "deep": {"key": 1}}',
      '{"sum": 7, "list": [1], "deep": {"key": true}}', '{"sum": 7}', "7"]),
    ("json_values", {"values": {"": 42}}, ["42", "```\n42\n```"], ["42 apples", "true"]),
    ("json_values", {"values": {"city": "Rome"}, "ignore_case": True}, ['{"city": "ROME"}'], ['{"city": "Rom"}']),
    ("json_values", {"values": {"city": "Rome"}}, ['{"city": "Rome"}'], ['{"city": "ROME"}']),
    ("sentences_exactly", {"n": 2}, ["It is 3.5 m. Yes!", 'She said "go." He went.', "One. Two",
     "It opens at 9 a.m. Then it closes.",
     "Roses are red\nViolets are blue", "it rains. it pours.", "Two tips:\n- Eat well\n- Sleep",
     "# Rain\nIt falls. It stops.",
     "I live in the U.S. It is big.", "No. I will not.", "我喜欢猫。我也喜欢狗。", "1. Eat well.\n2. Sleep.",
     "Really?! Yes.",
     "I like cats, dogs, etc. They are nice.", "Dear Ann,\n\nIt rained. Bye.", "Vitamin C. It helps.",
     "He ran.She sat."],
     ["One.", "One. Two. Three?", "Dr. Smith left.", "Roses are red", "This is a\nwrapped line.", "It costs $3.50."]),
    ("sentences_exactly", {"n": 1}, ["Dr. Smith left at 9 a.m. and came back.", '"Where are you?" she asked.',
     '"Where are you?" Anna asked.', "He said “Stop!” and ran.", "J. R. R. Tolkien wrote it.", "The U.S. Army is big.",
     "Use fruit, e.g. Apples, i.e. sweet ones.", "Mr. and Mrs. Jones met Prof. Lee.", "See fig. 3 for it.",
     "Wait... what?",
     "WE OPEN AT 9 A.M. AND CLOSE AT 5 P.M.", "He (finally!) left.", "**Rain**\n\nIt falls.",
     "I like red,\nblue and green.",
     "Acme Inc. makes cars.", "# Rain", "```\na. B. C.\n```\nIt prints.", "We meet at 9 a.m. Monday."],
     ["It rains. It pours.", '"Where are you?" She did not say.', "Wow! That is it!", "He left. then he came back."]),
    ("sentences_at_most", {"n": 1}, ["One.", "Half", "Mr. Lee is in."], ["One. Two.", "one\ntwo"]),
    ("sentences_at_least", {"n": 2}, ["One. Two.", "A! B? C.", "one\ntwo"], ["One.", "1.5 m", "Dr. Lee"]),
    ("has_word", {"text": "Rain"}, ["rain", "It rained."], ["the sun"]),
    ("has_word", {"text": "rain", "at_least": 2}, ["Rain, rain!"], ["rain"]),
    ("lacks_word", {"text": "no"}, ["I know", "nobody"], ["No, thanks", "yes or no"]),
    ("lacks_word", {"text": "so", "more_than": 2}, ["so", "sofa so sob"], ["so so"]),
    ("lacks_word", {"text": "!"}, ["Hi."], ["Hi!"]),
    ("lacks_word", {"text": "C++"}, ["I like C", "C+"], ["C++ is big", "C++11"]),
    ("first_words", {"text": "In my opinion"}, ["**In my opinion**, yes", '"in my opinion', "In my *opinion*: no"],
     ["Yes, in my opinion", "In my opinions", "In my"]),
    ("first_words", {"text": "No"}, ["no, thanks", "_No_ way"], ["Nothing is known.", "No-one came"]),
    ("first_words", {"text": "Don't"}, ["Don’t go"], ["Do not go", "Don"]),
    ("first_words", {"text": "***"}, ["*** A"], ["A ***", "!!!"]),
    ("first_words", {"text": "a"}, ["a b"], ["!!!", "***"]),
    ("last_words", {"text": "Any questions?"}, ["So. Any questions", "*Any questions?*\n"], ["Any questions? No.",
     "Many questions?"]),
    ("last_words", {"text": "no"}, ["I say: No!"], ["Milano", "yes-no"]),
    ("last_words", {"text": "?"}, ["Why?"], ["Why? So."]),
    ("quoted", {}, ['"a b"', "“Yes.”\n", "«Oui»", "„Ja“"], ['"a" b', '"', "a", "\"abc'", "“abc\""]),
    ("bulleted", {}, ["So:\n- a", "* a\n* b", "– a"], ["a - b", "-a", "---", "*a* b"]),
    ("numbered", {}, ["1. a\n2. b", "So:\n1) a", "(1) a\n(2) b"], ["2. a", "1. a\n3. b", "a 1. b"]),
    ("json_value", {}, ['{"a": 1}', "[1]", '```json\n{"a": 1}\n```', "```[1]```"], ["3", '"a"', 'Sure: {"a": 1}',
     "[NaN]", TWICE]),
    ("titled", {}, ["<<On rain>>\nIt fell."], ["<On rain>", "<<>>", "# Rain"]),
    ("highlights_at_least", {"n": 2}, ["*a* and **b c**", "***a*** and *b*"], ["*a* and b", "* a\n* b\n* c",
     "2 * 3 * 4 * 5"]),
    ("placeholders_at_least", {"n": 2}, ["[name], [address]"], ["[name]", "[] []", "[ ] [x"]),
    ("postscript", {"marker": "P.S."}, ["Bye.\nP.S. Come", "**PS:** Come", "Bye.\nP. S. Come", "Bye.\np.s.\nCome",
     "PS - come"],
     ["Bye. P.S. Come", "P.P.S. Come", "Psychology is fun.", "PSA: come", "PS5 is new", "Bye.\nP.S."]),
    ("postscript", {"marker": "P.P.S."}, ["Bye.\nP.P.S. Come"], ["Bye.\nP.S. Come", "ppsx come"]),
    ("paragraphs_exactly", {"n": 2}, ["a\n***\nb", "a\n\nb\n***\nc\n***\n"], ["a\n\nb", "a\n***\nb\n***\nc"]),
    ("lines_exactly", {"n": 2}, ["a\n\nb\n"], ["a", "a\nb\nc"]),
    ("no_commas", {}, ["a b"], ["a, b", "a，b", "a、b"]),
    ("no_looping", {}, ["A very very very good day.", "ha ha ha ha", "-" * 200, "| a | b |\n|---|---|\n| 1 | 2 |",
     "0 " * 40,
     "Row, row, row your boat", "To be, or not to be."],
     ["Wolf " * 30, "Wolf, wolf. WOLF! wolf wolf", "The cat sat down again. " * 3, "x" * 80, "狼" * 80, "ab-" * 40,
     "I am here.\n" * 8,
      "He said so. " + "and then " * 4]),
    ("regex", {"pattern": r"\d{3}"}, [" 123\n"], ["1234", "x123"]),
    ("regex", {"pattern": r"(?s).*"}, ["a" * 10_000], ["a" * 10_001]),
    ("code_block", {}, ["```\nx\n```", "See:\n```py\nx = 1\n```\nDone.", "~~~\nx\n~~~", "  ````md\n```\n````"],
     ["x = 1", "```py\nx = 1", "```x```", "````\nx\n```"]),
    ("code_block", {"language": "python"}, ["```Python\nx\n```", "```python title=x\nx\n```"], ["```\nx\n```",
     "```js\nx\n```"]),
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
