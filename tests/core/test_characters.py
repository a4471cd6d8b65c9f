"""Texts made safe to write and to normalize."""

from __future__ import annotations

import time
import unicodedata
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.core.text.characters import normalized, well_formed

FORMS: tuple[Literal["NFC", "NFKC"], ...] = ("NFC", "NFKC")
# At most 30 characters, so that no character has more marks than are normalized together.
marked = st.text(st.sampled_from("ae\u0301\u0316\u0323\ufb01\u1100\u1161 .-\ud800"), max_size=30)


@given(st.text(st.characters(), max_size=40))
def test_any_text_can_be_written(text: str) -> None:
    found = well_formed(text)
    found.encode()
    assert len(found) == len(text)
    assert well_formed(found) == found
    assert all(a == b or (0xD800 <= ord(a) <= 0xDFFF and b == "\ufffd") for a, b in zip(text, found, strict=True))


def test_only_half_a_pair_is_replaced() -> None:
    assert well_formed("a\ud83db\U0001f600\0") == "a\ufffdb\U0001f600\0"


@given(marked)
def test_ordinary_text_is_normalized_as_python_does(text: str) -> None:
    for form in FORMS:
        assert normalized(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("form", FORMS)
def test_thousands_of_marks_are_normalized_soon(form: Literal["NFC", "NFKC"]) -> None:
    begun = time.process_time()
    found = normalized(form, "a" + "\u0301\u0316" * 50_000)
    assert time.process_time() - begun < 1.0
    assert unicodedata.normalize("NFD", found[:2]).startswith("a")
    assert normalized(form, found) == found
