"""Killed at any instant and started again: the same dataset, and nothing that was recorded is asked twice."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import scripted_run
from scripted_run import make_recipe, write_job

from gra.core.manifest import RunFolder, digest, file_digest
from gra.core.records import State
from gra.core.schema import SynthesisRecipe
from gra.data.export import read_lineage

PARTS = ("train", "contested", "preferences", "lineage")
FILES = (*(f"dataset/{part}.parquet" for part in PARTS), "dataset/README.md", "lineage.parquet")
ROUNDS = ("dataset/rounds/1.parquet", "dataset/rounds/2.parquet")
# Ends by the number of candidates: then even what is left over at the end of a round does not depend on timing.
LIMITED = make_recipe(
    rounds={"count": 2, "accept": 1000, "max_candidates": 30},
    review={"comments": "disputed", "probes": 6, "accept_mean": 6.0, "dispute_std": 1.0},
)
FILLED = make_recipe(rounds={"count": 2, "accept": 6, "max_candidates": 200})


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    """Fresh processes that have imported everything already, so that dozens of them are quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scripted_run", "gra.synthesis.arms", "gra.synthesis.workshop"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        first = context.Process(target=int)
        first.start()
        first.join()
    return context


def run(processes, folder: Path, kill_after: int = 0, delay_s: float = 0.0) -> bool:
    """One process; whether it was killed before it was done."""
    process = processes.Process(target=scripted_run.make, args=(folder, kill_after, delay_s))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return bool(process.exitcode)


def asked(folder: Path) -> list[str]:
    return (folder / "asked.txt").read_text().split()


def recorded(folder: Path) -> Counter[str]:
    """How many attempts of each question have an answer."""
    if not (folder / "ledger.sqlite").exists():
        return Counter()
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        requests = [json.loads(text) for (text,) in db.execute("SELECT request FROM calls")]
    return Counter(digest({**request, "attempt": None}) for request in requests)


def kill_and_resume(processes, folder: Path, kills: int, most: int, luck: random.Random) -> None:
    """Kill so many runs at random instants, then let one finish; nothing recorded is asked again in any of them."""
    histories: list[tuple[Counter[str], Counter[str]]] = []  # what was recorded before a run, what the run asked
    while True:
        before, seen = recorded(folder), len(asked(folder)) if (folder / "asked.txt").exists() else 0
        left = kills - len(histories)
        killed = run(processes, folder, luck.randint(1, most) if left > 0 else 0, luck.choice([0, luck.random() / 50]))
        histories.append((before, Counter(asked(folder)[seen:])))
        if not killed:
            break
    assert len(histories) > kills, "a run was done before it could be killed"
    final = recorded(folder)
    for before, questions in histories:
        # A call in flight when its run was killed may belong to a candidate that no later run needs.
        again = {q: n for q, n in questions.items() if before[q] and n > final[q] - before[q]}
        assert not again, f"{len(again)} questions were asked again although their answers were recorded"


def whole(processes, folder: Path, recipe: SynthesisRecipe) -> list[str]:
    """An uninterrupted run; the questions it asked."""
    write_job(folder, recipe)
    assert not run(processes, folder)
    return asked(folder)


def check_same(folder: Path, uninterrupted: Path) -> None:
    assert {name: file_digest(folder / name) for name in FILES + ROUNDS} == {
        name: file_digest(uninterrupted / name) for name in FILES + ROUNDS
    }
    assert RunFolder(folder).verify() == len(FILES) + 1 + len(ROUNDS)


def check_it_was_worth_it(folder: Path) -> None:
    """The compared files show all that a run can be."""
    rows = read_lineage(folder / "lineage.parquet")
    assert {row["state"] for row in rows} >= {"accepted", "rejected", "duplicate", "failed"}
    assert any(row["ruling"] for row in rows)
    assert {row["round"] for row in rows} == {1, 2}


@pytest.mark.parametrize(("kills", "spread"), [(12, 10), pytest.param(60, 60, marks=pytest.mark.slow)])
def test_killed_at_random_instants_the_files_are_those_of_an_uninterrupted_run(
    processes, tmp_path, kills, spread
) -> None:
    questions = whole(processes, tmp_path / "whole", LIMITED)
    check_it_was_worth_it(tmp_path / "whole")
    write_job(tmp_path / "killed", LIMITED)
    kill_and_resume(processes, tmp_path / "killed", kills, len(questions) // spread, random.Random(kills))
    check_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_while_the_last_answers_are_counted_and_the_dataset_is_written(processes, tmp_path, kills: int) -> None:
    questions = whole(processes, tmp_path / "whole", LIMITED)
    luck = random.Random(kills)
    for attempt in range(kills):
        folder = tmp_path / f"killed-{attempt}"
        write_job(folder, LIMITED)
        run(processes, folder, len(questions), luck.random() / 5)
        assert not run(processes, folder)
        check_same(folder, tmp_path / "whole")
        visible = {f.name for f in (folder / "dataset").iterdir() if not f.name.startswith(".")}
        assert visible == {*(f"{part}.parquet" for part in PARTS), "README.md", "rounds"}


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_rounds_that_end_when_they_are_full_give_the_same_rows(processes, tmp_path, kills: int) -> None:
    """Which stories are left over at a round's end depends on timing; the rows, and all before the last, do not."""
    questions = whole(processes, tmp_path / "whole", FILLED)
    write_job(tmp_path / "killed", FILLED)
    kill_and_resume(processes, tmp_path / "killed", kills, len(questions) // (3 * kills), random.Random(kills))
    rows = [file_digest(tmp_path / name / "dataset/train.parquet") for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    lineages = [read_lineage(tmp_path / name / "lineage.parquet") for name in ("whole", "killed")]
    for round_ in (1, 2):
        told = [[row for row in lineage if row["round"] == round_] for lineage in lineages]
        last = max(i for i, row in enumerate(told[0]) if row["state"] == State.ACCEPTED)
        assert told[0][: last + 1] == told[1][: last + 1]
        assert sum(row["state"] == State.ACCEPTED for row in told[0]) == 6


def test_running_a_finished_run_again_asks_nothing_and_changes_nothing(processes, tmp_path: Path) -> None:
    questions = whole(processes, tmp_path, LIMITED)
    before = {name: file_digest(tmp_path / name) for name in FILES}
    assert not run(processes, tmp_path)
    assert asked(tmp_path) == questions
    assert {name: file_digest(tmp_path / name) for name in FILES} == before
