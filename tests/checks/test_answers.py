"""Final answers: which value a response ends in, and when two are the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra.checks.answers import final_answer, same, vote


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("42", "42"),
        ("**42**", "42"),
        ("$1,250", "1,250"),
        ("x = 5", "5"),
        ("3/4", "3/4"),
        ("We get 7.\n#### 72", "72"),
        (r"Thus \boxed{\frac{1}{2}}. Is that 3?", r"\frac{1}{2}"),
        (r"so $\boxed{x^{2}+1}$", "x^{2}+1"),
        ("First 3, then 4. The answer is 12 apples.", "12"),
        ("**Answer:** 84\nBecause 12 * 7 = 84.", "84"),
        ("Two adults pay 24. Together they pay 24 + 18 = 42 euros.", "42"),
        ("She has 3 bags of 4.\n\nSo she has 12 apples in all.", "12"),
        ("It costs $12.50.", "12.50"),
        ("The answer is \u22125.", "-5"),
        ("so x = \u2212 5", "-5"),
        ("It is \u20135.", "-5"),
        ("It is minus 5.", "-5"),
        ("The answer is:\n\n42 \\text{ cm}^2", "42"),
        ("pages 3\u20135: the answer is 2 minus 5 = \uff0d3", "-3"),
    ],
)
def test_a_plain_end_is_read(response: str, value: str) -> None:
    assert final_answer(response) == value


@pytest.mark.parametrize(
    "response",
    ["", "It rains.", "The journey takes 2 hours and 35 minutes.", "Either 3 or 4.", "The answer is blue.",
     "```python\n42\n```", "It leaves at 14:35.", "In 1890 he had 3 cats and 2 dogs.", r"\boxed{",
     r"\boxed{42", r"It is \boxed{4} or \boxed{5",
     "The answer is in step 3 or so"],
)  # fmt: skip
def test_no_plain_end_is_no_answer(response: str) -> None:
    assert final_answer(response) is None


@pytest.mark.parametrize(
    ("one", "two"), [("0.5", "1/2"), ("1,250", "1250"), ("2^3", "8"), ("-3", "-3.0"), ("(1+1)/4", "0.5")]
)
def test_numbers_are_the_same_value_however_written(one: str, two: str) -> None:
    assert same(one, two)
    assert same(two, one)
    assert not same(one, "7")


@pytest.mark.parametrize(
    ("one", "two", "equal"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{3}{4}", r"\frac{6}{8}", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        (r"\frac{1}{2}", r"\frac{1}{3}", False),
        ("x+1", "x-1", False),
        (r"\pi", "3", False),
    ],
)
def test_formulas_are_compared_by_math_verify(one: str, two: str, equal: bool) -> None:
    pytest.importorskip("math_verify")
    assert same(one, two) is equal
    assert same(two, one) is equal


@given(*[st.text(alphabet="0123456789x+-*/^(){}.,\\fracsqrt ", max_size=30)] * 2)
@settings(max_examples=50, deadline=None)
def test_any_two_values_can_be_compared(one: str, two: str) -> None:
    pytest.importorskip("math_verify")
    values = [value for value in map(final_answer, (f"#### {one}", f"#### {two}")) if value is not None]
    assert all(same(a, b) in (True, False) for a in values for b in values)


@given(st.lists(st.integers(0, 4).map(str), max_size=8))
def test_votes_are_counted(answers: list[str]) -> None:
    groups = vote(answers)
    assert sorted(place for group in groups for place in group) == list(range(len(answers)))
    assert [len(group) for group in groups] == sorted((answers.count(a) for a in set(answers)), reverse=True)


@given(st.text(max_size=120))
def test_any_response_can_be_read(response: str) -> None:
    value = final_answer(response)
    assert value is None or value.strip()
