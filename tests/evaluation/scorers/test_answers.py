"""Answers that are read from texts to benchmark questions, and the programs for IFEval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gra.checks.answers import equals, stated_value
from gra.checks.ifeval import broken, follows, known, loosened
from gra.evaluation.scorers.kinds import TASK_KINDS
from gra.evaluation.scorers.letter import read_letter
from gra.evaluation.scorers.short import alike, read_short
from gra.evaluation.task import Sample

CHOICES = ["a planet", "the Moon", "a star", "ice"]
LETTERS: list[tuple[str, str | None]] = [
    ("B", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("b", None),
    ("**B**", "B"),
    ("B. the Moon", "B"),
    ("B) the Moon\nIt is.", "B"),
    ("Answer: C", "C"),
    ("**Answer:** C", "C"),
    ("Answer: (C) a star", "C"),
    ("The answer is C because it shines.", "C"),
    ("Answer: A\nWait.\nAnswer: D", "D"),
    ("so \\boxed{D}", "D"),
    ("\\boxed{\\text{D}}", "D"),
    ("the moon.", "B"),
    ("Answer: a star", "C"),
    ("The answer is A planet", "A"),
    ("A star is hot, so", None),
    ("Answer: E", None),
    ("The correct option is B.", "B"),
    ("It could be A or B.", None),
    ("I think so", None),
    ("", None),
    ("Answer: Ice", "D"),
    ("The answer is: B", "B"),
    # "A" and "I" are read as the other letters are, unless they are an article or a pronoun.
    ("The answer is A because it turns.", "A"),
    ("The answer is A I think.", "A"),
    ("Answer: A because it turns", "A"),
    ("Answer: A dog", None),
    ("The answer is I think B", None),
    ("Answer:\nB", "B"),
    ("**Answer:**\n\nA", "A"),
    ("The correct answer is:\n(C) a star", "C"),
    ("Answer: b", "B"),
    ("The answer is (a).", "A"),
    ("Answer: [D]", "D"),
    ("Answer\uff1a\uff22", "B"),
    ("\\boxed{\\textbf{C}}", "C"),
    ("\\boxed{A. a planet}", "A"),
    ("Answer: A or B", None),
    ("The answer is B and C", None),
    ("Answer: A, not B", "A"),
    ("The answer is not B", None),
]


@pytest.mark.parametrize(("reply", "wanted"), LETTERS)
def test_the_letter_of_a_reply(reply: str, wanted: str | None) -> None:
    assert read_letter(reply, CHOICES, ended=True) == wanted


def test_a_cut_reply_counts_only_when_it_states_its_answer() -> None:
    assert read_letter("the Moon", CHOICES, ended=False) is None
    assert read_letter("Answer: B, since", CHOICES, ended=False) == "B"
    item = Sample("i", "", "?", target="12")
    assert TASK_KINDS["value"].score(item, "We add 5 and 7, which is 12", "stop").verdict == "right"
    assert TASK_KINDS["value"].score(item, "We add 5 and 7, which is 12", "length").verdict == "no_answer"
    assert TASK_KINDS["value"].score(item, "The answer is 12. Then", "length").verdict == "right"
    assert read_short("Yes", ended=False) is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("18", "18"),
        ("$18", "18"),
        ("18.00", "18"),
        ("1,234", "1234"),
        ("70%", "70"),
        ("18 eggs", "18"),
        ("\\frac{1}{2}", "\\frac12"),
        ("0.5", "\\frac{1}{2}"),
        ("\\dfrac{3}{4}", "\\frac{3}{4}"),
        ("x = 5", "5"),
        ("(1, 2)", "(1,2)"),
        ("\\text{east}", "east"),
        ("East", "\\text{east}"),
        ("(C)", "\\text{(C)}"),
        ("90^\\circ", "90"),
        ("\\begin{pmatrix} 0.5 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1/2 \\\\ 2 \\end{pmatrix}"),
        ("\\$32,348", "32348"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("\\left(3, \\frac{\\pi}{2}\\right)", "(3,\\frac{\\pi}{2})"),
        # Units, as LaTeX and people write them.
        ("42 \\text{ cm}", "42"),
        ("42\\text{ cm}^2", "42"),
        ("42", "42\\text{ cm}^{2}"),
        ("42\\,\\mathrm{km/h}", "42"),
        ("42\\text{ m}/\\text{s}", "42"),
        ("42~\\mbox{ square inches}", "42"),
        ("\\frac{3}{4}\\text{ miles}", "0.75"),
        ("2\\sqrt{3}\\text{ cm}", "\\sqrt{12}"),
        ("\\SI{42}{cm}", "42"),
        ("42 cm^2", "42"),
        ("42 cm\u00b2", "42"),
        ("42\\%", "42"),
        ("90\u00b0", "90^\\circ"),
        ("$42$ cm", "42"),
        # Signs and digits that are no ASCII.
        ("\u22125", "-5"),
        ("-5", "\u20135"),
        ("\uff0d\uff15", "-5"),
        ("\ufe635", "-5"),
        ("\u2212\\frac{1}{2}", "-0.5"),
        ("10\u207b\u00b3", "0.001"),
        ("2\u03c0", "2\\pi"),
        ("1\u00bd", "1.5"),
        ("1{,}000", "1000"),
        ("1\\,000", "1000"),
        ("7" * 5_000, "7" * 5_000),
    ],
)
def test_equal_values(given: str, wanted: str) -> None:
    assert equals(given, wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("17", "18"),
        ("\u22125", "5"),
        ("5x", "5"),
        ("2xy", "2"),
        ("7" * 400, "18"),
        ("x \\text{ or } y", "x"),
        ("\\frac{1}{3}", "0.3"),
        ("west", "east"),
        ("(2, 1)", "(1,2)"),
        ("9^{9^{9^{9}}}", "1"),
        ("", "1"),
    ],
)
def test_different_values(given: str, wanted: str) -> None:
    assert not equals(given, wanted)


def test_what_a_response_states() -> None:
    assert stated_value("so \\boxed{\\text{east}}") == "\\text{east}"
    assert stated_value("**Answer:** 12 apples.") == "12 apples"
    assert stated_value("#### 7") == "7"
    assert stated_value("It is 7.") is None
    assert stated_value("\\boxed{7") is None


@pytest.mark.parametrize(
    ("found", "wanted", "right"),
    [
        ("(B)", "(B)", True),
        ("B", "(B)", True),
        ("B) two", "(B)", True),
        ("two", "(B)", True),
        ("A", "(B)", False),
        ("yes", "Yes", True),
        ("No, it is not", "Yes", False),
        ("Valid", "valid", True),
        ("invalid", "valid", False),
        ("24", "24", True),
        ("24.0", "24", True),
        ("1,024", "1024", True),
        ("24.5", "24", False),
        ("-3", "3", False),
        ("]]", "] ]", True),
        ("] ] }", "] ]", False),
        ("ape, bee, cat", "ape bee cat", True),
        ("bee ape cat", "ape bee cat", False),
        ("ape", "ape", True),
        ("ape bee", "ape", False),
        (", 18", "18", True),
        ("\u22123", "3", False),
        ("\u22123", "-3", True),
        ("7" * 5_000, "7" * 5_000, True),
        ("7" * 400, "7", False),
        ("A because", "(A)", True),
        ("b", "(B)", True),
    ],
)
def test_short_answers(found: str, wanted: str, right: bool) -> None:
    assert alike(found, wanted, "Which?\nOptions:\n(A) one\n(B) two") == right


# IFEval: an answer that follows and one that does not, for each of its 25 kinds.
IFEVAL: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["tree", "bird"]}, "A Bird in a tree", "A bird"),
    ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "at least"}, "go, Go", "go"),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "a rocket", "a Rock"),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "less than"}, "zebra", "ZZ"),
    ("change_case:english_lowercase", {}, "this is all in lower case", "This is not"),
    ("change_case:english_capital", {}, "THIS IS ALL OF IT", "This IS NOT"),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "BIG, BAD wolf",
        "BIG wolf",
    ),
    ("punctuation:no_comma", {}, "one and two", "one, two"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one-two"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "Mr. Fox ran. He fell!",
        "A. Yes. No. Why?",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\n'Then, more",
        "First.\n\nSo then",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [town]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S. Write!", "Bye.\nP.S. Write!"),
    ("detectable_format:title", {}, "<<Song>>\nla", "<<>>\n<Song>"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n* two\n* three"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and b"),
    (
        "detectable_format:multiple_sections",
        {"num_sections": 2, "section_spliter": "Section"},
        "Section 1 a Section 2 b",
        "Section 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{'a': 1}"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It.", "It. Say it."),
    ("startend:end_checker", {"end_phrase": "The end."}, "All. the end.", "The end. Not."),
    ("startend:quotation", {}, '"all of it"', '"some" of it'),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist nicht der Hund, und wir sind hier.",
        "This is the dog.",
    ),
]


def test_every_kind_of_ifeval_is_here() -> None:
    assert sorted(kind for kind, *_ in IFEVAL) == sorted(known())
    assert len(known()) == 25


@pytest.mark.parametrize(("kind", "given", "good", "bad"), IFEVAL, ids=[kind for kind, *_ in IFEVAL])
def test_ifeval(kind: str, given: dict[str, Any], good: str, bad: str) -> None:
    instruction = {"id": kind, **given}
    assert follows(instruction, good)
    assert not follows(instruction, bad)
    assert not follows(instruction, " \n")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("hi", "यह एक अच्छा दिन है और हम घर में हैं।"),
        ("mr", "आज एक चांगला दिवस आहे आणि मी घरी होते."),
        ("ne", "यो राम्रो दिन हो र म घरमा छु भने।"),
        ("ru", "Это хороший день, и мы все дома."),
        ("bg", "Това е хубав ден и ние сме у дома."),
        ("fa", "این یک روز خوب است و ما در خانه هستیم که"),
        ("ur", "یہ ایک اچھا دن ہے اور ہم گھر میں ہیں"),
        ("ar", "هذا يوم جميل ونحن في البيت مع الأصدقاء"),
        ("ko", "오늘은 좋은 날입니다."),
        ("th", "วันนี้เป็นวันที่ดี"),
        ("vi", "Hôm nay là một ngày đẹp và chúng tôi ở nhà."),
        ("sw", "Leo ni siku nzuri na sisi tuko nyumbani kwa wote."),
        ("fi", "Tänään on hyvä päivä ja me olemme kotona, mutta ei töissä."),
        ("it", "Oggi è una bella giornata e siamo a casa con gli amici."),
        ("pt", "Hoje é um dia bonito e não estamos em casa com os amigos."),
        ("kn", "ಇಂದು ಒಳ್ಳೆಯ ದಿನ"),
        ("pa", "ਅੱਜ ਚੰਗਾ ਦਿਨ ਹੈ"),
    ],
)
def test_languages(language: str, text: str) -> None:
    assert follows({"id": "language:response_language", "language": language}, text)
    assert not follows({"id": "language:response_language", "language": "en"}, text)


def test_an_answer_without_letters_is_in_no_wrong_language() -> None:
    assert follows({"id": "language:response_language", "language": "ko"}, "7 + 8")
    assert not follows({"id": "language:response_language", "language": "ko"}, "Բարեւ")


def test_loose_answers() -> None:
    one = [{"id": "startend:quotation"}]
    said = 'Here it is:\n"so"'
    assert broken(one, said) == ["startend:quotation"]
    assert any(not broken(one, text) for text in loosened(said))
    item = Sample("i", "", "?", target=tuple(one))
    score = TASK_KINDS["ifeval"].score(item, said, "stop")
    assert (score.verdict, score.passed_loose) == ("wrong", True)


def test_every_instruction_of_the_published_rows_can_be_checked(shared_data: Path) -> None:
    lines = (shared_data / "bench" / "ifeval.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            assert follows({"id": name, **given}, "Some words.") in (True, False)
