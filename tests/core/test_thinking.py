"""Thinking and answer of a reasoning model's text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.core.text.thinking import split_thinking


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("Paris.", "", "Paris."),
        ("  Paris.\n", "", "  Paris.\n"),
        ("", "", ""),
        ("<think>Capital of France.</think>Paris.", "Capital of France.", "Paris."),
        ("<think>\nCapital of France.\n</think>\n\nParis.", "Capital of France.", "Paris."),
        ("\n <think>a</think> Paris.", "a", "Paris."),
        ("<think>\n\n</think>\n\nParis.", "", "Paris."),
        ("<think></think>", "", ""),
        ("<thinking>a</thinking>Paris.", "a", "Paris."),
        ("<THINK>a</Think>Paris.", "a", "Paris."),
        ("<thought>a</thought>Paris.", "a", "Paris."),
        ("<seed:think>a</seed:think>Paris.", "a", "Paris."),
        ("[THINK]a[/THINK]Paris.", "a", "Paris."),
        ("◁think▷a◁/think▷Paris.", "a", "Paris."),
        ("Capital of France.\n</think>\nParis.", "Capital of France.", "Paris."),
        ("</think>Paris.", "", "Paris."),
        ("<think>Capital of Fra", "Capital of Fra", ""),
        ("<think>", "", ""),
        ("Paris.\n<think>Or was it", "Or was it", "Paris."),
        ("<think>a</think>Paris.<think>b</think>", "a\nb", "Paris."),
        ("<think>a</think><think>b</think>Paris.", "a\nb", "Paris."),
        ("Sure! <think>a</think>Paris.", "a", "Sure! Paris."),
        ("<think>I could write <think> here.</think>Paris.", "I could write <think> here.", "Paris."),
        ("<think>It ends with </think>, so</think>Paris.", "It ends with\n, so", "Paris."),
        ("Write `<think>` before and `</think>` after.", "", "Write `<think>` before and `</think>` after."),
        ("`<think>`", "", "`<think>`"),
        ("A page has a <think> tag.", "", "A page has a <think> tag."),
        ("Two < three, think >", "", "Two < three, think >"),
        ("<thinker>a</thinker>", "", "<thinker>a</thinker>"),
    ],
)
def test_split_thinking_separates_answer(text: str, thinking: str, answer: str) -> None:
    assert split_thinking(text) == (thinking, answer)


_PARTS = st.sampled_from(["<think>", "</think>", "<thinking>", "`", "\n", " ", "word", "[/THINK]", "<", "think"])


@given(st.lists(_PARTS, max_size=12).map("".join))
def test_split_thinking_loses_no_word(text: str) -> None:
    thinking, answer = split_thinking(text)
    assert thinking.count("word") + answer.count("word") == text.count("word")


@given(st.text(alphabet=st.characters(exclude_characters="<>[]◁▷"), max_size=40))
def test_split_thinking_keeps_text_without_tags(text: str) -> None:
    assert split_thinking(text) == ("", text)


@pytest.mark.parametrize("part", ["<think>", "</think>", "<think", "<think ", "<", " ", "`<think>`", "\n<think>a"])
def test_split_thinking_takes_linear_time(part: str) -> None:
    begun = time.perf_counter()
    split_thinking(part * 200_000)
    assert time.perf_counter() - begun < 20  # quadratic time would be hours
