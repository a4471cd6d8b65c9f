"""Agreement with other responses: by value, by name, by words; from 0 to 1 for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.checks.agreement import agreement

ASKED = "How many apples are left?"


@pytest.mark.parametrize(
    ("response", "others", "expected"),
    [
        ("So 5 apples are left.", ["The answer is 5.", "The answer is 6."], 0.5),
        ("The answer is 5.", ["The answer is 5.0", "It is 5 apples. The answer is 5."], 1.0),
        ("The answer is 5.", ["I do not know.", "The answer is 5."], 0.5),
        ("Rome", ["It is Rome", "Paris", "rome.", "The city of Rome"], 0.75),
        ("", ["Rome"], 0.0),
    ],
)
def test_agreement_is_by_value_or_by_name(response: str, others: list[str], expected: float) -> None:
    assert agreement(ASKED, response, others) == expected


def test_longer_texts_agree_by_the_words_that_the_instruction_lacks() -> None:
    asked = "Explain why leaves change color in autumn, in one sentence."
    response = "Leaves change color in autumn because chlorophyll breaks down and other pigments show."
    near = "In autumn the chlorophyll breaks down, so that other pigments of the leaves show."
    far = "Leaves change color in autumn since the wind blows them from every tree of the forest."
    assert agreement(asked, response, [near]) > 0.5 > 0.3 > agreement(asked, response, [far])


def test_no_other_response_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        agreement(ASKED, "5", [])


@given(st.text(max_size=60), st.text(max_size=60), st.lists(st.text(max_size=60), min_size=1, max_size=3))
def test_any_texts_agree_between_0_and_1(asked: str, response: str, others: list[str]) -> None:
    assert 0.0 <= agreement(asked, response, others) <= 1.0


@given(st.text(alphabet="abc defg", min_size=1, max_size=40).filter(str.strip))
def test_a_text_agrees_with_itself(text: str) -> None:
    assert agreement("x", text, [text]) in (0.0, 1.0)
    assert agreement("x", f"{text} yes", [f"{text} yes"]) == 1.0
