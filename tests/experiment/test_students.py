"""Students of an experiment are trained one after another in one process, as they would be alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_tiny import PAIRS, make_student, row, same, weights, write_recipe, write_rows

from gra.core.progress import View
from gra.experiment.students import StageFailed, TrainingProcess


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])
    return write_recipe(tmp_path, make_student(tmp_path / "small"), data, train={"max_steps": 2})


def test_several_students_of_one_process_are_those_of_processes_of_their_own(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with TrainingProcess(View()) as trainer:
        trainer.train(recipe, tmp_path / "first", {"train.seed": 1}, "first")
        process = trainer._process
        assert process is not None
        trainer.train(recipe, tmp_path / "second", {"train.seed": 2}, "second")
        assert trainer._process is process
        trainer.train(recipe, tmp_path / "second", {"train.seed": 2}, "second")  # and none twice
    assert process.returncode == 0
    command = [sys.executable, "-m", "gra.cli.train", "--config", str(recipe), "--output", str(tmp_path / "alone")]
    subprocess.run([*command, "train.seed=2"], check=True)
    assert same(weights(tmp_path / "second"), weights(tmp_path / "alone"))
    assert not same(weights(tmp_path / "second"), weights(tmp_path / "first"))
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("trained: ") == 3
    assert "already holds this student" in said.err


def test_failed_training_keeps_its_code_and_a_killed_process_is_one_sentence(recipe: Path, tmp_path: Path) -> None:
    rows = {"data.train": [{"path": str(tmp_path / "rows.jsonl")}]}
    (tmp_path / "other.jsonl").write_text(json.dumps({"prompt": "no messages"}) + "\n")
    broken = {"data.train": [{"path": str(tmp_path / "other.jsonl")}]}
    with (
        TrainingProcess(View()) as trainer,
        pytest.raises(StageFailed, match="training `broken` ended with status 2") as end,
    ):
        trainer.train(recipe, tmp_path / "broken", broken, "broken")
    assert end.value.exit_code == 2

    with TrainingProcess(View()) as trainer:
        trainer.train(recipe, tmp_path / "first", rows, "first")
        assert trainer._process is not None
        os.kill(trainer._process.pid, signal.SIGKILL)
        with pytest.raises(StageFailed, match="training `second` ended with status -9"):
            trainer.train(recipe, tmp_path / "second", rows, "second")


def test_interrupt_of_this_process_ends_the_other(recipe: Path, tmp_path: Path) -> None:
    trainer = TrainingProcess(View())
    trainer.train(recipe, tmp_path / "first", {}, "first")
    process = trainer._process
    assert process is not None
    with pytest.raises(KeyboardInterrupt), trainer:
        raise KeyboardInterrupt
    assert process.poll() in (0, -signal.SIGKILL)  # it had nothing to do any more, and little time to end
