"""Verifiers of the user's own: a function in Python that recipes name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from mock_engines import UseEngines
from mock_engines import mock_engines as mock_engines
from scripted_run import make_recipe, write_job

import gra
from gra.synthesis.committee import verifiers


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a registry of its own."""
    monkeypatch.setattr(verifiers, "_MAKERS", dict(verifiers._MAKERS))
    kinds = list(verifiers.VERIFIER_KINDS)
    yield
    verifiers.VERIFIER_KINDS[:] = kinds


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)

    @gra.verifier("short-id")  # known before the recipe is checked
    def check(instruction: str, response: str) -> bool | None:
        return True

    rounds = {"count": 1, "accept": 6, "max_candidates": 60}
    review = {"comments": "disputed", "verifiers": [{"kind": "short-id", "mode": "filter"}]}
    write_job(tmp_path, make_recipe(name="small", rounds=rounds, review=review))
    return tmp_path / "recipe.yaml"


def test_filter_rejects_what_the_function_refuses(job: Path, mock_engines: UseEngines) -> None:
    mock_engines()

    @gra.verifier("short-id", fault="the number is even")
    def check(instruction: str, response: str) -> bool | None:
        number = response.split()[1]
        return None if number.endswith("0") else int(number) % 2 == 1

    run = gra.synthesize(job, quiet=True)
    odd = [int(row["completion"][0]["content"].split()[1]) for row in run.rows()]
    assert odd
    assert all(number % 2 == 1 or number % 10 == 0 for number in odd)
    refused = [c for c in run if c.reason == "program short-id: the number is even"]
    assert refused
    assert run.manifest["synthesis"]["programs"]["short-id"].keys() <= {"takes", "passed", "failed", "abstained"}


def test_score_counts_beside_the_reviewers(job: Path, mock_engines: UseEngines) -> None:
    mock_engines()

    @gra.verifier("short-id")
    def check(instruction: str, response: str) -> bool | None:
        return False

    changes = ["review.verifiers=[{kind: short-id, mode: score}]", "rounds.max_candidates=12"]
    with pytest.raises(gra.NoRows, match="mean score too low"):
        gra.synthesize(job, changes, quiet=True)
    run = gra.Run("runs/small")
    reviewed = [c for c in run if c.reviews]
    assert reviewed
    assert all(c.verifications[0].score == 0.0 and c.mean < 8 for c in reviewed)


def test_changed_function_reviews_anew_and_an_equal_one_does_not(job: Path, mock_engines: UseEngines) -> None:
    mock_engines()

    def define(limit: int) -> None:
        if limit:

            @gra.verifier("short-id")
            def check(instruction: str, response: str) -> bool | None:
                return len(response) > 1000
        else:

            @gra.verifier("short-id")
            def check(instruction: str, response: str) -> bool | None:
                return True

    def fingerprint() -> str:
        with contextlib.suppress(gra.NoRows):
            gra.synthesize(job, ["rounds.max_candidates=12"], quiet=True)
        return str(gra.Run("runs/small").manifest["synthesis"]["fingerprint"])

    define(0)
    first = fingerprint()
    define(0)
    assert fingerprint() == first
    define(1)
    assert fingerprint() != first
    assert gra.load_run("runs/small").counts["accepted"] == 0


def test_version_is_part_of_the_fingerprint() -> None:
    from gra.api.verifiers import verifier

    def check(instruction: str, response: str) -> bool:
        return True

    found = set()
    for version in ("1", "2", "2"):
        verifier("own", version=version)(check)
        found.add(verifiers.versions([verifiers.VerifierConfig(kind="own", mode="score")])["own"])
    assert len(found) == 2


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda: 0.3, r"the verifier `short-id` returned 0.3 on r1-\d+; it must return True, False or None"),
        (lambda: 1 / 0, r"the verifier `short-id` failed on r1-\d+ with ZeroDivisionError: division by zero; repair"),
    ],
)
def test_wrong_function_is_one_sentence(answer: Any, sentence: str, job: Path, mock_engines: UseEngines) -> None:
    mock_engines()

    @gra.verifier("short-id")
    def check(instruction: str, response: str) -> Any:
        return answer()

    with pytest.raises(gra.GraError, match=sentence):
        gra.synthesize(job, quiet=True)


@pytest.mark.parametrize(
    ("kind", "sentence"), [("math", "comes with GRA"), ("My Verifier", "use lower-case letters"), ("", "use lower")]
)
def test_name_that_is_not_allowed(kind: str, sentence: str) -> None:
    with pytest.raises(gra.RecipeError, match=sentence):
        gra.verifier(kind)


def test_recipe_names_an_unknown_kind(job: Path) -> None:
    with pytest.raises(gra.RecipeError, match=r"'tests', 'functions' or 'short-id'; did you mean `short-id`\?"):
        gra.load_recipe(job, ["review.verifiers=[{kind: short-ids, mode: score}]"])
