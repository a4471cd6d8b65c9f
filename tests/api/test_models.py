"""Training, evaluation and comparison from Python, on a student of 60,000 random parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import write_suite
from training_tiny import PAIRS, make_student, row, write_recipe, write_rows

import gra

ROWS = [row(*pair) for pair in PAIRS]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_student(folder / "base")
    write_recipe(folder, folder / "base", write_rows(folder / "rows.jsonl", ROWS))
    write_suite(folder / "suite")
    return folder


@pytest.fixture(scope="module")
def student(place: Path) -> gra.Student:
    return gra.train(place / "recipe.yaml", data=ROWS, runs=place / "runs", quiet=True)


@pytest.fixture(scope="module")
def evaluated(place: Path, student: gra.Student) -> dict[str, gra.EvaluationResult]:
    suite, runs = place / "suite" / "suite.yaml", place / "runs"
    return {
        "untuned": gra.evaluate(
            suite, place / "base", name="untuned", chat_template="builtin:plain", runs=runs, device="cpu", quiet=True
        ),
        "tiny": gra.evaluate(suite, student, runs=runs, device="cpu", quiet=True),
    }


def test_student_is_trained_once(place: Path, student: gra.Student) -> None:
    assert student.path == place / "runs" / "tiny" / "model"
    assert (student.metrics["steps"], student.name, student.base) == (4, "tiny", str(place / "base"))
    before = (student.path / "metrics.json").stat().st_mtime_ns
    again = gra.train(gra.load_recipe(place / "recipe.yaml"), data=iter(ROWS), runs=place / "runs", quiet=True)
    assert (again.path / "metrics.json").stat().st_mtime_ns == before
    assert isinstance(gra.load_run(student.path), gra.Student)
    assert "loss" in str(student)
    assert student._repr_html_().startswith("<pre")


def test_wrong_training_recipe_is_one_sentence(place: Path) -> None:
    with pytest.raises(gra.RecipeError, match="max_setps"):
        gra.train(place / "recipe.yaml", ["train.max_setps=3"], runs=place / "runs", quiet=True)
    with pytest.raises(gra.RecipeError, match=r"`train\.max_setps`"):
        gra.train(
            gra.TrainRecipe(name="x", model={"name": str(place / "base")}, train={"max_setps": 3}),
            data=ROWS, runs=place / "runs", quiet=True,
        )  # fmt: skip
    with pytest.raises(gra.DataError, match="rows: row 1 is a str"):
        gra.train(place / "recipe.yaml", data=iter(["text"]), runs=place / "runs", quiet=True)


def test_evaluation_scores_a_model_and_its_student(evaluated: dict[str, gra.EvaluationResult], place: Path) -> None:
    for name, run in evaluated.items():
        assert run.name == name
        assert set(run.scores) == {"instructions", "sums"}
        assert all(0 <= score <= 1 for score in run.scores.values())
        assert len(run.records()) == 46
        assert "instructions" in str(run)
    assert evaluated["tiny"].path == place / "runs" / "tiny" / "eval"
    assert isinstance(gra.load_run(evaluated["tiny"].path), gra.EvaluationResult)


def test_suite_made_in_python(place: Path) -> None:
    suite = json.loads((place / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [{**task, "data": str(place / "suite" / task["data"])} for task in suite["tasks"]]
    run = gra.evaluate(
        suite, place / "base", name="made", chat_template="builtin:plain", limit=2, runs=place / "runs", device="cpu",
        quiet=True,
    )  # fmt: skip
    assert len(run.records()) == 4


def test_comparison_is_written_and_shown(evaluated: dict[str, gra.EvaluationResult], tmp_path: Path) -> None:
    arms: dict[str, Any] = {"untuned": evaluated["untuned"].path, "tiny": [evaluated["tiny"]]}
    found = gra.compare(arms, "untuned", margin=0.05, output=tmp_path / "out")
    assert found.content["margin"] == 0.05
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"compare.json", "compare.md", "compare.html"}
    assert "mean of tasks" in str(found)
    assert found._repr_html_().startswith("<pre")
    assert found.path == tmp_path / "out"


def test_wrong_comparison_is_one_sentence(evaluated: dict[str, gra.EvaluationResult], tmp_path: Path) -> None:
    with pytest.raises(gra.RecipeError, match=r"the baseline `tinny` is not one of the runs .*did you mean `tiny`\?"):
        gra.compare(dict(evaluated), "tinny", output=tmp_path)
    with pytest.raises(gra.RecipeError, match="`margin` is 5; it is a share of 1"):
        gra.compare(dict(evaluated), "tiny", margin=5, output=tmp_path)
    with pytest.raises(gra.DataError, match="nowhere"):
        gra.compare({"a": "nowhere", "tiny": evaluated["tiny"]}, "tiny", output=tmp_path)


def test_wrong_model_is_one_sentence(place: Path) -> None:
    with pytest.raises(gra.RecipeError, match="there is no model `nothing-like-this`"):
        gra.evaluate(place / "suite" / "suite.yaml", "nothing-like-this", quiet=True)
