"""Demands on form behind new instructions: what is asked for can be checked, is checked, and is drawn reproducibly."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scripted_rounds import run, small
from scripted_run import make, make_recipe, write_job

from gra.checks.instruction_constraints import read_constraints
from gra.config.review import FormatConstraintsConfig, ReviewConfig
from gra.core.rng import rng
from gra.core.types import AlternativeResponse, Candidate, State
from gra.core.vocabulary import RejectedAt
from gra.data.export import _first_written
from gra.desk.gate import _decide
from gra.synthesis.best_of_n import taken_number
from gra.synthesis.format_constraints import (
    _WORDINGS,
    add_format_constraint,
    draw_constraint,
    is_repaired,
    repair_form,
)

PLAIN = "Why do the tides come later every day?"
SHOUT = "What pulls the sea? Answer in capital letters only."
FILTER = {"kind": "format", "mode": "filter"}


@given(st.integers())
def test_every_demand_is_read_as_what_it_is_alone_and_behind_an_instruction(seed: int) -> None:
    demand = draw_constraint(random.Random(seed))
    assert read_constraints(demand)
    assert read_constraints(f"{PLAIN} {demand}") == read_constraints(demand)


def test_every_kind_is_drawn_and_every_key_is_read() -> None:
    drawn = {draw_constraint(random.Random(seed)) for seed in range(2000)}
    for demand in drawn:
        if named := re.search(r"keys (.+)\.$", demand):
            (check,) = read_constraints(demand)
            assert check.arguments["keys"] == re.split(r", | and ", named[1])
    kinds = {check.kind for demand in drawn for check in read_constraints(demand)}
    assert kinds >= {
        "sentences_exactly", "words_exactly", "words_at_most", "bullet_list", "numbered", "json_keys", "lowercase",
        "uppercase", "no_commas", "first_words", "last_words",
    }  # fmt: skip
    assert len(drawn) > sum(map(len, _WORDINGS.values()))


def test_the_share_is_kept_and_what_has_a_form_stays_as_it_was() -> None:
    half = FormatConstraintsConfig(share=0.5)
    asked = [add_format_constraint(PLAIN, "qa", half, rng(0, 1, n, "form")) for n in range(1000)]
    assert 450 < sum(bool(read_constraints(text)) for text in asked) < 550
    assert all(text.startswith(PLAIN) for text in asked)
    always = FormatConstraintsConfig(share=1.0, domains=["qa"])
    assert add_format_constraint("Name three rivers. Use bullet points.", "qa", always, random.Random(1)) == (
        "Name three rivers. Use bullet points."
    )
    for limited in (
        "Name the capital of Peru. Reply with its name only.",
        "Is 7 odd? Say yes or no.",
        "Give just a word.",
    ):
        assert all(add_format_constraint(limited, "qa", always, random.Random(n)) == limited for n in range(9))
    for free in (
        "Name one of the moons of Jupiter.",
        "I just moved to Lisbon. Suggest a walk.",
        "My dog is alone. Help me.",
    ):
        assert any(add_format_constraint(free, "qa", always, random.Random(n)) != free for n in range(9))
    assert add_format_constraint(PLAIN, "coding", always, random.Random(1)) == PLAIN
    # In a text about programs, "lower case" need not be a constraint on the answer.
    code = "Write a Python function that counts words."
    for seed in range(50):
        text = add_format_constraint(code, "qa", always, random.Random(seed))
        assert text == code or read_constraints(text) == read_constraints(text.removeprefix(code).strip())


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
    asked = {
        add_format_constraint(instruction, "qa", FormatConstraintsConfig(share=1.0), random.Random(seed))
        for seed in range(50)
    } - {instruction}
    assert all(text.startswith(f"{instruction}\n\n" if apart else f"{instruction} ") for text in asked)
    assert len(asked) > 10 or "following" in instruction  # there it would be read as a part of the text


def test_response_that_breaks_its_format_constraint_is_rejected(tmp_path: Path) -> None:
    recipe = small(format_constraints={"share": 1.0}, review={"comments": "disputed", "verifiers": [FILTER]})
    candidates = list(run(tmp_path, recipe, 8).candidates)
    assert list(run(tmp_path, recipe, 1, up_to_s=0.0).candidates) == candidates
    answered = [candidate for candidate in candidates if candidate.response]
    assert answered
    assert all(read_constraints(candidate.instruction) for candidate in answered)
    broken = [c for c in answered if not all(check.passes(c.response) for check in read_constraints(c.instruction))]
    assert broken
    assert {(c.state, c.reason) for c in broken} == {
        (State.REJECTED, "program format: a demand on its form is not met")
    }
    assert any(c.reason != "program format: a demand on its form is not met" for c in answered)


@pytest.mark.parametrize(
    ("instruction", "response", "repaired"),
    [
        ("Why? Answer in capital letters only.", "Because of the moon.", "BECAUSE OF THE MOON."),
        ("Why? Use only lowercase letters.", " Because of the Moon.\n", "because of the moon."),
        ("Why? End with the words 'Thank you.'.", "The moon", "The moon. Thank you."),
        ("Why? End with the words 'Thank you.'.", "The moon pulls.", "The moon pulls. Thank you."),
        ("Why? Begin your answer with 'In short'.", "The moon pulls.", "In short: The moon pulls."),
        ("Why? End with the words 'Thank you.'.", 'He said "Yes."', 'He said "Yes." Thank you.'),
        ("Loop. End with the words 'Thank you.'.", "```\nfor x in y:\n```", "```\nfor x in y:\n```\n\nThank you."),
        ("Loop. Begin your answer with 'In short'.", "```\nfor x in y:\n```", "In short:\n\n```\nfor x in y:\n```"),
        ("Fruit? Begin your answer with 'In short'.", "- apple\n- pear", "In short:\n\n- apple\n- pear"),
        ("Fruit? End with the words 'The end.'.", "- apple", "- apple\n\nThe end."),
        ("Why? Use only lowercase letters and at most 12 words.", "The moon.", "the moon."),
        # What a repair cannot give, and what needs none.
        ("Why? Use only lowercase letters and at most 12 words.", "The moon " * 9, None),
        ("Why? Use exactly 3 sentences.", "The moon.", None),
        ("Why? Do not use commas.", "The moon, and the sun.", None),
        ("Why? Answer in capital letters only.", "```python\nx = a\n```", None),
        ("Why? Answer in capital letters only.", "42", None),
        ("Why? Answer in capital letters only.", r"It is \\(\\frac{1}{2}\\).", None),
        ("Why? Use only lowercase letters.", "def f(X):\n    return None", None),
        ("Why? Use only lowercase letters.", "See https://example.org/AbC", None),
        ("Why? Answer in capital letters only.", "Die Straße.", None),
        ("Why? Use only lowercase letters.", "İyi", None),
        ("Why? Begin your answer with 'In short'.", "", None),
        ("Why? Answer in capital letters only.", "THE MOON.", None),
        (PLAIN, "The moon.", None),
        ("Why? Answer in capital letters only.", "", None),
    ],
)
def test_a_form_that_changes_no_word_is_repaired(instruction: str, response: str, repaired: str | None) -> None:
    assert repair_form(instruction, response) == repaired


@given(st.integers(), st.text(max_size=60))
def test_a_repaired_response_keeps_its_form_and_every_word(seed: int, response: str) -> None:
    instruction = f"{PLAIN} {draw_constraint(random.Random(seed))}"
    repaired = repair_form(instruction, response)
    if repaired is not None:
        assert all(check.passes(repaired) for check in read_constraints(instruction))
        assert response.strip().upper().lower() in repaired.upper().lower()
        assert repair_form(instruction, repaired) is None


def test_a_repaired_response_is_reviewed_and_the_first_one_stays_in_the_lineage(tmp_path: Path) -> None:
    review = {"comments": "disputed", "verifiers": [FILTER]}
    for folder in ("plain", "repaired"):
        (tmp_path / folder).mkdir()
    plain = list(run(tmp_path / "plain", small(format_constraints={"share": 1.0}, review=review), 8).candidates)
    recipe = small(format_constraints={"share": 1.0, "repair": True}, review=review)
    candidates = list(run(tmp_path / "repaired", recipe, 8).candidates)
    repaired = [candidate for candidate in candidates if is_repaired(candidate, 1)]
    assert repaired
    assert sum(c.state is State.ACCEPTED for c in candidates) >= sum(c.state is State.ACCEPTED for c in plain)
    for candidate in repaired:
        (first,) = candidate.alternatives
        assert (first.number, first.reason) == (0, "program format: a demand on its form is not met")
        assert repair_form(candidate.instruction, first.response) == candidate.response
        assert candidate.reviews or candidate.state is not State.ACCEPTED
    before = {c.id: c for c in plain}
    common = [c for c in candidates if c.id in before]
    assert {c.id for c in common if before[c.id].state is State.ACCEPTED} <= {
        c.id for c in common if c.state in (State.ACCEPTED, State.DUPLICATE)
    }


def test_the_card_says_what_a_program_did_to_rows(tmp_path: Path) -> None:
    review = {"comments": "disputed", "verifiers": [FILTER]}
    for name, forms in (("plain", {}), ("forms", {"share": 1.0, "repair": True})):
        write_job(tmp_path / name, make_recipe(review=review, format_constraints=forms))
        make(tmp_path / name)
    assert "A program" not in (tmp_path / "plain" / "dataset" / "README.md").read_text()
    accepted = json.loads((tmp_path / "forms" / "manifest.json").read_text())["synthesis"]["repaired"]["accepted"]
    assert accepted
    card = (tmp_path / "forms" / "dataset" / "README.md").read_text()
    assert "to 100 % of the new instructions" in card
    assert f"also gave {accepted} of the accepted responses" in card


def test_every_response_of_best_of_n_is_repaired_and_the_same_form_once(tmp_path: Path) -> None:
    review = {"comments": "disputed", "verifiers": [FILTER]}
    recipe = small(format_constraints={"share": 1.0, "repair": True}, review=review, best_of=2)
    candidates = list(run(tmp_path, recipe, 8).candidates)
    repaired = [candidate for candidate in candidates if is_repaired(candidate, 2)]
    assert repaired
    for candidate in candidates:
        further = [other.response for other in candidate.alternatives if other.number > 1]
        assert len(set(further)) == len(further)
    for candidate in repaired:
        assert taken_number(candidate) > 1
        assert candidate.response not in {other.response for other in candidate.alternatives}


def test_unreviewed_rows_have_the_first_text_in_its_repaired_form() -> None:
    made = Candidate("r1-000000", 1, 0, "qa", State.REJECTED, "response: mean score too low", instruction=SHOUT)
    first = AlternativeResponse(0, "The moon.", "program format", rejected_at=RejectedAt.VERIFIER)
    taken = replace(made, response="THE SUN.", alternatives=(first,))
    assert _first_written(taken, repair_form).response == "THE MOON."
    assert _first_written(taken, lambda _, __: None).response == "The moon."
    assert _first_written(replace(made, response="THE SUN."), repair_form).response == "THE SUN."


def test_moved_gate_keeps_a_repaired_row_of_a_committee_without_reviewers() -> None:
    surplus = Candidate("r1-000000", 1, 0, "qa", State.SURPLUS, "enough rows", instruction=SHOUT, response="THE MOON.")
    first = AlternativeResponse(0, "The moon.", "program format", rejected_at=RejectedAt.VERIFIER)
    decided = _decide(replace(surplus, alternatives=(first,)), ReviewConfig())
    assert (decided.state, decided.response) == (State.ACCEPTED, "THE MOON.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_constraints": {"share": 0.5}}, "add `{kind: format, mode: filter}` to `review.verifiers`"),
        ({"format_constraints": {"share": 0.5}, "arm": "refined", "review": {"verifiers": [FILTER]}}, "has the seeds'"),
        (
            {"format_constraints": {"share": 0.5, "domains": ["art"]}, "review": {"verifiers": [FILTER]}},
            "`art` is not in",
        ),
        (
            {
                "format_constraints": {"repair": True},
                "arm": "distilled",
                "teacher": "model-a",
                "review": {"verifiers": [FILTER]},
            },
            "reviews none",
        ),
        ({"format_constraints": {"repair": True}}, "add `{kind: format, mode: filter}` to `review.verifiers`"),
        ({"format_constraints": {"share": 0.5, "domains": []}, "review": {"verifiers": [FILTER]}}, "at least 1 item"),
        (
            {"format_constraints": {"share": 0.5}, "review": {"verifiers": [FILTER | {"domains": ["qa"]}]}},
            "constraints in `math`, where no verifier",
        ),
        ({"format_constraints": {"share": 1.5}}, "less than or equal to 1"),
    ],
)
def test_forms_that_cannot_work_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        make_recipe(**changes)
