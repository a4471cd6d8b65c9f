"""A whole experiment from Python: a copied arm, a student of 60,000 parameters, evaluation, comparison, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import write_suite
from training_tiny import PAIRS, make_student, row, write_recipe, write_rows

import gra


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An experiment on one arm that asks no model, as a mapping."""
    folder = tmp_path_factory.mktemp("experiment")
    rows = [{"instruction": prompt, "response": answer, "domain": "qa"} for prompt, answer in PAIRS]
    write_rows(folder / "seeds.jsonl", rows)
    arm = {"name": "copied", "arm": "vanilla", "seeds": {"source": str(folder / "seeds.jsonl")},
           "tracking": {"wandb": "off"}}  # fmt: skip
    (folder / "arm.yaml").write_text(json.dumps(arm))
    student = write_recipe(
        folder, make_student(folder / "base"), write_rows(folder / "rows.jsonl", [row(*pair) for pair in PAIRS])
    )
    asked = [{"id": "o1", "instruction": "Say north.", "checks": [{"kind": "words_at_most", "n": 1}]}]
    known = [{"id": "o2", "question": "What is red?", "choices": ["a color", "a fish"], "answer": 0}]
    other = write_suite(folder / "other", name="other", instructions=asked, questions=known)
    return {
        "name": "whole", "arms": {"copied": str(folder / "arm.yaml")}, "student": str(student),
        "suite": str(write_suite(folder / "suite")), "baseline": "copied", "accept_licenses": ["gemma"],
        "train": {"max_steps": 2}, "tracking": {"wandb": "off"}, "rows": 6, "report_suite": str(other),
    }  # fmt: skip


def test_experiment_runs_to_its_report_and_again_computes_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = gra.run_experiment(gra.ExperimentRecipe(**recipe), runs=tmp_path)
    assert list(run.arms) == ["copied"]
    assert run.counts["accepted"] == len(PAIRS)
    assert run.students["copied-seed0"].accept_licenses == ["gemma"]
    assert set(run.evaluations) == {"untuned", "copied-seed0"}
    assert run.comparison is not None
    assert run.comparison.content["baseline"] == "copied"
    data = run.comparison.content["arms"]["copied"]["data"]
    assert (data["rows"], data["wanted"], data["available"], data["cost"]["total"]) == (6, 6, len(PAIRS), 0.0)
    assert run.students["copied-seed0"].metrics["rows"]["read"] == 6
    assert run.manifest["rows"]["arms"] == {"copied": {"from": "arms/copied/dataset/train.parquet", "rows": 6}}
    assert run.reported is not None
    assert (run.reported.content["suite"]["name"], run.comparison.content["suite"]["name"]) == ("other", "tiny")
    assert set(run.reported_evaluations) == {"untuned", "copied-seed0"}
    assert run.reported_evaluations["untuned"].path.parent.name == "eval-report"
    assert "No choice was made on these items" in (run.path / "report" / "index.html").read_text()
    assert "mean of tasks" in str(run)
    assert (run.path / "report" / "index.html").is_file()
    before = run.students["copied-seed0"].metrics
    again = gra.run_experiment(recipe | {"report_suite": None}, runs=tmp_path)
    assert again.students["copied-seed0"].metrics == before
    assert (again.path / "compare-report" / "compare.json").is_file()  # stale: of the run before
    assert (again.reported, again.reported_evaluations) == (None, {})
    assert "No choice was made on these items" not in (run.path / "report" / "index.html").read_text()


def test_wrong_experiment_is_one_sentence(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(gra.RecipeError, match="`baseline: other` is not one of the arms"):
        gra.run_experiment(recipe | {"baseline": "other"}, runs=tmp_path)
    with pytest.raises(gra.RecipeError, match=r"`missing\.yaml` is not there"):
        gra.run_experiment(recipe | {"student": "missing.yaml"}, runs=tmp_path)
    with pytest.raises(gra.RecipeError, match="asks 13 items that `suite` asks too"):
        gra.run_experiment(recipe | {"report_suite": recipe["suite"]}, runs=tmp_path)
    with pytest.raises(gra.RecipeError, match="wanted here is a ExperimentRecipe"):
        gra.run_experiment(gra.SynthesisRecipe(name="x", arm="vanilla", seeds={"source": "s"}))
