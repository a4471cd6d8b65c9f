"""Demands on form behind new instructions: what is asked for can be checked, is checked, and is drawn reproducibly."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scripted_rounds import run, small
from scripted_run import make_recipe

from gra.checks.instruction_constraints import demands
from gra.config.synthesis import Forms
from gra.core.rng import draw
from gra.core.types import State
from gra.synthesis.format_constraints import _WORDINGS, draw_demand, with_form

PLAIN = "Why do the tides come later every day?"
VETO = {"kind": "format", "takes": "veto"}


@given(st.integers())
def test_every_demand_is_read_as_what_it_is_alone_and_behind_an_instruction(seed: int) -> None:
    demand = draw_demand(random.Random(seed))
    assert demands(demand)
    assert demands(f"{PLAIN} {demand}") == demands(demand)


def test_every_kind_is_drawn_and_every_key_is_read() -> None:
    drawn = {draw_demand(random.Random(seed)) for seed in range(2000)}
    for demand in drawn:
        if named := re.search(r"keys (.+)\.$", demand):
            (check,) = demands(demand)
            assert check.arguments["keys"] == re.split(r", | and ", named[1])
    kinds = {check.kind for demand in drawn for check in demands(demand)}
    assert kinds >= {
        "sentences_exactly", "words_exactly", "words_at_most", "bullet_list", "numbered", "json_keys", "lowercase",
        "uppercase", "no_commas", "first_words", "last_words",
    }  # fmt: skip
    assert len(drawn) > sum(map(len, _WORDINGS.values()))


def test_the_share_is_kept_and_what_has_a_form_stays_as_it_was() -> None:
    half = Forms(share=0.5)
    asked = [with_form(PLAIN, "qa", half, draw(0, 1, n, "form")) for n in range(1000)]
    assert 450 < sum(bool(demands(text)) for text in asked) < 550
    assert all(text.startswith(PLAIN) for text in asked)
    always = Forms(share=1.0, domains=["qa"])
    assert with_form("Name three rivers. Use bullet points.", "qa", always, random.Random(1)) == (
        "Name three rivers. Use bullet points."
    )
    assert with_form(PLAIN, "coding", always, random.Random(1)) == PLAIN
    # In a text about programs nobody can be sure that lower case is demanded of the answer.
    code = "Write a Python function that counts words."
    for seed in range(50):
        text = with_form(code, "qa", always, random.Random(seed))
        assert text == code or demands(text) == demands(text.removeprefix(code).strip())


@pytest.mark.parametrize(
    ("instruction", "apart"),
    [
        (PLAIN, False), ("Who said 'I came, I saw, I conquered.'", False),
        ("Translate 'good day' into French:", True), ("Name three rivers", True),
        ("What is wrong here?\n\n```\nx = 1\n```", True),
        ("Summarise the following text: The tide rises. It falls.", False),
    ],
)  # fmt: skip
def test_a_demand_does_not_run_into_what_it_stands_behind(instruction: str, apart: bool) -> None:
    asked = {with_form(instruction, "qa", Forms(share=1.0), random.Random(seed)) for seed in range(50)} - {instruction}
    assert all(text.startswith(f"{instruction}\n\n" if apart else f"{instruction} ") for text in asked)
    assert len(asked) > 10 or "following" in instruction  # there it would be read as a part of the text


def test_a_story_asks_for_the_form_and_an_answer_without_it_is_rejected(tmp_path: Path) -> None:
    recipe = small(forms={"share": 1.0}, review={"comments": "disputed", "programs": [VETO]})
    told = list(run(tmp_path, recipe, 8).candidates)
    assert list(run(tmp_path, recipe, 1, up_to_s=0.0).candidates) == told
    answered = [candidate for candidate in told if candidate.response]
    assert answered
    assert all(demands(candidate.instruction) for candidate in answered)
    broken = [c for c in answered if not all(check.passes(c.response) for check in demands(c.instruction))]
    assert broken
    assert {(c.state, c.reason) for c in broken} == {
        (State.REJECTED, "program format: a demand on its form is not met")
    }
    assert any(c.reason != "program format: a demand on its form is not met" for c in answered)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forms": {"share": 0.5}}, "add `{kind: format, takes: veto}` to `review.programs`"),
        ({"forms": {"share": 0.5}, "arm": "refined", "review": {"programs": [VETO]}}, "has the seeds'"),
        ({"forms": {"share": 0.5, "domains": ["art"]}, "review": {"programs": [VETO]}}, "`art` is not in"),
        ({"forms": {"share": 0.5, "domains": []}, "review": {"programs": [VETO]}}, "at least 1 item"),
        (
            {"forms": {"share": 0.5}, "review": {"programs": [VETO | {"domains": ["qa"]}]}},
            "forms in `math`, where nobody",
        ),
        ({"forms": {"share": 1.5}}, "less than or equal to 1"),
    ],
)
def test_forms_that_cannot_work_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        make_recipe(**changes)
