"""`gra inspect`: figures of runs made of real files, with and without seeds, ledger and embedder."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from reported_run import CANDIDATES, CARD, ESCAPE, GRA_FACTS, HOSTILE, SEEDS, candidate, write_arm
from rich.console import Console
from scripted_run import WordEmbedder
from synthesised import command, synthesise

import gra
from gra.core.errors import DataError, RecipeError
from gra.core.run_folder import RunFolder
from gra.core.types import Candidate, State, Usage
from gra.core.vocabulary import FailureCause
from gra.data.export import export
from gra.ledger.ledger import Ledger, Recorded
from gra.runs.contents import ArmRun, read_contents
from gra.runs.inspection import inspect as inspection
from gra.runs.inspection.columns import InspectedColumn, InspectedRow, drawn
from gra.runs.inspection.cut_off import CutOff, count_cut_off
from gra.runs.inspection.inspect import RunInspection, find_thin, inspect_run
from gra.runs.inspection.profile import CheckedRows, profile_column
from gra.runs.inspection.screen import inspection_screen
from gra.runs.inspection.space import measure_space
from gra.runs.inspection.table import headline_rows, share_rows, side_by_side, thin_sentences

EMBED = WordEmbedder().encode


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "test"
    write_arm(folder / "arms" / "gra", CANDIDATES, GRA_FACTS)
    write_arm(folder / "arms" / "vanilla", SEEDS, {"name": "test-vanilla", "arm": "vanilla"})
    RunFolder(folder).record("experiment", {"command": "gra run x.yaml", "arms": ["vanilla", "gra"]})
    return folder


@pytest.fixture(scope="module")
def synthesis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("runs") / "one")


def column(name: str, *rows: tuple[str, str], arm: bool = True) -> InspectedColumn:
    made = [InspectedRow("qa", *row) for row in rows]
    owner = ArmRun(name, "gra", {}, [], {}) if arm else None
    return InspectedColumn(name, owner, len(made), made)


def shown(found: RunInspection) -> str:
    screen = io.StringIO()
    Console(file=screen, width=100).print(inspection_screen(found))
    return screen.getvalue()


def test_profile_counts_what_the_rows_say() -> None:
    found = profile_column(
        column(
            "made",
            ("Compute 2 + 2. Answer in at most three words.", "2 + 2 = 4"),
            ("Compute 2 + 3. Answer in at most two words.", "It is 2 + 3 = 6, I think."),
            ("Name a river.", "The Nile."),
            ("Name a river in Asia.", ""),
        )
    )
    assert found.kinds == {"list": 2, "compute": 2}
    assert found.checked == {"math": CheckedRows(2, 1), "format": CheckedRows(2, 1)}
    assert (found.constrained, found.constraints) == (2, {"words_at_most": 2})
    assert [(each.words, each.count) for each in found.openings] == [("name a river", 2)]
    assert found.different_openings == 3
    assert (found.instruction_words.median, found.instruction_words.most) == (7.0, 9)
    assert (found.response_words.empty, found.response_words.most) == (1, 7)


def test_experiment_has_its_seeds_and_arms_side_by_side(run: Path) -> None:
    found = inspect_run(run)
    assert [(each.name, each.rows) for each in found.columns] == [("seeds", 5), ("vanilla", 5), ("gra", 2)]
    assert any("taken from the arm vanilla" in note for note in found.notes)
    assert any("No arm deduplicates by an embedder" in note for note in found.notes)
    assert found.space is None
    assert "Vendi" not in shown(found)


def test_synthesis_reads_its_seed_file_and_says_which_embedder_is_missing(synthesis: Path) -> None:
    found = inspect_run(synthesis)
    assert [each.name for each in found.columns] == ["seeds", "one"]
    assert found.columns[0].rows == 6
    assert found.columns[0].domains == {"qa": 3, "math": 3}
    assert [note for note in found.notes if "all-minilm-l6-v2 is not in the cache" in note]


def test_changed_seed_file_is_not_shown_as_the_seeds(synthesis: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(synthesis, tmp_path / "folder" / "runs" / "one"))
    (copied / "seeds.jsonl").write_text("{}\n")
    found = inspect_run(copied)
    assert [each.name for each in found.columns] == ["one"]
    assert any("no seeds are shown" in note for note in found.notes)
    assert found.thin == []


def test_embedder_gives_figures_and_regions(synthesis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_embedder", lambda *arguments: ("words", EMBED))
    found = inspect_run(synthesis)
    assert found.embedder == "words"
    assert sum(region.rows["seeds"] for region in found.regions) == 6
    assert sum(region.rows["one"] for region in found.regions) == found.columns[1].rows
    seeds, made = (each.space for each in found.columns)
    assert seeds is not None
    assert made is not None
    assert 1 <= seeds.vendi <= 6
    assert made.nearest_seed is not None
    assert "Vendi score" in shown(found)
    assert json.loads(json.dumps(found.to_json()))["regions"][0]["rows"]["seeds"]


def test_space_of_one_row_and_of_copies_has_figures() -> None:
    found = measure_space([column("seeds", ("a b", ""), arm=False), column("made", ("a b", ""), ("a b", ""))], EMBED)
    seed, made = found.figures
    assert (seed.nearest, seed.coverage, made.coverage) == (None, None, None)
    assert (made.vendi, made.nearest_seed) == (pytest.approx(1), pytest.approx(1))
    assert [region.rows for region in found.regions] == [{"seeds": 1, "made": 2}]
    assert all(np.isfinite(points).all() for points in found.points)


def test_thin_is_much_rarer_beyond_chance() -> None:
    poems = [(f"Write a poem about {i}.", "x") for i in range(20)]
    questions = [(f"Why is {i} odd?", "x") for i in range(20)]
    seeds = profile_column(column("seeds", *poems, *questions, arm=False))
    few = profile_column(column("few", *questions[:2]))
    many = profile_column(column("many", *questions, *poems[:1]))
    assert [(each.arm, each.part, each.name, each.count) for each in find_thin([seeds, few, many], None)] == [
        ("many", "request", "write", 1)
    ]
    assert find_thin([few, many], None) == []


def test_marks_of_the_table_are_those_of_the_findings(run: Path) -> None:
    seeds = profile_column(column("seeds", *[(f"Name {i} in two words.", "x") for i in range(20)], arm=False))
    made = profile_column(column("made", *[(f"Name {i}.", "x") for i in range(20)]))
    found = RunInspection(run, [seeds, made], None, None, find_thin([seeds, made], None), [])
    assert {row.name for row in share_rows(found) if row.cells[1].thin} == {"any", "words exactly"}
    assert thin_sentences(found) == [
        "Thin in made, against the seeds: any format constraint (0% against 100%); format constraint “words exactly” "
        "(0% against 100%)."
    ]
    assert "▼ none" in shown(found)
    assert ("checkable format", ["100% of 20", "0% of 20"]) in headline_rows(found)


def test_draw_keeps_the_same_instructions_of_every_column() -> None:
    rows = [InspectedRow("qa", f"Say {i}.", "") for i in range(50)]
    first, other = drawn(rows, 10), drawn(rows[::-1], 10)
    assert len(first) == 10
    assert {row.instruction for row in first} == {row.instruction for row in other}
    assert drawn(rows, 50) == rows


def test_many_arms_are_shown_in_parts_with_the_seeds(run: Path) -> None:
    columns = [
        profile_column(column(name, ("Name a river.", "x"), arm=name != "seeds")) for name in ["seeds", *"abcde"]
    ]
    whole = RunInspection(run, columns, None, None, [], [])
    assert [[each.name for each in part.columns] for part in side_by_side(whole, 3)] == [
        ["seeds", "a", "b", "c"], ["seeds", "d", "e"]
    ]  # fmt: skip
    alone = RunInspection(run, columns[1:2], None, None, [], [])
    assert [part.columns for part in side_by_side(alone, 3)] == [columns[1:2]]


def test_equal_vendi_score_leaves_out_columns_that_are_too_small() -> None:
    texts = [(f"word{i} and more", "") for i in range(30)]
    columns = [column("seeds", *texts, arm=False), column("ten", *texts[:10]), column("two", *texts[:2])]
    found = measure_space(columns, EMBED)
    assert found.equal == 10
    seeds, ten, two = found.figures
    assert ten.vendi_equal == ten.vendi
    assert two.vendi_equal is None
    assert seeds.vendi_equal is not None
    assert seeds.vendi_equal < seeds.vendi


def answer(key: str, finish: str, **more: Any) -> Recorded:
    fields: dict[str, Any] = {
        "role": "generator", "member": "ada", "model": "m", "candidate": "c", "attempt": 0,
        "request": json.dumps({"ask": "x", "attempt": 0}), "text": key, "scores": {}, "prompt_tokens": 1,
        "completion_tokens": 1, "cached_tokens": 0, "seconds": 0.0,
    }  # fmt: skip
    return Recorded(key=key, finish=finish, **fields | more)


def test_cut_off_counts_what_the_ledger_says(tmp_path: Path) -> None:
    asked_again = json.dumps({"ask": "x", "attempt": 1})
    answers = [
        answer("cut", "length"),
        answer("first", "length"),
        answer("second", "stop", attempt=1, request=asked_again),
        answer("review", "length", role="reviewer"),
        answer("bare", "length", request=""),
        answer("shorter", "stop", role="shortener", request=json.dumps({"ask": "shorter", "attempt": 0})),
    ]

    async def record() -> None:
        ledger = Ledger(tmp_path / "ledger.sqlite", "run")
        for each in answers:
            await ledger.record(each)
        ledger.close()

    asyncio.run(record())

    def failed(number: int, *calls: str, cause: FailureCause = FailureCause.ANSWER) -> Candidate:
        return candidate(number, State.FAILED, "x", failed_by=cause, calls=calls)

    rows = [
        failed(0, "cut"), failed(1, "first", "second"), failed(2, "review"), failed(3, "bare"),
        failed(4, "cut", cause=FailureCause.INFRASTRUCTURE), candidate(5, State.REJECTED, "x", calls=("cut",)),
        failed(6, "cut", "shorter"),
    ]  # fmt: skip
    export(tmp_path, rows, CARD)
    RunFolder(tmp_path).record("synthesis", {"name": "run", "arm": "gra"}, [])
    (arm,) = read_contents(tmp_path).arms
    assert count_cut_off(tmp_path, arm) == CutOff(2, 7)
    (tmp_path / "ledger.sqlite").unlink()
    with pytest.raises(DataError, match="no ledger"):
        count_cut_off(tmp_path, arm)


def test_command_writes_its_figures_to_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", str(run), "--json", str(tmp_path / "out" / "found.json")) == 0
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert [each["name"] for each in found["columns"]] == ["seeds", "vanilla", "gra"]
    assert "words a response" in capsys.readouterr().out


def test_python_gives_the_same_figures(run: Path) -> None:
    found = gra.inspect(run)
    assert found.to_json() == gra.inspect(gra.load_run(run)).to_json()
    assert found.columns["gra"].rows == 2
    assert "words a response" in str(found)
    assert "<pre" in found._repr_html_()


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    text = f"{HOSTILE} {ESCAPE}"
    rows = [candidate(i, State.ACCEPTED, "x", instruction=text, response=text, domain=text) for i in range(2)]
    write_arm(tmp_path / "run", rows, {"name": f"n{ESCAPE}", "arm": "gra"})
    screen = shown(inspect_run(tmp_path / "run"))
    assert not set(screen) & {"\x1b", "\x07", "\u202e"}
    assert "{{ 7 * 7 }}" in screen or "script" in screen


@pytest.mark.parametrize("problem", ["no run", "no rows", "unreadable", "no embedder"])
def test_wrong_folder_is_one_sentence(problem: str, run: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    more: list[str] = []
    if problem == "no run":
        folder.mkdir()
        wanted, kind = "is not a run folder", DataError
    elif problem == "no rows":
        write_arm(folder, [candidate(0, State.FAILED, "x", usage={"generator": Usage()})], {"name": "n", "arm": "gra"})
        wanted, kind = "holds no accepted row", DataError
    elif problem == "unreadable":
        shutil.copytree(run, folder)
        (folder / "arms" / "gra" / "lineage.parquet").write_bytes(b"PAR1 no")
        wanted, kind = "cannot be read", DataError
    else:
        shutil.copytree(run, folder)
        more, wanted, kind = ["--embedder", "catalog:nothing"], "there is no `catalog:nothing`", RecipeError
    with pytest.raises(kind, match=wanted):
        inspect_run(folder, more[1] if more else None)
    assert command("inspect", str(folder), *more) == 2
    said = capsys.readouterr().err
    assert wanted in said
    assert "Traceback" not in said


def test_lineage_without_a_text_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "arms" / "gra" / "lineage.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["instruction"]), file)
    with pytest.raises(DataError, match="instruction"):
        inspect_run(tmp_path / "run")
