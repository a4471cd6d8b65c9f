"""`gra explain` on one screen, of a candidate of any length, and what it shows of checks and verifiers."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from reported_run import CARD, review, reviewed
from rich.console import Console
from synthesised import command, synthesise

from gra.core.types import (
    CHECKS,
    DIMENSIONS,
    Abstained,
    AlternativeResponse,
    Candidate,
    ContaminationMatch,
    InstructionReview,
    Ruling,
    State,
    Verified,
)
from gra.data.contamination.search import ContaminationVerdict
from gra.data.export import export, read_candidates
from gra.runs.explain import explain


def write_long_candidate(tmp_path: Path) -> None:
    """A candidate with every part that can be shown, and more text than any screen holds."""
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
    write_long_candidate(tmp_path)
    screen = io.StringIO()
    console = Console(file=screen, width=width, height=height, force_terminal=True, color_system=None)
    console.print(explain(tmp_path, "r1-000000"))
    text = screen.getvalue()
    assert len(text.splitlines()) < height
    parts = ["ACCEPTED", "parent", "keywords", "nearest", "instruction", "checks", "response", "reviews", "mean 7.00",
             "ruling", "response not taken", "3.00", "generator 2 calls"]  # fmt: skip
    assert [part for part in parts if part not in text] == []
    assert "more characters" in text


def explained(tmp_path: Path, candidate: Candidate) -> str:
    export(tmp_path, [candidate], CARD)
    screen = io.StringIO()
    Console(file=screen, width=120, force_terminal=True).print(explain(tmp_path, candidate.id, full=True))
    return screen.getvalue()


def match(verdict: ContaminationVerdict) -> ContaminationMatch:
    if verdict == "clean":
        return ContaminationMatch("clean", 0, "", "", "", 0.0, 0, "", "")
    return ContaminationMatch(verdict, 3, "arc", "arc-7", "ngram", 0.9, 13, "the item's text", "the row's text")


@pytest.mark.parametrize(
    ("verdict", "state", "color"),
    [("clean", State.ACCEPTED, 32), ("suspect", State.ACCEPTED, 33), ("contaminated", State.CONTAMINATED, 31)],
)
def test_explain_shows_the_verdict_of_the_contamination_check(
    tmp_path: Path, verdict: ContaminationVerdict, state: State, color: int
) -> None:
    text = explained(tmp_path, reviewed(0, state, "a reason", (8.0, 7.0), contamination=match(verdict)))
    assert f"test items  \x1b[0m\x1b[1;{color}m{verdict}\x1b[0m" in text
    shared = ["item arc-7 of arc (ngram 0.90, 13 words in a row); 2 more items", "the item's text", "the row's text"]
    assert [piece in text for piece in shared] == [verdict != "clean"] * 3


def test_explain_names_the_modes_of_verifiers(tmp_path: Path) -> None:
    verifications = (
        Verified("math", "score", ("2 + 2 = 4",), (), 10.0),
        Verified("format", "filter", (), ("a list",), 0.0),
        Abstained("tests", "filter", "no tests"),
    )
    text = explained(tmp_path, reviewed(0, State.ACCEPTED, "a reason", (8.0, 7.0), verifications=verifications))
    lines = [" ".join(re.sub(r"\x1b\[[\d;]*m", "", line).strip("│ ").split()) for line in text.splitlines()]
    assert "verifiers mode verdict what it found" in lines
    assert "math score passed, score 10.00 holds: 2 + 2 = 4" in lines
    assert "format filter failed broken: a list" in lines
    assert "tests filter abstained no tests" in lines


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
