"""Questions with known answers: what is right is decided by program, and a wrong file is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from gra.core.errors import DataError
from gra.data.questions import Question, load_questions

SHIPPED = load_questions(ROOT / "recipes" / "seeds" / "control_questions.jsonl")


def written(folder: Path, *rows: Any) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_shipped_questions_have_facts_and_word_problems() -> None:
    values = [question for question in SHIPPED if question.value]
    names = [question for question in SHIPPED if question.answers]
    assert len(values) >= 50 <= len(names)
    assert len({question.instruction for question in SHIPPED}) == len(SHIPPED)


@pytest.mark.parametrize("question", SHIPPED, ids=lambda question: question.id)
def test_shipped_question_takes_its_own_answer_and_no_other(question: Question) -> None:
    own = f"So the answer is {question.value}." if question.value else f"It is {question.answers[0]}."
    assert question.is_right(own)
    assert not question.is_right("The answer is 123456789." if question.value else "I do not know that one.")


@pytest.mark.parametrize(
    ("question", "response", "right"),
    [
        (Question("a", "?", ("Rome",)), "The capital is Rome.", True),
        (Question("a", "?", ("Rome",)), "Romeo", False),
        (Question("a", "?", ("four", "4")), "4", True),
        (Question("a", "?", ("Rome",)), "Paris Madrid Lisbon Vienna Bern Oslo Prague Warsaw Rome or London", False),
        (Question("a", "?", value="13.5"), "She has 10 + 3.5 = 13.5 euros.", True),
        (Question("a", "?", value="-3"), "The temperature is \u22123 degrees.", True),
        (Question("a", "?", value="5"), "It is 50.", False),
    ],
)
def test_a_program_decides(question: Question, response: str, right: bool) -> None:
    assert question.is_right(response) is right


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": "?"}, "either `answers` or `value`"),
        ({"instruction": "?", "answers": ["a"], "value": 3}, "either `answers` or `value`"),
        ({"instruction": "", "value": 3}, "`instruction` must be a text"),
        ({"instruction": "?", "value": True}, "`value` must be a number"),
        ({"instruction": "?", "value": "many"}, "`value` must be a number"),
        ({"instruction": "?", "answers": []}, "`answers` must be a list"),
        ({"instruction": "?", "answers": ["!"]}, "`answers` must be a list"),
        ({"instruction": "?", "answer": "a"}, "unknown column `answer`"),
        (["?"], "questions.jsonl"),
    ],
)
def test_wrong_row_is_one_sentence_with_its_place(tmp_path: Path, row: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        load_questions(written(tmp_path, {"instruction": "2 + 2?", "value": 4}, row))


def test_id_used_twice_and_empty_file_are_refused(tmp_path: Path) -> None:
    row = {"id": "one", "instruction": "2 + 2?", "value": 4}
    with pytest.raises(DataError, match="used twice"):
        load_questions(written(tmp_path, row, row))
    with pytest.raises(DataError, match="no rows"):
        load_questions(written(tmp_path))
