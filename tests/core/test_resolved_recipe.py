"""Where a run folder's answers are, and what a training says of the run that its data came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gra.core.errors import DataError
from gra.core.run_folder import RunFolder
from gra.core.stored.resolved_recipe import RESOLVED, find_ledger, read_resolved_recipe
from gra.training.provenance import origin_of


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """runs/demo with one data file in its manifest, and a ledger of its own."""
    run = RunFolder(tmp_path / "runs" / "demo")
    data = run.create() / "dataset" / "rows.jsonl"
    data.parent.mkdir()
    data.write_text("{}\n")
    (run / "ledger.sqlite").touch()
    run.record("synthesis", {"name": "demo"}, [data])
    return run


def write_recipe(run: RunFolder, **keys: str) -> None:
    (run / RESOLVED).write_text(yaml.safe_dump(keys))


def origin(run: RunFolder) -> str | None:
    found = origin_of(run / "dataset" / "rows.jsonl")
    assert found is not None
    assert (found["run"], found["stage"], found["name"]) == (str(run.path), "synthesis", "demo")
    return found["ledger"]


def test_the_ledger_is_the_one_the_recipe_names_before_one_that_is_only_near(tmp_path: Path, run: RunFolder) -> None:
    assert origin(run) == str(run / "ledger.sqlite")
    shared = tmp_path / "shared.sqlite"
    shared.touch()
    for named in ("shared.sqlite", str(shared)):
        write_recipe(run, ledger=named)
        assert find_ledger(run.path) == shared
        assert origin(run) == str(shared)
    write_recipe(run, ledger="gone.sqlite")
    assert find_ledger(run.path) == run / "ledger.sqlite"


@pytest.mark.parametrize("up", [1, 2])
def test_arms_of_an_experiment_share_the_ledger_above_them(run: RunFolder, up: int) -> None:
    (run / "ledger.sqlite").unlink()
    assert origin(run) is None
    (run.path.parents[up - 1] / "ledger.sqlite").touch()
    assert origin(run) == str(run.path.parents[up - 1] / "ledger.sqlite")


@pytest.mark.parametrize("text", ["[1, 2", "- a list", "just words"])
def test_a_damaged_recipe_is_named_and_takes_no_student_with_it(run: RunFolder, text: str) -> None:
    (run / RESOLVED).write_text(text)
    with pytest.raises(DataError, match="is damaged"):
        read_resolved_recipe(run.path)
    assert origin(run) is None
    (run / RESOLVED).unlink()
    assert read_resolved_recipe(run.path) == {}
