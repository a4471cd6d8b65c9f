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
from gra.core.types import DIMENSIONS, Review, Ruling
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Choice, Completion, Json, ModelId
from gra.synthesis.committee.adjudicator import adjudicate
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import make_members
from gra.synthesis.committee.reviewer import score_response

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
