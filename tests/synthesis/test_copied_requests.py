"""A refusal or a copy of the prompt in place of an instruction is rejected before a reviewer is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_rounds import run, small
from scripted_run import answer_by_content, said

from gra.core.types import State
from gra.core.vocabulary import RejectedAt
from gra.engines.types import Call, Completion, Fault, Json
from gra.synthesis.committee.no_instruction import why_no_instruction
from gra.synthesis.prompts import render

ROOT = Path(__file__).parents[2]
COPIED = [
    "Write a new exercise of this kind about exercises, sister, cookie.",
    "Write a new exercise about space, astronomy and cosmology, with a factual answer.",
    "WRITE A NEW EXERCISE of healthcare.",
    "Write a sentence. An exercise is one to three sentences, complete in itself: every text counts.",
    "Write the next request to an assistant. Topic: owls.",
]
REFUSED = [
    "I'm sorry, but I can't assist with that request.",
    "Sorry, but I can't assist with that.",
    "As an AI language model, I do not have the ability to read and write text.",
    "I cannot help with this.",
    "I can’t fulfill this request.",
    "I am not able to help with that.",
    "Unfortunately, I cannot help with that.",
]
OWN = [
    "Name three fruits. The answer can be given in a few lines.",
    "In a few lines, explain why the sky is blue.",
    "One to three sentences: why do leaves fall?",
    "Please write a new exercise for my physics class about levers.",
    "Write a new exercise plan for a beginner at the gym.",
    "Write the next request in this HTTP exchange: GET /login.",
    "Pose a riddle that can be answered in a few lines of text.",
    "Design a Python class for an assistant that reads and writes files.",
    "Every text has a title; write one for a story about a lost key.",
    "Write a request for a refund to a shop.",
    "As an AI on a spaceship, greet the crew in two sentences.",
    "As an AI model trainer, explain overfitting, and do not use formulas.",
    "As an AI researcher, explain overfitting to a child.",
    "I'm sorry that I missed your call. Rewrite this politely.",
    "I'm sorry, but I cannot attend the meeting. Make this sentence more formal.",
    "I'm sorry to bother you, but I don't understand fractions. What is 1/2 + 1/3?",
    "I can't write to /etc/hosts on Linux. What is wrong?",
    "I cannot create a table in PostgreSQL because of a permission error; which command fixes it?",
    "I can't help laughing. Translate into German.",
    "¿Cuál es la capital de Francia?",
    "写一首关于春天的短诗,最后一句押韵。",
]


@pytest.mark.parametrize("instruction", COPIED)
def test_copy_of_the_request_is_seen(instruction: str) -> None:
    assert why_no_instruction(instruction) == "copies the request for one"


@pytest.mark.parametrize(
    "prompt",
    [
        render("instruction", parents=(), domain="qa", hint="facts", keywords=["owls"], show="instructions"),
        render("examples/instruction", keywords=["owls"]),
    ],
)
def test_request_of_every_prompt_is_known(prompt: str) -> None:
    assert why_no_instruction(prompt.splitlines()[-1]) == "copies the request for one"


@pytest.mark.parametrize("text", REFUSED)
def test_refusal_is_seen(text: str) -> None:
    assert why_no_instruction(text) == "refuses to write one"


@pytest.mark.parametrize("text", ["", "Sure!", "  Topic: owls"])
def test_scrap_is_no_instruction(text: str) -> None:
    assert why_no_instruction(text) == "is too short for one"


@pytest.mark.parametrize("instruction", OWN)
def test_instruction_in_its_own_words_is_none_of_these(instruction: str) -> None:
    assert not why_no_instruction(instruction)


def test_what_a_parent_does_is_no_fault() -> None:
    teacher = "Write a new exercise about fractions for grade five."
    assert why_no_instruction("Write a new exercise about angles.", ["Name a bird that swims."])
    assert not why_no_instruction("Write a new exercise about angles.", [teacher])
    assert why_no_instruction("I cannot help with this.", [teacher])


@pytest.mark.parametrize(
    "file", ["recipes/seeds/study.jsonl", "eval/tasks/instructions.jsonl", "eval/tasks/instructions_report.jsonl"]
)
def test_no_hand_written_instruction_is_taken_for_one(file: str) -> None:
    rows = [json.loads(line) for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    assert not [row["instruction"] for row in rows if why_no_instruction(row["instruction"])]


def test_copied_request_is_rejected_before_any_reviewer_is_asked(tmp_path: Path) -> None:
    def script(call: Call) -> Completion | Fault:
        if isinstance(call.output, Json) and "exercise" in call.output.schema["properties"]:
            return said(json.dumps({"exercise": COPIED[0]}))
        return answer_by_content(call)

    found = run(tmp_path, small(), 8, script)
    stopped = [c for c in found.candidates if c.instruction]
    assert stopped
    assert {(c.state, c.rejected_at) for c in stopped} == {(State.REJECTED, RejectedAt.INSTRUCTION_CHECK)}
    assert {c.reason for c in stopped} == {"instruction: copies the request for one"}
    assert not any(c.checks or c.response for c in stopped)
