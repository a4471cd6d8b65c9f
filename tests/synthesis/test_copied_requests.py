"""An instruction that copies the prompt which asked for it is rejected, and nothing more is spent on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_rounds import run, small
from scripted_run import answer_by_content, said

from gra.core.types import State
from gra.core.vocabulary import RejectedAt
from gra.engines.types import Call, Completion, Fault, Json
from gra.synthesis.committee.generator import why_no_instruction

ROOT = Path(__file__).parents[2]
COPIED = [
    "Write a new exercise of this kind about exercises, sister, cookie.",
    "Write a new exercise about space, astronomy and cosmology, with a factual answer.",
    "WRITE A NEW EXERCISE, of healthcare.",
    "Write a sentence. An exercise is one to three sentences, complete in itself.",
]
OWN = [
    "Name three fruits. The answer can be given in a few lines.",
    "Please write a new exercise for my physics class about levers.",
    "Every text has a title; write one for a story about a lost key.",
    "I'm sorry that I missed your call. Rewrite this politely.",
    "Write a request for a refund to a shop.",
    "",
]


@pytest.mark.parametrize("instruction", COPIED)
def test_copy_of_the_request_is_seen(instruction: str) -> None:
    assert why_no_instruction(instruction) == "repeats the request for one"


@pytest.mark.parametrize("instruction", OWN)
def test_instruction_in_its_own_words_is_no_copy(instruction: str) -> None:
    assert not why_no_instruction(instruction)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "As an AI language model, I do not have the ability to read and write text.",
        "I cannot help with this.",
        "I am unable to write a request, as I cannot see the topic.",
    ],
)
def test_refusal_is_no_instruction(text: str) -> None:
    assert why_no_instruction(text) == "refuses to write one"


@pytest.mark.parametrize(
    "file", ["recipes/seeds/study.jsonl", "eval/tasks/instructions.jsonl", "eval/tasks/instructions_report.jsonl"]
)
def test_no_hand_written_instruction_is_taken_for_a_copy(file: str) -> None:
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
    assert {c.reason for c in stopped} == {"instruction: repeats the request for one"}
    assert not any(c.checks or c.response for c in stopped)
