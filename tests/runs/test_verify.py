"""`gra verify`: whatever was changed after it was written is found and named, and a whole run passes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scripted_run import make, make_recipe, write_job
from synthesised import RECIPE, command, synthesise

from gra.core.errors import DataError, Mismatch
from gra.core.files import write_json
from gra.core.hashing import file_digest
from gra.core.run_folder import RunFolder
from gra.data.export import read_candidates
from gra.engines.types import Call, Completion
from gra.runs.verify import verify
from gra.synthesis.rounds import write_samples


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("verify") / "one")


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    shutil.copytree(whole, tmp_path / "one")
    return tmp_path / "one"


def test_a_whole_run_passes_and_is_left_alone(run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    found = verify(run)
    candidates = read_candidates(run / "lineage.parquet")
    assert found.files == 8
    assert found.answers > len({key for c in candidates for key in c.calls}) > 100
    assert found.rows > len(candidates)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


def test_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", str(run), "--json") == 0
    assert json.loads(capsys.readouterr().out)["manifests"] == 1
    assert command("verify", str(run)) == 0
    assert "8 files of 1 manifests" in capsys.readouterr().out
    (run / "dataset" / "README.md").write_text("mine now")
    assert command("verify", str(run)) == 5
    assert "dataset/README.md (stage synthesis) was changed" in capsys.readouterr().err
    assert command("verify", str(run / "dataset")) == 2


def edit_ledger(statement: str) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        with sqlite3.connect(run / "ledger.sqlite") as db:
            assert db.execute(statement).rowcount > 0

    return harm


def set_ledger_version(version: int) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        with sqlite3.connect(run / "ledger.sqlite") as db:
            db.execute(f"PRAGMA user_version={version}")

    return harm


def overwrite_ledger(run: Path) -> None:
    file = run / "ledger.sqlite"
    content = bytearray(file.read_bytes())
    content[8192:-4096] = b"\x5a" * (len(content) - 12288)
    file.write_bytes(content)


def no_ledger(run: Path) -> None:
    (run / "ledger.sqlite").unlink()


def edit_rows(part: str, change: Callable[[list[dict]], list[dict]]) -> Callable[[Path], None]:
    """Another dataset file, with a manifest that says it was always so."""

    def harm(run: Path) -> None:
        file = run / "dataset" / f"{part}.parquet"
        table = pq.read_table(file)
        pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), file)
        manifest = RunFolder(run).manifest()
        manifest["synthesis"]["files"][f"dataset/{part}.parquet"] = file_digest(file)
        write_json(run / "manifest.json", manifest)

    return harm


def other_answer(rows: list[dict]) -> list[dict]:
    return [{**rows[0], "completion": [{"role": "assistant", "content": "42"}]}, *rows[1:]]


def turned_round(rows: list[dict]) -> list[dict]:
    return [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (edit_ledger("UPDATE calls SET request = replace(request, 'exercise', 'task')"), "does not belong to"),
        (edit_ledger("UPDATE calls SET text = 'no' WHERE id = 1"), "is not what was written"),
        (edit_ledger("UPDATE verdicts SET story = '{' WHERE candidate = 'r1-000003'"), "verdict on r1-000003 of `one`"),
        (edit_ledger("UPDATE verdicts SET story = replace(story, 'e', 'f') WHERE candidate = 'r1-000003'"),
         "verdict on r1-000003 of `one`"),
        (edit_ledger("DELETE FROM calls WHERE role = 'generator'"), "answers that are in no ledger"),
        (overwrite_ledger, "damage|cannot be read|version"),
        (set_ledger_version(1), "version 1 .* `gra ledger check` brings it up to date"),
        (set_ledger_version(99), "version 99 .* update GRA"),
        (no_ledger, "answers that are in no ledger"),
        (edit_rows("train", other_answer), "train.parquet: 1 rows are not as the lineage has them"),
        (edit_rows("train", lambda rows: rows[1:]), "train.parquet: 1 rows of the lineage are not in it"),
        (edit_rows("train", lambda rows: [*rows, rows[0]]), r"train.parquet: it has \d+ rows and should have \d+"),
        (edit_rows("contested", lambda rows: []), "contested.parquet: .* rows of the lineage are not in it"),
        (edit_rows("preferences", turned_round), "preferences.parquet: .* rows are not as the lineage has them"),
        (lambda run: (run / "lineage.parquet").write_bytes(b"PAR1"), "lineage.parquet cannot be read"),
        (lambda run: (run / "dataset" / "train.parquet").unlink(), r"train.parquet \(stage synthesis\) is missing"),
    ],
)  # fmt: skip
def test_harm_is_found_and_named(run: Path, harm: Callable[[Path], None], words: str) -> None:
    harm(run)
    with pytest.raises(Mismatch, match=words) as found:
        verify(run)
    assert len(str(found.value).splitlines()) <= 10


def test_arms_are_checked_against_the_ledger_they_share(run: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "experiment"
    shutil.copytree(run, experiment / "arms" / "gra")
    (experiment / "arms" / "gra" / "ledger.sqlite").rename(experiment / "ledger.sqlite")
    assert verify(experiment) == verify(experiment / "arms" / "gra") == verify(run)
    with sqlite3.connect(experiment / "ledger.sqlite") as db:
        db.execute("DELETE FROM calls")
    with pytest.raises(Mismatch, match="in no ledger"):
        verify(experiment)


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no manifest"):
        verify(tmp_path)


def test_answers_are_looked_up_in_the_ledger_that_the_recipe_names(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verify(run)
    (tmp_path / "shared").mkdir()
    (run / "ledger.sqlite").rename(tmp_path / "shared" / "answers.sqlite")
    with pytest.raises(Mismatch, match="in no ledger"):
        verify(run)
    recipe = yaml.safe_load((run / "recipe.resolved.yaml").read_text()) | {"ledger": "shared/answers.sqlite"}
    (run / "recipe.resolved.yaml").write_text(yaml.safe_dump(recipe))
    manifest = RunFolder(run).manifest()
    manifest["synthesis"]["files"]["recipe.resolved.yaml"] = file_digest(run / "recipe.resolved.yaml")
    write_json(run / "manifest.json", manifest)
    monkeypatch.chdir(tmp_path)
    assert verify(run) == found
    assert command("explain", str(run), "r1-000000", "--full") == 0
    assert command("ledger", "check", str(run)) == 0


def test_the_rows_of_every_run_in_a_folder_are_checked(run: Path, tmp_path: Path) -> None:
    one = verify(run)
    shutil.copytree(run, tmp_path / "runs" / "a")
    shutil.copytree(run, tmp_path / "runs" / "b")
    both = verify(tmp_path / "runs")
    assert (both.rows, both.answers, both.manifests) == (2 * one.rows, 2 * one.answers, 2)


def test_a_run_that_another_recipe_began_anew_is_whole_until_that_one_is_done(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Embedder", "resolve"):  # `make` puts stand-ins in their place
        monkeypatch.setattr(write_samples, name, getattr(write_samples, name))
    found, recipe = verify(run), (run / "recipe.resolved.yaml").read_bytes()
    write_job(run, make_recipe(**RECIPE | {"seed": 1}))

    def nobody(call: Call) -> Completion:
        raise DataError("interrupted")

    with pytest.raises(DataError, match="interrupted"):
        make(run, answer=nobody)
    assert (verify(run), (run / "recipe.resolved.yaml").read_bytes()) == (found, recipe)
    make(run)
    assert verify(run).files == found.files
    assert (run / "recipe.resolved.yaml").read_bytes() != recipe
