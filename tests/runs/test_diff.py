"""`gra diff`: what was given, how candidates ended, which rows are the same, and which answers were paid for once."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from synthesised import RECIPE, command, synthesise

from gra.core.errors import DataError
from gra.core.files import write_json
from gra.core.run_folder import RunFolder
from gra.data.export import read_candidates
from gra.runs.diff import _fates, diff
from gra.runs.explain import explain


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run; one that began as its copy, with a stricter gate and one draft; and one made anew like the first."""
    folder = tmp_path_factory.mktemp("diff")
    synthesise(folder / "one")
    shutil.copytree(folder / "one", folder / "strict")
    synthesise(folder / "strict", name="strict", best_of=1, review={**RECIPE["review"], "accept_mean": 8.0})
    synthesise(folder / "again")
    return folder


def test_a_stricter_gate_on_the_same_answers(runs: Path) -> None:
    found = diff(runs / "one", runs / "strict")
    assert found.recipe == {"name": ("one", "strict"), "review.accept_mean": (6.0, 8.0), "best_of": (2, 1)}
    assert (found.seeds, found.models, found.prompts) == (None, {}, {})
    one, two = (
        {
            c.id: (c.instruction, c.response)
            for c in read_candidates(runs / name / "lineage.parquet")
            if c.state == "accepted"
        }
        for name in ("one", "strict")
    )
    assert {*found.same, *found.changed, *found.removed} == set(one)
    assert {*found.same, *found.changed, *found.added} == set(two)
    assert all(one[name] == two[name] for name in found.same)
    assert all(one[name] != two[name] for name in found.changed)
    assert not set(found.removed) & set(two)
    assert found.removed
    assert found.states["accepted"] == (len(one), len(two))
    assert found.common_texts >= len(found.same)
    # One draft needs a part of the answers of two, and asks for no generator's or reviewer's anew.
    assert found.answers[1] >= found.answers_in_both == found.answers_reused > 100


def test_another_end_of_the_same_texts_is_counted() -> None:
    def row(text: str, state: str) -> dict[str, str]:
        return {"instruction": "i", "response": text, "state": state}

    one = {"a": row("x", "accepted"), "b": row("x", "accepted"), "c": row("x", "rejected"), "d": row("x", "failed")}
    two = {"a": row("x", "rejected"), "b": row("y", "rejected"), "c": row("x", "rejected")}
    assert _fates(one, two) == {"accepted -> rejected": 1}


def test_the_same_run_made_twice_has_the_same_rows_and_was_paid_for_twice(runs: Path) -> None:
    found = diff(runs / "one", runs / "again")
    assert (found.recipe, found.changed, found.removed, found.added, found.fates) == ({}, [], [], [], {})
    assert len(found.same) == found.common_texts == found.states["accepted"][0] > 0
    assert found.answers[0] == found.answers[1] == found.answers_in_both
    assert found.answers_reused == 0


def test_seeds_models_and_prompts(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "other")
    manifest = RunFolder(tmp_path / "other").manifest()
    facts = manifest["synthesis"]
    facts["seeds_sha256"] = "f" * 64
    facts["prompts"]["response"] = "e" * 64
    facts["models"]["model-b"]["identity"] = "sha256:new"
    del facts["members"]["e"]
    write_json(tmp_path / "other" / "manifest.json", manifest)
    found = diff(runs / "one", tmp_path / "other")
    assert found.models == {"b": ("sha256:model-b", "sha256:new"), "e": ("sha256:model-e", "-")}
    assert list(found.prompts) == ["response"]
    assert found.seeds is not None
    assert found.seeds[1] == "f" * 64
    assert found.answers_reused == found.answers_in_both == found.answers[0]


def test_one_screen_and_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for width in (80, 160):
        screen = io.StringIO()
        Console(file=screen, width=width).print(diff(runs / "one", runs / "strict").screen())
        text = screen.getvalue()
        assert len(text.splitlines()) <= 40
        for words in ("review.accept_mean", "8.0", "only in A", "reused"):
            assert words in text
    assert command("diff", str(runs / "one"), str(runs / "strict"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"]["best_of"] == [2, 1]
    assert command("diff", str(runs / "one"), str(runs / "again")) == 0
    assert "given the same recipe, seeds, models and prompts" in capsys.readouterr().out


def test_without_a_ledger_nothing_is_said_of_who_paid(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "one" / "arms" / "gra")
    (tmp_path / "one" / "arms" / "gra" / "ledger.sqlite").unlink()
    found = diff(runs / "one", tmp_path / "one" / "arms" / "gra")
    assert found.answers_reused is None
    assert found.answers_in_both == found.answers[0]
    with pytest.raises(DataError, match=r"compare its arms: .*arms/gra"):
        diff(runs / "one", tmp_path / "one")
    with pytest.raises(DataError, match=r"not a finished synthesis run$"):
        diff(tmp_path, runs / "one")
    damaged = shutil.copytree(runs / "strict", tmp_path / "two")
    (damaged / "recipe.resolved.yaml").unlink()
    with pytest.raises(DataError, match=r"has no recipe\.resolved\.yaml"):
        diff(runs / "one", damaged)
    (damaged / "lineage.parquet").unlink()  # it may share its bytes with another file
    (damaged / "lineage.parquet").write_bytes(b"PAR1")
    for tell in (lambda: diff(runs / "one", damaged), lambda: explain(damaged, "r1-000000")):
        with pytest.raises(DataError, match=r"cannot be read"):
            tell()
    pq.write_table(pa.table({"prompt": ["a"]}), damaged / "lineage.parquet")
    with pytest.raises(DataError, match=r"lineage\.parquet is no lineage \(its columns are prompt\)"):
        explain(damaged, "r1-000000")
