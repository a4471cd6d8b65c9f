"""What runs leave behind, opened from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from synthesised import synthesise

import gra


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture
def run(folder: Path) -> gra.Run:
    found = gra.load_run(folder)
    assert isinstance(found, gra.Run)
    return found


def test_run_holds_its_dataset_and_counts(run: gra.Run) -> None:
    train = run.dataset("train")
    assert len(train) == run.counts["accepted"] > 0
    assert train[0] == run.rows()[0]
    assert sum(run.counts.values()) == len(run) == len(run.dataset("lineage"))
    assert run.name == "one"
    assert (run.arms, run.students, run.evaluations, run.comparison) == ({}, {}, {}, None)


def test_run_holds_its_candidates(run: gra.Run) -> None:
    candidate = run["r1-000004"]
    assert isinstance(candidate.candidate, gra.Candidate)
    assert candidate.id == "r1-000004"
    assert candidate.instruction
    assert "r1-000004" in str(candidate.explain())
    assert len(str(candidate.explain(full=True))) > len(str(candidate.explain()))
    assert {each.id for each in run} >= {row["id"] for row in run.rows()}
    with pytest.raises(AttributeError):
        _ = candidate.nothing_of_this_name
    with pytest.raises(gra.DataError, match=r"no candidate `r1-00004` among its \d+; close: "):
        run["r1-00004"]


def test_run_is_shown_in_a_terminal_and_in_jupyter(run: gra.Run) -> None:
    console = Console(record=True, width=100)
    console.print(run)
    assert "accepted" in console.export_text()
    assert "accepted" in str(run)
    page = run._repr_html_()
    assert page.startswith("<pre")
    assert "accepted" in page
    assert "<script" not in run["r1-000004"]._repr_html_()
    assert repr(run) == f"Run({str(run.path)!r})"


def test_jupyter_shows_foreign_markup_as_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = gra.Run(folder)
    run.manifest["synthesis"]["name"] = "<script>alert(1)</script>[bold]x[/bold]"
    page = run._repr_html_()
    assert "<script>" not in page
    assert "[bold]" in page


def test_export_writes_each_part_in_each_form(run: gra.Run, tmp_path: Path) -> None:
    file = run.export("jsonl", tmp_path / "out")
    assert file == tmp_path / "out" / "train.jsonl"
    assert [json.loads(line) for line in file.read_text().splitlines()] == run.rows()
    other = run.export("parquet", tmp_path / "rows.parquet", "preferences")
    assert pq.read_table(other).to_pylist() == run.rows("preferences")
    with pytest.raises(gra.RecipeError, match=r"cannot be exported as `json` .*did you mean `jsonl`\?"):
        run.export("json", tmp_path)
    with pytest.raises(gra.RecipeError, match=r"`trian` is no part of a dataset .*did you mean `train`\?"):
        run.export("jsonl", tmp_path, "trian")


def test_report_is_written(run: gra.Run) -> None:
    assert "<html" in run.report().read_text()


def test_folder_of_an_experiment_holds_its_arms(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "gra").symlink_to(folder)
    whole = gra.Run(tmp_path)
    assert list(whole.arms) == ["gra"]
    assert whole.counts == whole.arms["gra"].counts
    assert "gra" in str(whole)
    with pytest.raises(gra.DataError, match=r"no dataset of its own; it has arms: run.arms\['gra'\]"):
        whole.dataset()


@pytest.mark.parametrize("kind", [gra.load_run, gra.Run, gra.Student, gra.EvaluationResult])
def test_folder_without_a_run_is_one_sentence(kind, tmp_path: Path) -> None:
    with pytest.raises(gra.DataError) as wrong:
        kind(tmp_path)
    assert str(tmp_path) in str(wrong.value)
    assert "\n" not in str(wrong.value)
