"""Hostile texts: every check and reader ends soon on a long text of anything, and never raises."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction

import pytest
from format_cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from gra.checks import arithmetic, ifeval
from gra.checks.arithmetic import NotArithmetic, evaluate
from gra.checks.format import FormatCheck
from gra.checks.instruction_constraints import read_constraints

# Characters, and seconds of processor time: an idle machine takes a fifth of them, and quadratic programs minutes.
LIMIT_S = 1.0
SIZES = [(25_000, LIMIT_S / 2), pytest.param(100_000, LIMIT_S, marks=pytest.mark.slow)]
UNITS = [
    *"~!@#$%^&*()_+-=[]{}|;:'\",.<>/?`\\ \n\t1aA\u0301\ud800\0",
    "1+1", "1+1=3? ", "x=", "x = 1+", "**a ", "a**", "```py\n", "<<a", "[a", "1.\n", "1. ", "- a\n", "A. B", "Dr. ",
    'a"? ', "9^9^", "12,345,", "(1+", "狼", "wolf ", "answer ", "not ", "use the word ", "bullet ", "keys a, ",
    "following: ",
    "at least ", "between 5 ", "*\n", "\n ", "$ ", "P.S. ",
]  # fmt: skip
INSTRUCTIONS: list[dict[str, object]] = [
    {"id": "keywords:existence", "keywords": ["c++", "("]},
    {"id": "keywords:frequency", "keyword": "[", "frequency": 2, "relation": "at least"},
    {"id": "keywords:forbidden_words", "forbidden_words": ["a", "*"]},
    {"id": "keywords:letter_frequency", "letter": "a", "let_frequency": 2, "let_relation": "at least"},
    {"id": "change_case:english_lowercase"},
    {"id": "change_case:english_capital"},
    {"id": "change_case:capital_word_frequency", "capital_frequency": 2, "capital_relation": "at least"},
    {"id": "punctuation:no_comma"},
    {"id": "length_constraints:number_words", "num_words": 3, "relation": "at least"},
    {"id": "length_constraints:number_sentences", "num_sentences": 3, "relation": "at least"},
    {"id": "length_constraints:number_paragraphs", "num_paragraphs": 3},
    {"id": "length_constraints:nth_paragraph_first_word", "num_paragraphs": 1, "nth_paragraph": 1, "first_word": "a"},
    {"id": "detectable_content:number_placeholders", "num_placeholders": 3},
    {"id": "detectable_content:postscript", "postscript_marker": "P.P.S"},
    {"id": "detectable_content:postscript", "postscript_marker": "(P"},
    {"id": "detectable_format:title"},
    {"id": "detectable_format:number_bullet_lists", "num_bullets": 3},
    {"id": "detectable_format:number_highlighted_sections", "num_highlights": 3},
    {"id": "detectable_format:multiple_sections", "num_sections": 2, "section_spliter": "Part ("},
    {"id": "detectable_format:json_format"},
    {"id": "detectable_format:constrained_response"},
    {"id": "combination:two_responses"},
    {"id": "combination:repeat_prompt", "prompt_to_repeat": "a"},
    {"id": "startend:end_checker", "end_phrase": "a"},
    {"id": "startend:quotation"},
    {"id": "language:response_language", "language": "en"},
]


def programs() -> Iterator[tuple[str, Callable[[str], object]]]:
    yield "claims", arithmetic.claims
    yield "equation", lambda text: arithmetic.equation(f"solve x = 1 {text}")
    yield "equation behind", lambda text: arithmetic.equation(f"{text} x = 1, solve")
    yield "values", lambda text: arithmetic.values_of(f"x = {text}", "x")
    yield "constraints", read_constraints
    for kind, arguments, _, _ in CASES:
        yield kind, FormatCheck(kind, arguments).passes
    for instruction in INSTRUCTIONS:
        yield str(instruction["id"]), lambda text, row=instruction: ifeval.follows(row, text)


def test_every_ifeval_kind_is_tried() -> None:
    assert {row["id"] for row in INSTRUCTIONS} == set(ifeval.known())


@pytest.mark.parametrize(("size", "limit_s"), SIZES)
@pytest.mark.parametrize("unit", UNITS, ids=ascii)
def test_long_hostile_texts_are_judged_soon(unit: str, size: int, limit_s: float) -> None:
    text = (unit * (size // len(unit) + 1))[:size] + "z"
    slow = {}
    for name, program in programs():
        begun = time.process_time()
        program(text)
        if (took := time.process_time() - begun) > limit_s:
            slow[name] = round(took, 1)
    assert slow == {}


pieces = st.sampled_from(
    [*UNITS, "9" * 5000, "9" * 400, " = ", "18", " x ", "!", "^{99}", "\\frac{1}{2}", '{"a": 1}', "at least 9 words"]
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_no_program_raises(text: str) -> None:
    for _, program in programs():
        program(text)


@pytest.mark.parametrize(
    "text",
    ["9" * 5000, "(" * 5000 + "1" + ")" * 5000, "(" * 90 + "1" + ")" * 90, "9^9^9^9", "2^64^64", "9" * 199 + "^64",
     "1e999", "1/" * 99 + "0",
     "²", "--" * 90 + "1", "1^" * 90 + "1", "٣+٤"],
)  # fmt: skip
def test_large_expressions_are_computed_or_refused(text: str) -> None:
    begun = time.process_time()
    with suppress(NotArithmetic):
        assert isinstance(evaluate(text), Fraction)
    arithmetic.claims(f"{text} = {text}")
    arithmetic.claims(f"1 + {text} = 5")
    arithmetic.values_of(f"x = {text}", "x")
    arithmetic.equation(f"solve x + {text} = {text}")
    assert time.process_time() - begun < LIMIT_S


def test_numbers_of_thousands_of_digits_are_no_demand() -> None:
    assert read_constraints(f"Use at most {'9' * 5000} words.") == ()
    assert read_constraints(f"Use at most 1{',000' * 2000} words.") == ()
    assert read_constraints("Use between 0 and 5 words.") == read_constraints("Use at most 5 words.")


def test_demands_at_both_ends_of_a_long_instruction_are_read() -> None:
    text = "Use no commas. " + "The sea is wide. It never ends. " * 1000 + "\n\nUse at most 20 words."
    assert [str(check) for check in read_constraints(text)] == ["words_at_most (n 20)", "no_commas"]
