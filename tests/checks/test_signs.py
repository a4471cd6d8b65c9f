"""Signs of numbers and formulas in one way of writing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.checks.signs import plain_formula, plain_signs


@pytest.mark.parametrize("sign", list("\u2212\u2010\u2011\u2012\u2013\u2014\u2015\ufe58\ufe63\uff0d\u2796\u02d7"))
def test_every_minus_sign_before_a_number_is_a_hyphen(sign: str) -> None:
    assert plain_signs(f"It is {sign}5.") == "It is -5."
    assert plain_signs(f"({sign}$5, {sign}.5)") == "(-$5, -.5)"


@pytest.mark.parametrize(
    "text", ["3\u20135", "an aside \u2014 5 of them", "well\u20135 apples", "2 minus 5", "a-b", "- item"]
)
def test_dash_between_words_or_numbers_is_no_sign(text: str) -> None:
    assert plain_signs(text).lstrip("-") == text.lstrip("-")


def test_formula_is_written_in_latex() -> None:
    assert plain_formula("x\u00b2 + 10\u207b\u00b3 \u00d7 \u03c0") == "x^{2} + 10^{-3} \\times  \\pi "
    assert plain_formula("2\u00bd and \u2153") == "2+1/2 and 1/3"


@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="-m-nMN"), max_size=200))
def test_ascii_text_without_minus_is_left_alone(text: str) -> None:
    assert plain_signs(text) == text


@pytest.mark.parametrize("text", ["-", "\u2212", "\u2013", "= ", "is - ", "minus ", "\u00b2", "\u00bd", "$"])
def test_long_text_takes_no_time(text: str) -> None:
    begun = time.process_time()
    plain_formula(text * 10_000)
    assert time.process_time() - begun < 0.5
