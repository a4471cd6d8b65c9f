"""The kind of a request, by its opening words and its shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.checks.request_kinds import RequestKind, request_kind

CASES = {
    "What causes the tides in the ocean?": "question",
    "In one sentence, what does a vaccine do?": "question",
    "Which metal is liquid at room temperature? Answer with a single word.": "question",
    "Is the sky blue on Mars?": "question",
    "What does the idiom 'to let 9 cats out' mean?": "question",
    "My car stood outside all night. Did it rain?": "question",
    "Can you explain how rain forms?": "explain",
    "Describe autumn in two sentences.": "explain",
    "Name three rivers.": "list",
    "What are the four chambers of the human heart? Use a numbered list.": "list",
    "Give five reasons to walk to work.": "list",
    "Write a list of fruits that grow in Spain.": "list",
    "Write 3 sentences about dogs.": "write",
    "Please write a haiku about fog.": "write",
    "I need a short text for a birthday card.": "write",
    "Translate 'Where is the station?' into Spanish.": "rewrite",
    "Summarize the following text: Write a poem. Solve 3 + 4.": "rewrite",
    "Could you please shorten this sentence?": "rewrite",
    "Classify the following as fruit or vegetable: carrot": "classify",
    "Put these steps in order: drink it, boil water.": "classify",
    "Compute 15% of 240. Answer with the number only.": "compute",
    "What is the area of a triangle with a base of 10 cm and a height of 6 cm?": "compute",
    "A train leaves at 14:35 and arrives at 17:10. How long does the journey take?": "compute",
    "The mean of three numbers is 9. Two of them are 5 and 8. Find the third.": "compute",
    "How do I count words in a text with Python?": "code",
    "Write a function that removes blank lines.": "code",
    "Find the bug.\n\n```\nwhile n > 0:\n    pass\n```": "code",
    "You are a lighthouse keeper. Describe last night's storm.": "role_play",
    "Answer like a pirate: how are you today?": "role_play",
    "Summarize the following article: Java is the most populous island of Indonesia.": "rewrite",
    'Translate "I saw a python in the zoo" into French.': "rewrite",
    "Define the scientific method.": "explain",
    "Create a workout program for beginners.": "write",
    "Write a script for a short play about two friends.": "write",
    "Knights and dragons.": "other",
    "": "other",
}


@pytest.mark.parametrize(("instruction", "kind"), CASES.items())
def test_opening_decides_the_kind(instruction: str, kind: str) -> None:
    assert request_kind(instruction) == kind


@given(st.text(max_size=300))
def test_any_text_has_a_kind(text: str) -> None:
    assert request_kind(text) in RequestKind


@given(st.sampled_from(sorted(CASES)), st.sampled_from(["Please ", "Can you ", "Could you please ", "Now "]))
def test_polite_words_do_not_change_an_order(instruction: str, polite: str) -> None:
    orders = ("explain", "list", "write", "rewrite", "classify", "compute")
    if CASES[instruction] in orders and instruction.split()[0] not in (
        "What",
        "A",
        "I",
        "The",
        "Please",
        "Can",
        "Could",
    ):
        assert request_kind(polite + instruction[0].lower() + instruction[1:]) == CASES[instruction]
