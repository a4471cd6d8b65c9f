"""Demands read from instructions: what is plain is found, what is not is left alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from gra.checks.format import parse_checks
from gra.checks.instruction_constraints import read_constraints


def shown(instruction: str) -> list[str]:
    return sorted(str(check) for check in read_constraints(instruction))


@pytest.mark.parametrize(
    ("instruction", "found"),
    [
        ("Use at most 25 words.", ["words_at_most (n 25)"]),
        ("In at most ten words, say why people sleep.", ["words_at_most (n 10)"]),
        ("Say goodbye in fewer than 15 words.", ["words_at_most (n 14)"]),
        ("Define 'island' using no more than 12 words.", ["words_at_most (n 12)"]),
        ("Keep your entire response 100 words or less.", ["words_at_most (n 100)"]),
        ("Write a warning, no longer than six words.", ["words_at_most (n 6)"]),
        ("It must not be over 50 words.", ["words_at_most (n 50)"]),
        ("Don't exceed 40 words.", ["words_at_most (n 40)"]),
        ("Never use fewer than 30 words.", ["words_at_least (n 30)"]),
        ("Your answer should be no less than 30 words.", ["words_at_least (n 30)"]),
        ("Do not rhyme and use more than 20 words.", ["words_at_least (n 21)"]),
        ("Answer with more than 800 words.", ["words_at_least (n 801)"]),
        ("Write a 300+ word summary.", ["words_at_least (n 300)"]),
        ("Write between 20 and 60 words about oranges.", ["words_at_least (n 20)", "words_at_most (n 60)"]),
        ("In 4 to 15 words, say what it is.", ["words_at_least (n 4)", "words_at_most (n 15)"]),
        ("Write at least 30 but at most 90 words.", ["words_at_least (n 30)", "words_at_most (n 90)"]),
        ("Use exactly three words to describe fire.", ["words_exactly (n 3)"]),
        ("What is the capital of Italy? Answer with one word.", ["words_exactly (n 1)"]),
        ("Describe a rainbow in one sentence.", ["sentences_exactly (n 1)"]),
        ("What is a violin? Two sentences, no more.", ["sentences_exactly (n 2)"]),
        ("Have more than 30 sentences in your response.", ["sentences_at_least (n 31)"]),
        ("Name three fruits as a numbered list.", ["numbered_list (n 3)"]),
        ("What are the four chambers of the heart? Use a numbered list.", ["numbered"]),
        ("Give me three sports as bullets.", ["bullet_list (n 3)"]),
        ("Reply with two bullet points.", ["bullet_list (n 2)"]),
        ("Your answer must contain exactly 3 bullet points in markdown.", ["bullet_list (n 3)"]),
        ("Return JSON with the keys animal and sound for a dog.", ["json_keys (keys ['animal', 'sound'])"]),
        ("Wrap your entire output in JSON format.", ["json_value"]),
        ("Use lowercase letters only.", ["lowercase"]),
        ("No capital letters are allowed.", ["lowercase"]),
        ("In all capital letters, no lowercase letters allowed.", ["uppercase"]),
        ("Use only lowercase letters, no capital letters.", ["lowercase"]),
        ("Write the whole reply in all capital letters.", ["uppercase"]),
        ("Give two tips, and use no commas.", ["no_commas"]),
        ("Compute 15% of 240. Answer with the number only.", ["one_number"]),
        ("How many bones has a hand? Write just the number, please.", ["one_number"]),
        ("How many bones has a hand? Answer in digits only.", ["one_number"]),
        ("Convert 22 to binary. Output only the digits.", ["one_number"]),
        ("Is it Monday? Say only yes or no.", ["one_of (options ['Yes', 'No'])"]),
        ("Is it Monday? Yes or no only.", ["one_of (options ['Yes', 'No'])"]),
        ("Refrain from using any commas.", ["no_commas"]),
        ("Use the word 'because' in your reply.", ["has_word (text because)"]),
        ('Include the keywords "Python" and "Java".', ["has_word (text Java)", "has_word (text Python)"]),
        ("Describe the sea, but never use the word 'water'.", ["lacks_word (text water)"]),
        ("Do not say 'yes' or 'no'.", ["lacks_word (text no)", "lacks_word (text yes)"]),
        ("Use at least 9 words and no more than 20 words, and include the word 'tea'.",
         ["has_word (text tea)", "words_at_least (n 9)", "words_at_most (n 20)"]),
        ("Make sure to use the word war at least 8 times.", ["has_word (text war, at_least 8)"]),
        ("In your response, the word flesh should appear less than 3 times.", ["lacks_word (text flesh, more_than 3)"]),
        ("Begin your answer with 'In my opinion'.", ["first_words (text In my opinion)"]),
        ("Finish with 'Thank you.' when you order soup.", ["last_words (text Thank you.)"]),
        ("Wrap your entire response with double quotation marks.", ["quoted"]),
        ("It must contain a title in double angular brackets, such as <<a title>>.", ["titled"]),
        ("Highlight at least three sections with markdown.", ["highlights_at_least (n 3)"]),
        ("Add at least 12 placeholders like [name].", ["placeholders_at_least (n 12)"]),
        ("Add a postscript starting with P.P.S.", ["postscript (marker P.P.S.)"]),
        ("There should be exactly 3 paragraphs separated by ***.", ["paragraphs_exactly (n 3)"]),
    ],
)  # fmt: skip
def test_plain_demands_are_found(instruction: str, found: list[str]) -> None:
    assert shown(instruction) == found


@pytest.mark.parametrize(
    "instruction",
    [
        "",
        "Why is the sky blue?",
        "Write about 100 words on rivers.",
        "Each paragraph should have at least 3 sentences.",
        "Have more than 4 words be in all capital letters.",
        "Words with all capital letters should appear at least 3 times.",
        "Use words in all capital letters at least 3 times.",
        "Use capital letters where appropriate.",
        "Write a function that returns a string of at most 5 words.",
        "Write a Python function that converts a string to lowercase.",
        "How do I count how often each word appears in a text with Python?",
        "Translate 'Do not use commas' into French.",
        "Summarise the following text: Use at most 10 words and no commas.",
        "Explain how to store data in JSON.",
        "Parse this JSON and return the name.",
        "What does the word 'set' mean?",
        "Use the word 'left' or the word 'right'.",
        "Use the word 'left' or 'right' in a poem.",
        "When do I use commas between clauses?",
        "Give only the number of legs of an ant, then explain.",
        "Can you say only yes or no, or explain why?",
        "Do not write only the number.",
        "Write the number only in words.",
        "Write each number only once.",
        "Please don't answer with just yes or no.",
        "Ask a question that I can answer with only yes or no.",
        "Let us play: you ask, and I answer yes or no only.",
        "Is 91 prime? Yes or no only, and give the smallest factor.",
        "Is it Monday? Say only yes or no. Answer in Spanish.",
        "Write a poem about how age is just a number.",
        "A prime is a number only divisible by 1 and itself. Name three primes.",
        "Extract the phone number. Give the number only.",
        "Describe a watch with only digits.",
        "State the time in digits only.",
        "What is 12 x 12? Show your work. At the end give the number only.",
        "Give only the number. Then explain your reasoning.",
        "Give the number only and its unit.",
        "Separate the names with commas, not spaces.",
        "Combine these two sentences.",
        "Explain tides in one sentence, then give an example.",
        "Write a poem in which each line starts with 'Rain'.",
        "Write out the proverb that starts with 'Practice makes'.",
        "Describe the plot. Do not rhyme and use the word 'sea'.",
        "Give a few bullet points per chapter.",
        "What is the difference between uppercase and lowercase letters?",
    ],
)
def test_what_is_not_plain_is_left_alone(instruction: str) -> None:
    assert shown(instruction) == []


@given(st.text(max_size=200))
def test_any_text_can_be_read_and_gives_checks_that_can_be_made(text: str) -> None:
    for check in read_constraints(text):
        parse_checks([{"kind": check.kind, **check.arguments}], "here:1")
        assert check.passes("Some answer.") in (True, False)


@given(st.integers(2, 400), st.sampled_from(["words", "sentences"]))
def test_every_number_is_read_as_it_is(n: int, unit: str) -> None:
    assert shown(f"Write at most {n} {unit}.") == [f"{unit}_at_most (n {n})"]
    assert shown(f"Write more than {n} {unit}.") == [f"{unit}_at_least (n {n + 1})"]
    assert shown(f"Write exactly {n:,} {unit}.") == [f"{unit}_exactly (n {n})"]


def test_hand_written_answers_keep_to_what_is_read() -> None:
    """A demand that the seeds' own answers miss would reject good rows."""
    rows = [json.loads(line) for line in (ROOT / "recipes/seeds/quickstart.jsonl").read_text("utf-8").splitlines()]
    read = {row["id"]: read_constraints(row["instruction"]) for row in rows}
    assert sum(map(bool, read.values())) >= 15
    missed = {row["id"]: str(c) for row in rows for c in read[row["id"]] if not c.passes(row["response"])}
    assert missed == {}


def test_what_is_read_is_what_the_evaluation_asks() -> None:
    """The tasks name their checks; what is read from the same words must not ask for anything else."""
    same = {
        "has_word": "contains",
        "lacks_word": "not_contains",
        "first_words": "starts_with",
        "last_words": "ends_with",
        # weaker than what the task checks, and so met by every answer that passes
        "numbered": "numbered_list",
        "bulleted": "bullet_list",
        "json_value": "json_keys",
    }
    rows = [json.loads(line) for line in (ROOT / "eval/tasks/instructions.jsonl").read_text("utf-8").splitlines()]
    read = [(row, check) for row in rows for check in read_constraints(row["instruction"])]
    assert len(read) >= 60
    wrong = []
    for row, check in read:
        asked = {given["kind"]: given for given in row["checks"]}
        told = asked.get(check.kind) or asked.get(same.get(check.kind, ""))
        if told is None or told.get("n") != check.arguments.get("n", told.get("n")):
            wrong.append((check, row))
    # "Answer with one word" and "write just the number" are checked by naming the answer.
    assert {str(check) for check, _ in wrong} == {"words_exactly (n 1)", "one_number"}
    for check, row in wrong:
        (named,) = row["checks"]
        assert named["kind"] == "one_of"
        assert all(map(check.passes, named["options"])), row
