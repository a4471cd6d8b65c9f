"""The digest of the prompts covers everything that they are made of."""

from __future__ import annotations

import pytest

from gra.synthesis import prompts


@pytest.mark.parametrize("table", ["HINTS", "CHECK_QUESTIONS", "SCORE_QUESTIONS"])
def test_changed_question_or_hint_changes_one_digest(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    before = prompts.digests()
    name = next(iter(getattr(prompts, table)))
    monkeypatch.setitem(getattr(prompts, table), name, "Is it short?")
    after = prompts.digests()
    assert {key for key in before if before[key] != after[key]} == {"questions"}


def test_every_prompt_file_has_a_digest() -> None:
    assert set(prompts.digests()) == {file.stem for file in prompts.FOLDER.glob("*.jinja")} | {"questions"}
