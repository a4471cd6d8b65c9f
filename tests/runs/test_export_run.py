"""`gra export`: which candidates are rows, what comes along, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from synthesised import command, synthesise

import gra
from gra.core.types import State
from gra.data.export import read_candidates
from gra.data.formats.forms import FORMS
from gra.data.formats.write import read_form
from gra.runs.export import Selection, export_run
from gra.runs.verify import verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    review = {"comments": "disputed", "accept_mean": 8.5, "dispute_std": 1.0}
    return synthesise(tmp_path_factory.mktemp("export") / "one", review=review)


def test_every_format_holds_the_accepted_rows(run: Path, tmp_path: Path) -> None:
    accepted = [c for c in read_candidates(run / "lineage.parquet") if c.state is State.ACCEPTED]
    assert len({c.domain for c in accepted}) == 2
    for name in FORMS:
        found = export_run(run, name, tmp_path / name)
        assert list(read_form(name, tmp_path / name)) == [("", c.instruction, c.response) for c in accepted]
        about = (found.folder / "README.md").read_text()
        assert {c.generator for c in accepted} == {
            line.split()[1].removeprefix("model-") for line in about.splitlines() if line.startswith("| model-")
        }
        assert "| none |" in about  # the license of the scripted models
        assert "judged as" in about
        metadata = yaml.safe_load(about.split("---\n")[1])
        assert [config["data_files"][0]["path"] for config in metadata["configs"]] == list(found.files)
        assert metadata["configs"][0]["default"] is True
    assert len((tmp_path / "trl" / "preferences.jsonl").read_text().splitlines()) > 0


def test_selection_is_by_state_and_score(run: Path, tmp_path: Path) -> None:
    candidates = read_candidates(run / "lineage.parquet")
    wanted = [
        c for c in candidates if c.state in (State.ACCEPTED, State.REJECTED) and c.mean is not None and c.mean >= 4
    ]
    chosen = Selection((State.ACCEPTED, State.REJECTED), 5, system="Be brief.")
    found = export_run(run, "jsonl", tmp_path / "out", chosen)
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [c.id for c in wanted]
    assert {row["state"] for row in rows} == {"accepted", "rejected"}
    assert {row["system"] for row in rows} == {"Be brief."}
    assert sum(found.left_out.values()) == len(candidates) - len(wanted)


def test_command_line_writes_into_the_run_and_verify_still_passes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "one"
    shutil.copytree(run, copy)
    before = verify(copy)
    assert command("export", str(copy), "--format", "sharegpt") == 0
    assert "read back and the same" in capsys.readouterr().out
    assert command("export", str(copy), "--format", "sharegpt", "--min-score", "7", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"]["train.json"] == len(json.loads((copy / "exports/sharegpt/train.json").read_text()))
    assert verify(copy) == before
    assert gra.load_run(copy).export("alpaca", tmp_path / "api") == tmp_path / "api"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["{run}", "--format", "shargpt"], 2, "did you mean `sharegpt`"),
        (["{run}/dataset", "--format", "csv"], 2, "is not a finished synthesis run"),
        (["{above}", "--format", "csv"], 2, "name one of its arms: "),
        (["{run}", "--format", "csv", "--min-score", "10"], 6, "no candidate is a row of this export"),
        (["{run}", "--format", "csv", "--output", "{run}/dataset"], 2, "holds other files"),
        (["{run}", "--format", "csv", "--state", "good"], 2, "is not one of"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str], code: int, sentence: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = tmp_path / "experiment" / "arms" / "gra"
    arms.mkdir(parents=True)
    shutil.copy(run / "lineage.parquet", arms)
    given = [part.format(run=run, above=tmp_path / "experiment") for part in arguments]
    assert command("export", *given) == code
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
