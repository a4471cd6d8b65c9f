"""Which scores a member gives is a recipe's choice: the paper's six by default, fewer where that says as much."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from scripted_run import content, make_recipe, open_ledger, said

from gra.config.committee import CommitteeConfig
from gra.config.loader import load_recipe
from gra.config.review import ReviewConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import RecipeError
from gra.core.types import DIMENSIONS, InstructionReview, Review, Ruling
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Choice, Completion, Json, ModelId
from gra.synthesis.committee.adjudicator import adjudicate
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import make_members
from gra.synthesis.committee.reviewer import check_instruction, score_response

MEMBERS = {"paper": "m", "narrow": {"model": "m", "dimensions": ["correctness", "relevance"]}}


def judged(folder: Path, member: str, ask: str) -> tuple[Review, Ruling, list[Call]]:
    """One response reviewed and adjudicated by one member; every call that it was asked."""
    folder.mkdir(exist_ok=True)
    asked: list[Call] = []

    def script(call: Call) -> Completion:
        asked.append(call)
        if isinstance(call.output, Choice):
            return said("yes", "length", **{label: 1 / len(call.output.labels) for label in call.output.labels})
        assert isinstance(call.output, Json)
        names = call.output.schema["properties"]
        return said(json.dumps({name: "It is rather short." if name == "comment" else 7 for name in names}))

    async def run() -> tuple[Review, Ruling]:
        recipe = CommitteeConfig.model_validate({"models": MEMBERS, "reviewers": 1})
        models = {name: ModelId(m.model, "sha256:m", "t") for name, m in recipe.models.items()}
        judge = make_members(recipe, ReviewConfig(ask=ask), models)[member]
        ledger = open_ledger(folder / "ledger.sqlite")
        try:
            recorder = CallRecorder(Broker(ledger, EnginePool({"m": MockEngine("m", script)}, 1.0)), "c1")
            shown = ("Add 2 and 3.", "5")
            review = await score_response(recorder, judge, *shown, comment=False, calibrate=float)
            ruling = await adjudicate(recorder, judge, *shown, [review], accept_score=5.0, calibrate=float)
        finally:
            ledger.close()
        return review, ruling

    return *asyncio.run(run()), asked


@pytest.mark.parametrize(("ask", "score", "calls"), [("integers", 7.0, 1), ("yes_no", 5.0, 2), ("expected", 5.0, 2)])
def test_a_member_is_asked_for_its_own_dimensions_only(tmp_path: Path, ask: str, score: float, calls: int) -> None:
    review, ruling, asked = judged(tmp_path, "narrow", ask)
    assert tuple(review.values) == tuple(ruling.values) == ("correctness", "relevance")
    assert review.score == ruling.score == pytest.approx(score)
    assert len(asked) == 2 * calls
    assert not any("coherence" in content(call) or "fit together" in content(call) for call in asked)
    review, ruling, asked = judged(tmp_path / "six", "paper", ask)
    assert tuple(review.values) == tuple(ruling.values) == DIMENSIONS
    assert len(asked) == (2 if ask == "integers" else 12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"review": {"dimensions": []}}, r"review\.dimensions.*at least 1"),
        ({"review": {"dimensions": ["clarity", "clarity"]}}, r"review\.dimensions.*name each dimension once"),
        ({"review": {"dimensions": ["corectness"]}}, r"review\.dimensions.*corectness"),
        (
            {"committee": {"models": {"a": {"model": "m", "roles": ["reviewer"], "ask": "likelihood",
                                            "dimensions": ["clarity"]}}}},
            "gives one number; leave `dimensions` out",
        ),
    ],
)  # fmt: skip
def test_dimensions_that_cannot_be(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = json.loads(make_recipe().model_dump_json())
    content |= {key: content[key] | value for key, value in change.items()}
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        load_recipe(tmp_path / "recipe.yaml", SynthesisRecipe)


def checked(folder: Path, ask: str, checks: list[str], *, yes: float) -> tuple[InstructionReview, list[Call]]:
    """One instruction checked by one reviewer, which says "yes" to everything with the same probability."""
    asked: list[Call] = []

    def script(call: Call) -> Completion:
        asked.append(call)
        if isinstance(call.output, Choice):
            return said("yes", "length", yes=yes, no=1 - yes)
        assert isinstance(call.output, Json)
        return said(json.dumps(dict.fromkeys(call.output.schema["properties"], yes > 0.5)))

    async def run() -> InstructionReview:
        recipe = CommitteeConfig.model_validate({"models": {"a": "m"}, "reviewers": 1})
        review = ReviewConfig.model_validate({"ask": ask, "checks": checks})
        reviewer = make_members(recipe, review, {"a": ModelId("m", "sha256:m", "t")})["a"]
        ledger = open_ledger(folder / "ledger.sqlite")
        try:
            recorder = CallRecorder(Broker(ledger, EnginePool({"m": MockEngine("m", script)}, 1.0)), "c1")
            return await check_instruction(recorder, reviewer, "Add 2 and 3.", {})
        finally:
            ledger.close()

    return asyncio.run(run()), asked


@pytest.mark.parametrize("ask", ["integers", "yes_no"])
def test_yes_to_the_question_for_a_fault_speaks_against_the_instruction(tmp_path: Path, ask: str) -> None:
    review, asked = checked(tmp_path, ask, ["complete", "self_contained"], yes=0.9)
    expected = (
        {"complete": 1.0, "self_contained": 0.0} if ask == "integers" else {"complete": 0.9, "self_contained": 0.1}
    )
    assert review.values == {name: pytest.approx(value) for name, value in expected.items()}
    assert review.failed == ("self_contained",)
    shown = " ".join(content(call) + call.messages[-1][1] for call in asked)
    assert "not shown here" in shown
    assert "one way to understand" not in shown


def test_agreement_draws_as_many_answers_as_the_member_says(tmp_path: Path) -> None:
    asked: list[Call] = []

    def script(call: Call) -> Completion:
        asked.append(call)
        return said("Answer: 5" if call.sample == 1 else "Answer: 6")

    async def run(draws: int | None) -> Review:
        member = {"model": "m", "ask": "agreement", "roles": ["generator", "reviewer"], "draws": draws}
        recipe = CommitteeConfig.model_validate({"models": {"a": member}, "reviewers": 1})
        reviewer = make_members(recipe, ReviewConfig(control_items=4), {"a": ModelId("m", "sha256:m", "t")})["a"]
        ledger = open_ledger(tmp_path / f"{draws}.sqlite")
        try:
            recorder = CallRecorder(Broker(ledger, EnginePool({"m": MockEngine("m", script)}, 1.0)), "c1")
            return await score_response(recorder, reviewer, "Add 2 and 3.", "Answer: 5", comment=False, calibrate=float)
        finally:
            ledger.close()

    for draws, expected in ((1, 10.0), (2, 5.0), (None, 2.5)):
        asked.clear()
        assert asyncio.run(run(draws)).raw == pytest.approx(expected)
        assert len(asked) == (draws or 4)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ({"ask": "yes_no", "draws": 2}, "belongs to `ask: agreement`"),
        ({"ask": "agreement", "draws": 2, "sampling": {"temperature": 0}}, "the same answer again"),
        ({"ask": "agreement", "draws": 0}, "greater than or equal to 1"),
    ],
)
def test_draws_that_cannot_work_are_refused(member: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CommitteeConfig.model_validate({"models": {"a": {"model": "m", "roles": ["reviewer"], **member}, "b": "m"}})


def test_a_check_is_named_once() -> None:
    with pytest.raises(ValueError, match="name each check once"):
        ReviewConfig.model_validate({"checks": ["clear", "clear"]})
