"""Killed at any instant and started again: the same dataset, and nothing that was recorded is asked twice."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import scripted_run
from resumed_runs import FILES, PARTS, asked, check_same
from resumed_runs import processes as processes
from scripted_run import answer_by_content, make_recipe, write_job

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import GraError
from gra.core.hashing import digest, file_digest
from gra.core.run_folder import RunFolder
from gra.core.types import State
from gra.data.export import read_lineage
from gra.engines.types import Call, Completion, Fault
from gra.synthesis.rounds import write_samples


# Ends by the number of candidates: then even which questions were asked does not depend on timing.
def limited(candidates: int) -> SynthesisRecipe:
    return make_recipe(
        rounds={"count": 2, "accept": candidates, "max_candidates": candidates},
        review={"comments": "disputed", "control_items": 6, "accept_mean": 6.0, "dispute_std": 1.0},
    )


LIMITED = limited(30)


def run(processes, folder: Path, kill_after: int = 0, delay_s: float = 0.0) -> bool:
    """One process; whether it was killed before it was done."""
    process = processes.Process(target=scripted_run.make, args=(folder, kill_after, delay_s))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return bool(process.exitcode)


def recorded(folder: Path) -> Counter[str]:
    """How many attempts of each question have an answer."""
    if not (folder / "ledger.sqlite").exists():
        return Counter()
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        requests = [json.loads(text) for (text,) in db.execute("SELECT request FROM calls")]
    return Counter(digest({**request, "attempt": None}) for request in requests)


def kill_and_resume(processes, folder: Path, kills: int, most: int, luck: random.Random) -> None:
    """Kill `kills` runs at random instants, then let one finish; no run asks for a recorded answer again."""
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


@pytest.fixture(scope="module")
def uninterrupted(processes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of one uninterrupted run of `LIMITED`, which no test changes, and the questions it asked."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "whole"
    return folder, whole(processes, folder, LIMITED)


def check_it_was_worth_it(folder: Path) -> None:
    """The compared files show all that a run can be."""
    rows = read_lineage(folder / "lineage.parquet")
    assert {row["state"] for row in rows} >= {"accepted", "rejected", "duplicate", "failed"}
    assert any(row["ruling"] for row in rows)
    assert {row["round"] for row in rows} == {1, 2}


@pytest.mark.parametrize(
    ("kills", "spread", "candidates"), [(6, 6, 30), pytest.param(60, 60, 60, marks=pytest.mark.slow)]
)
def test_killed_at_random_instants_the_files_are_those_of_an_uninterrupted_run(
    processes, tmp_path, kills, spread, candidates
) -> None:
    questions = whole(processes, tmp_path / "whole", limited(candidates))
    check_it_was_worth_it(tmp_path / "whole")
    write_job(tmp_path / "killed", limited(candidates))
    kill_and_resume(processes, tmp_path / "killed", kills, len(questions) // spread, random.Random(kills))
    check_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_while_the_last_answers_are_counted_and_the_dataset_is_written(
    processes, tmp_path, uninterrupted, kills: int
) -> None:
    expected, questions = uninterrupted
    luck = random.Random(kills)
    for attempt in range(kills):
        folder = tmp_path / f"killed-{attempt}"
        write_job(folder, LIMITED)
        run(processes, folder, len(questions), luck.random() / 5)
        assert not run(processes, folder)
        check_same(folder, expected)
        left = {file.name for file in (folder / "dataset").iterdir()}
        assert left == {*(f"{part}.parquet" for part in PARTS), "README.md", "rounds", "unreviewed.parquet"}


@pytest.mark.parametrize(("kills", "rows"), [(3, 6), pytest.param(50, 15, marks=pytest.mark.slow)])
def test_rounds_that_end_when_they_are_full_give_the_same_files(processes, tmp_path, kills: int, rows: int) -> None:
    """The candidates that run when a round is full depend on timing; no written file does."""
    recipe = make_recipe(rounds={"count": 2, "accept": rows, "max_candidates": 200})
    questions = whole(processes, tmp_path / "whole", recipe)
    write_job(tmp_path / "killed", recipe)
    most = max(1, len(questions) // (3 * kills))
    kill_and_resume(processes, tmp_path / "killed", kills, most, random.Random(kills))
    check_same(tmp_path / "killed", tmp_path / "whole")
    lineage = read_lineage(tmp_path / "whole" / "lineage.parquet")
    assert Counter(row["round"] for row in lineage if row["state"] == State.ACCEPTED) == {1: rows, 2: rows}


def test_running_a_finished_run_again_asks_nothing_and_changes_nothing(processes, tmp_path: Path) -> None:
    questions = whole(processes, tmp_path, LIMITED)
    before = {name: file_digest(tmp_path / name) for name in FILES}
    assert not run(processes, tmp_path)
    assert asked(tmp_path) == questions
    assert {name: file_digest(tmp_path / name) for name in FILES} == before


# --- the disk and the clock -----------------------------------------------------------------------------------------


def make_with(folder: Path, outcome: Path, prepare: Callable[[], object]) -> None:
    """A run in a process of its own, in another state of the world; what it says to the user goes to a file."""
    prepare()
    try:
        scripted_run.make(folder)
    except BaseExceptionGroup as group:
        errors = group.subgroup(GraError)
        outcome.write_text(str(errors.exceptions[0]) if errors else f"a bug: {group!r}")
    except GraError as error:
        outcome.write_text(str(error))
    except BaseException as error:
        outcome.write_text(f"a bug: {error!r}")


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))


def no_superuser() -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def jumping_clock() -> None:
    luck = random.Random(5)
    time.time = lambda: luck.uniform(0, 4e9)


def run_with(processes, folder: Path, outcome: Path, prepare: Callable[[], object]) -> str:
    process = processes.Process(target=make_with, args=(folder, outcome, prepare))
    process.start()
    process.join(60)
    return outcome.read_text() if outcome.exists() else ""


def test_a_disk_that_takes_no_more_is_one_sentence_and_the_run_goes_on_when_it_does(
    processes, tmp_path: Path, uninterrupted
) -> None:
    expected, questions = uninterrupted
    write_job(tmp_path / "full", LIMITED)
    sentence = run_with(processes, tmp_path / "full", tmp_path / "said.txt", small_files)
    assert "takes no more data" in sentence
    kept = recorded(tmp_path / "full").total()
    assert 0 < kept < len(questions)
    assert not run(processes, tmp_path / "full")
    check_same(tmp_path / "full", expected)
    assert len(asked(tmp_path / "full")) <= len(questions) + 12 * 5 * 4  # again only what was in flight


def test_a_full_disk_is_one_sentence(processes, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        write_job(disk / "run", LIMITED)
        said = run_with(processes, disk / "run", tmp_path / "said.txt", int)
        # Which write comes first decides which sentence it is.
        said = said.lower()
        assert "no space left on" in said or "takes no more data" in said
        assert "run the same command again" in said
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert not run(processes, disk / "run")
        assert RunFolder(disk / "run").verify()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_may_not_be_written_is_one_sentence(processes, tmp_path: Path) -> None:
    write_job(tmp_path / "run", LIMITED)
    (tmp_path / "run" / "asked.txt").touch(0o666)
    (tmp_path / "run" / "asked.txt").chmod(0o666)
    (tmp_path / "run").chmod(0o555)
    (tmp_path / "said").mkdir()
    (tmp_path / "said").chmod(0o777)
    for folder in [tmp_path, *tmp_path.parents][:4]:  # one more with pytest-xdist
        folder.chmod(0o755)
    said = run_with(processes, tmp_path / "run", tmp_path / "said" / "said.txt", no_superuser)
    assert said.startswith(f"{tmp_path}/run/")
    assert "Permission denied; check its rights, or choose another place" in said


def test_a_clock_that_jumps_changes_nothing(processes, tmp_path: Path, uninterrupted) -> None:
    write_job(tmp_path / "jumps", LIMITED)
    assert run_with(processes, tmp_path / "jumps", tmp_path / "said.txt", jumping_clock) == ""
    check_same(tmp_path / "jumps", uninterrupted[0])


def test_seeds_that_are_gone_while_a_run_goes_on_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Embedder", "resolve"):  # `make` puts stand-ins in their place
        monkeypatch.setattr(write_samples, name, getattr(write_samples, name))
    write_job(tmp_path, limited(6))
    seeds = tmp_path / "seeds.jsonl"
    read = file_digest(seeds)

    def answer(call: Call) -> Completion | Fault:
        seeds.unlink(missing_ok=True)
        return answer_by_content(call)

    scripted_run.make(tmp_path, answer=answer)
    made = RunFolder(tmp_path).manifest()["synthesis"]
    assert made["seeds_sha256"] == read
    write_job(tmp_path, limited(6))
    scripted_run.make(tmp_path)
    assert RunFolder(tmp_path).manifest()["synthesis"]["fingerprint"] == made["fingerprint"]
