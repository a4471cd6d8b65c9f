"""`gra explain` on one screen, whatever the candidate's length; its words are tested with the report."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from reported_run import CARD, review, reviewed
from rich.console import Console
from synthesised import command, synthesise

from gra.core.types import CHECKS, DIMENSIONS, AlternativeResponse, InstructionReview, Ruling, State
from gra.data.export import export, read_candidates
from gra.runs.explain import explain


def long_story(tmp_path: Path) -> None:
    """A candidate with everything a story can have, and more text than any screen."""
    words = "word " * 900
    names = ("ben", "cy", "eve")
    row = reviewed(
        0, State.ACCEPTED, "adjudicator kept it", (9.5, 4.5), instruction=words, response=words.replace(" ", "\n"),
        reviewers=names, disputed=True, neighbour="qa-1", similarity=0.4,
        checks=tuple(InstructionReview(name, dict.fromkeys(CHECKS, 0.9), ()) for name in names),
        reviews=tuple(review(name, 8.0, words) for name in names),
        ruling=Ruling("dot", dict.fromkeys(DIMENSIONS, 7.25), 7.25, words, True),
        alternatives=(AlternativeResponse(1, words, "response: mean score too low", (review("ben", 3.0),), 3.0, 0.0),),
    )  # fmt: skip
    export(tmp_path, [row], CARD)


@pytest.mark.parametrize(("width", "height"), [(80, 32), (100, 30), (120, 40), (200, 60), (120, 300)])
def test_explain_fits_the_terminal_and_keeps_every_part(tmp_path: Path, width: int, height: int) -> None:
    long_story(tmp_path)
    screen = io.StringIO()
    console = Console(file=screen, width=width, height=height, force_terminal=True, color_system=None)
    console.print(explain(tmp_path, "r1-000000"))
    text = screen.getvalue()
    assert len(text.splitlines()) < height
    parts = ["ACCEPTED", "parent", "keywords", "nearest", "instruction", "checks", "response", "reviews", "mean 7.00",
             "ruling", "response not taken", "3.00", "generator 2 calls"]  # fmt: skip
    assert [part for part in parts if part not in text] == []
    assert "more characters" in text


def test_explain_in_full_shows_every_question_and_answer(tmp_path: Path) -> None:
    run = synthesise(tmp_path / "one")
    candidate = next(c for c in read_candidates(run / "lineage.parquet") if c.alternatives and c.reviews)
    assert command("explain", str(run), candidate.id, "--full") == 0
    screen = io.StringIO()
    Console(file=screen, width=4000).print(explain(run, candidate.id, full=True))
    text = screen.getvalue()
    for piece in (candidate.response, candidate.alternatives[0].response, *(key[:12] for key in candidate.calls)):
        assert piece in text
    assert text.count("\ngenerator ") == 4
    assert "Plan one new exercise" in text
    assert command("ledger", "compact", str(run), "--drop-requests") == 0
    Console(file=screen, width=4000).print(explain(run, candidate.id, full=True))
    assert screen.getvalue().count("the request is no longer in the ledger") == len(candidate.calls)
