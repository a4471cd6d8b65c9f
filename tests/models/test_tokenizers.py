"""A tokenizer that several students share is loaded once, and each of them has attributes of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_tiny import make_student

from gra.models import chat
from gra.models.chat import load_tokenizer_once


@pytest.fixture
def student(tmp_path: Path) -> Path:
    chat._keep.cache_clear()
    return make_student(tmp_path / "small")


def test_what_one_caller_changes_another_does_not_see(student: Path) -> None:
    first = load_tokenizer_once(student)
    first.pad_token, first.padding_side, first.chat_template = "<eos>", "left", "{{ messages }}"
    second = load_tokenizer_once(student)
    assert chat._keep.cache_info().misses == 1
    assert (second.pad_token, second.padding_side, second.chat_template) == ("<pad>", "right", None)
    assert second("a b").input_ids == first("a b").input_ids
    assert second(["a", "a b"], padding=True).input_ids[0][-1] == second.pad_token_id


def test_another_template_or_vocabulary_is_another_tokenizer(student: Path, tmp_path: Path) -> None:
    load_tokenizer_once(student)
    file = student / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": "{{ messages }}"}))
    assert load_tokenizer_once(student).chat_template == "{{ messages }}"
    assert chat._keep.cache_info().misses == 2
    student.rename(tmp_path / "moved")  # the same files in another folder
    assert load_tokenizer_once(tmp_path / "moved").chat_template == "{{ messages }}"
    assert chat._keep.cache_info().misses == 2
