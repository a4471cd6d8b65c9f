"""Arms of unreviewed candidates: they name an arm with reviewers, and train on its unreviewed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT

from gra.core.errors import RecipeError
from gra.experiment import load_experiment


def written(folder: Path, arms: dict[str, Any]) -> Path:
    content = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())
    content["arms"] |= arms
    for name in ("student", "suite"):
        content[name] = str(ROOT / content[name])
    content["arms"] = {name: str(ROOT / arm) if isinstance(arm, str) else arm for name, arm in content["arms"].items()}
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_derived_arm_has_students_and_the_other_arms_unreviewed_rows(tmp_path: Path) -> None:
    plan = load_experiment(written(tmp_path, {"unreviewed": {"of": "gra"}}), [], tmp_path)
    assert set(plan.arms) == {"vanilla", "distilled", "gra"}
    assert ("unreviewed-seed0", "unreviewed", 0) in plan.students()
    assert plan.dataset("unreviewed") == plan.folder / "arms" / "gra" / "dataset" / "unreviewed.parquet"
    assert plan.dataset("gra").name == "train.parquet"
    assert "arm unreviewed: unreviewed candidates of gra" in plan.describe()


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("gro", "`arms.unreviewed.of: gro` is not an arm with a recipe"),
        ("vanilla", "`vanilla` has no reviews|has no reviews"),
    ],
)
def test_arm_without_reviews_is_refused(tmp_path: Path, of: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_experiment(written(tmp_path, {"unreviewed": {"of": of}}), [], tmp_path)
