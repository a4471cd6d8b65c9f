"""Checks of instructions: signs in their words, and combinations fitted on control instructions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured_run import REVIEW, made
from scripted_run import make_recipe

from gra.core.errors import RecipeError
from gra.synthesis.committee.instruction_signs import is_personal, lacks_its_text, leaves_text
from gra.synthesis.measuring.controls import ControlItem, ControlKind
from gra.synthesis.measuring.instruction_checks import MOST_GOOD_REJECTED, check_rates, fit_gates


@pytest.mark.parametrize(
    ("instruction", "found"),
    [
        ("Summarize the following paragraph.", {lacks_its_text}),
        ("Translate this sentence into German:", {lacks_its_text}),
        ("Correct this sentence: 'She don't like coffee.'", set()),
        ("Sort these numbers: 4, 2, 9.", set()),
        ("Given a bag of 60 red and 40 blue balls, how likely is a red one?", set()),
        ("Discuss the situation in your country.", {is_personal}),
        ("What is your favorite season?", {is_personal}),
        ("Do you have a brother?", {is_personal}),
        ("You are a pilot. What do you say to your passengers?", set()),
        ("How do you make bread?", set()),
        ("Explain in your own words what inflation does.", set()),
        ("Translate 'How are you?' into Spanish.", set()),
        ("Describe a scene in the sun. Write your whole answer in capital letters.", set()),
        ("Watch the clip and describe it.", {leaves_text}),
        ("Buy two tickets.", {leaves_text}),
        ("Is there a forecast app available in your area?", {leaves_text}),
        ("Pretend to be a fish that sees a picture for the first time.", set()),
        ("Write a haiku about fog on a lake.", set()),
        ("", set()),
    ],
)
def test_signs_in_the_words(instruction: str, found: set[Any]) -> None:
    assert {sign for sign in (lacks_its_text, is_personal, leaves_text) if sign(instruction)} == found


def controls(count: int) -> list[ControlItem]:
    kinds = (ControlKind.GOOD, ControlKind.GOOD, ControlKind.MERGED, ControlKind.PERSONAL)
    return [ControlItem(kinds[n % 4], f"s{n}", "?", "") for n in range(count)]


def test_combination_weighs_what_single_checks_cannot_decide_and_spares_good_instructions() -> None:
    """Each check sees half of a fault; only together they tell it from a good instruction."""
    luck, items = np.random.default_rng(1), controls(400)
    checks = {
        "ben": {
            item.name: {
                "one": float(1 / (1 + np.exp(-(shift + spread)))),
                "two": float(1 / (1 + np.exp(-(shift - spread)))),
                "sign": float(luck.random() < 0.5),
            }
            for item in items
            for shift, spread in [(1.0 if item.is_good else -1.0, luck.normal(0, 3))]
        }
    }
    for combine, least, most in ((True, 0.9, 1.0), (False, 0.0, 0.5)):
        rates = check_rates(checks, items, 0, combine=combine)
        rejected = np.mean([rates[kind]["rejected"] for kind in ("merged", "personal")])
        assert least <= rejected <= most
        assert rates["good"]["rejected"] <= MOST_GOOD_REJECTED + 0.05
    combined = fit_gates(checks, items, combine=True).combined["ben"]
    assert combined.failed({"one": 0.5, "two": 0.01, "sign": 1.0}) == ("two",)
    assert combined.failed({"one": 0.9, "two": 0.9, "sign": 0.0}) == ()
    assert abs(combined.weights["sign"]) < 0.1 * combined.weights["one"]


def test_without_faulty_control_instructions_each_check_decides() -> None:
    items = [item for item in controls(40) if item.is_good]
    gates = fit_gates({"ben": {item.name: {"one": 0.8} for item in items}}, items, combine=True)
    assert not gates.combined
    assert gates.thresholds["ben"]["one"] == pytest.approx(0.8)


def test_equal_good_instructions_pass_and_a_reviewer_with_few_answers_checks_each_alone() -> None:
    items = controls(44)
    checks = {
        "ben": {i.name: {"complete": 0.9, "no_life": float(i.is_good or n % 3 == 0)} for n, i in enumerate(items)},
        "cy": {i.name: {"complete": 0.8, "no_life": 1.0} for i in items[:1]},
        "di": {i.name: {"complete": 0.8, "no_life": 1.0} for i in items if not i.is_good},
    }
    gates = fit_gates(checks, items, combine=True)
    assert set(gates.combined) == {"ben"}
    assert not any(gates.fails(checks, item.name) for item in items if item.is_good)
    rates = check_rates(checks, items, 0, combine=True)
    assert rates["good"]["rejected"] == 0
    assert rates["merged"]["rejected"] > 0.4


def test_run_with_signs_and_likely_records_them_and_says_which_failed(tmp_path: Path) -> None:
    checks = ["complete", "text_shown", "no_life", "in_text", "likely"]
    review = REVIEW | {"ask": "yes_no", "checks": checks, "combine_checks": "fitted"}
    rows, facts = made(tmp_path / "run", review=review)
    given = [check for row in rows for check in row["checks"] if check["values"]]
    assert given
    assert all(set(check["values"]) == set(checks) for check in given)
    assert all(0 < check["values"]["likely"] <= 1 for check in given)
    assert {"good", "personal"} <= set(facts["panel"]["instruction_checks"])
    combined = [each["combined_checks"] for each in facts["reviewers"].values() if "combined_checks" in each]
    assert combined
    json.dumps(combined, allow_nan=False)


@pytest.mark.parametrize(
    ("review", "message"),
    [
        ({"combine_checks": "fitted"}, "fitted on control instructions; set `control_instructions`"),
        ({"checks": ["likely"]}, "decides nothing by itself; set `control_instructions`"),
        ({"checks": ["in_text"]}, "decides nothing by itself; set `control_instructions`"),
        ({"checks": ["likely", "likely"]}, "name each check once"),
    ],
)
def test_checks_that_cannot_be_scaled_are_refused(review: dict[str, Any], message: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=message):
        make_recipe(review=review)
