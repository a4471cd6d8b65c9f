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
from gra.synthesis.committee.generator import repeats_request

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
    "",
]


@pytest.mark.parametrize("instruction", COPIED)
def test_copy_of_the_request_is_seen(instruction: str) -> None:
    assert repeats_request(instruction)


@pytest.mark.parametrize("instruction", OWN)
def test_instruction_in_its_own_words_is_no_copy(instruction: str) -> None:
    assert not repeats_request(instruction)


@pytest.mark.parametrize(
    "file", ["recipes/seeds/study.jsonl", "eval/tasks/instructions.jsonl", "eval/tasks/instructions_report.jsonl"]
)
def test_no_hand_written_instruction_is_taken_for_a_copy(file: str) -> None:
    rows = [json.loads(line) for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    assert not [row["instruction"] for row in rows if repeats_request(row["instruction"])]


def test_copied_request_is_rejected_before_any_reviewer_is_asked(tmp_path: Path) -> None:
    def script(call: Call) -> Completion | Fault:
        if isinstance(call.output, Json) and "exercise" in call.output.schema["properties"]:
            return said(json.dumps({"exercise": COPIED[0]}))
        return answer_by_content(call)

    found = run(tmp_path, small(), 8, script)
    stopped = [c for c in found.candidates if c.instruction]
    assert stopped
    assert {(c.state, c.rejected_at) for c in stopped} == {(State.REJECTED, RejectedAt.INSTRUCTION_CHECK)}
    assert {c.reason for c in stopped} == {"instruction: repeats the request for an instruction"}
    assert not any(c.checks or c.response for c in stopped)
