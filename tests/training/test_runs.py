"""Whole training runs of a tiny student on the CPU: they learn, resume exactly, and are not repeated."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from training_tiny import PAIRS, make_student, row, same, train, weights, write_recipe, write_rows

from gra.core.errors import DataError, Mismatch, saving
from gra.core.run_folder import RunFolder
from gra.training.checkpoints import SEAL


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])


def test_a_student_learns_to_answer_and_to_stop(tmp_path: Path, student: Path, data: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    recipe = write_recipe(
        tmp_path,
        student,
        data,
        lora=None,
        train={"max_steps": 60, "learning_rate": 0.02},
        data={"train": [{"path": str(data), "weight": 2.0}], "holdout": {"fraction": 0.2}},
        stop_rate={"prompts": 2, "max_new_tokens": 12},
    )
    output = tmp_path / "model"
    metrics = train(recipe, output)
    assert metrics["status"] == "trained"
    assert metrics["loss"] < metrics["loss_first"] / 3
    assert metrics["rows"]["read"] == 9
    assert metrics["rows"]["train"]["rows"] == 14
    assert metrics["rows"]["heldout"]["rows"] == metrics["stop"]["prompts"] == 2
    assert metrics["stop"]["share"] == 1.0
    assert metrics["tokens"] > metrics["rows"]["train"]["tokens"]
    assert json.loads((output / "metrics.json").read_text())["loss"] == metrics["loss"]
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert GenerationConfig.from_pretrained(output).eos_token_id == [tokenizer.eos_token_id]
    assert "### Response:" in (output / "chat_template.jinja").read_text()
    assert RunFolder(output).verify() >= 5
    card = (output / "README.md").read_text()
    assert str(data) in card
    assert "## Make it again" in card


def test_a_finished_student_is_made_again_by_the_one_command_of_its_card(
    tmp_path: Path, student: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gra.cli.train import main

    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "demo")
    dataset = write_rows(run.create() / "dataset.jsonl", [row(*pair) for pair in PAIRS])
    (run / "ledger.sqlite").touch()
    run.record("synthesis", {"fingerprint": "f" * 64, "name": "demo", "arm": "gra", "states": {}}, [dataset])
    (tmp_path / "mine.jinja").write_text((ROOT / "gra/models/templates/plain.jinja").read_text())
    recipe = write_recipe(
        tmp_path, student, data, model={"chat_template": "mine.jinja"},
        data={"train": [{"path": "runs/demo/dataset.jsonl"}], "holdout": {"fraction": 0.2, "seed": 3}},
    )  # fmt: skip
    metrics = train(recipe, Path("model"), "train.seed=5")
    section = RunFolder(tmp_path / "model").manifest()["training"]
    origin = section["data"][0]["origin"]
    assert (origin["run"], origin["stage"], origin["ledger"]) == (
        str(run.path), "synthesis", str(run / "ledger.sqlite")
    )  # fmt: skip
    assert origin["sha256_when_written"] == section["data"][0]["sha256"]
    assert section["seeds"] == {"training": 5, "holdout": 3}
    assert section["launch"] == {"strategy": "cpu", "processes": 1, "machines": 1}
    assert section["hardware"]["gpus"] == []
    assert section["metrics"]["loss"] == metrics["loss"]
    assert metrics["gpu_hours"] is None
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"    {section['relaunch']}\n" in card
    assert str(run / "ledger.sqlite") in card

    words = shlex.split(section["relaunch"])
    assert words[:5] == ["accelerate", "launch", "--config_file", "recipes/accelerate/cpu.yaml", "train.py"]
    (tmp_path / "mine.jinja").unlink()
    recipe.unlink()
    main(words[5:])
    again = RunFolder(tmp_path / "model-again").manifest()["training"]
    assert again["fingerprint"] == section["fingerprint"]
    assert same(weights(tmp_path / "model"), weights(tmp_path / "model-again"))
    write_rows(dataset, [row(*pair) for pair in PAIRS[:5]])
    with pytest.raises(SystemExit) as end:
        main([*words[5:-1], "third"])
    assert end.value.code == 5


def test_a_run_killed_after_its_last_step_trains_no_more(
    tmp_path: Path, student: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gra.training import run as sft

    recipe = write_recipe(tmp_path, student, data, train={"max_steps": 5})
    whole = train(recipe, tmp_path / "whole")

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sft, "write_card", die)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "killed")
    again = train(recipe, tmp_path / "killed")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert (again["steps"], again["loss"]) == (5, whole["loss"])
    assert RunFolder(tmp_path / "killed").verify() >= 5


def test_a_finished_run_is_not_repeated_and_another_is_refused(tmp_path: Path, student: Path, data: Path) -> None:
    recipe, output = write_recipe(tmp_path, student, data), tmp_path / "model"
    first = train(recipe, output)
    before = (output / "manifest.json").stat().st_mtime_ns
    assert train(recipe, output, "train.logging_steps=2") == {**first, "status": "already trained"}
    assert (output / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(Mismatch, match=r"train\.learning_rate was 0\.01, is now 0\.02.*--fresh"):
        train(recipe, output, "train.learning_rate=0.02")
    write_rows(data, [row(*pair) for pair in PAIRS[:5]])
    with pytest.raises(Mismatch, match=r"data\.train\.0 was"):
        train(recipe, output)
    assert train(recipe, output, fresh=True)["rows"]["read"] == 5


def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, student: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gra.training import run as sft

    recipe, output = write_recipe(tmp_path, student, data), tmp_path / "model"

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sft, "_save", die)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, output)
    with pytest.raises(Mismatch, match=r"lora\.r was 4, is now 8"):
        train(recipe, output, "lora.r=8")


@pytest.mark.parametrize("at_speed", [True, False])
def test_adapters_stay_float32_over_bfloat16_weights(
    tmp_path: Path, student: Path, data: Path, monkeypatch: pytest.MonkeyPatch, at_speed: bool
) -> None:
    import torch

    from gra.training import run

    computed: list[Any] = []

    def widened(*given: Any, **options: Any) -> Any:
        computed.append(model := made(*given, **options))
        return model

    made = run.widened
    monkeypatch.setattr(run, "widened", widened)
    monkeypatch.setattr("gra.core.hardware.cpu_computes_bfloat16", lambda: at_speed)
    recipe = write_recipe(tmp_path, student, data, train={"max_steps": 1})
    train(recipe, tmp_path / "model", "model.dtype=bfloat16")
    (model,) = computed
    assert model.dtype == (torch.bfloat16 if at_speed else torch.float32)
    assert {tensor.dtype for tensor in weights(tmp_path / "model").values()} == {torch.float32}


def command(recipe: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "--config", str(recipe), "--output", str(output), *more]


def test_the_command_line_prints_json_and_keeps_exit_codes(tmp_path: Path, student: Path, data: Path) -> None:
    recipe = write_recipe(tmp_path, student, data)
    done = subprocess.run(command(recipe, tmp_path / "m", "--dry-run", "--json"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["steps"] == 4
    assert plan["row"].endswith("<eos>⟧")
    assert plan["memory"]["trained"] < plan["memory"]["parameters"]
    assert not (tmp_path / "m").exists()


def test_a_mistake_on_the_command_line_is_one_sentence(
    tmp_path: Path, student: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gra.cli.train import main
    from gra.training import run as sft

    def exits(*arguments: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as end:
            main(["--config", *arguments])
        return end.value.code, capsys.readouterr().err

    recipe = str(write_recipe(tmp_path, student, data))
    assert exits(str(tmp_path / "no.yaml")) == (2, f"error: {tmp_path}/no.yaml: there is no such recipe file\n")
    code, text = exits(recipe, "--show-config", "train.lerning_rate=1")
    assert (code, text.count("\n")) == (2, 1)
    assert "did you mean `learning_rate`?" in text
    code, text = exits(recipe, "--dry-run", "data.train=[{path: gone.parquet}]")
    assert (code, text.count("\n")) == (2, 1)
    assert "`gone.parquet` is not there" in text

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sft, "train", interrupted)
    assert exits(recipe) == (130, "interrupted; run the same command again to go on from the last checkpoint\n")


@pytest.mark.slow
@pytest.mark.parametrize("launch", [["cpu.yaml"], ["zero2.yaml", "--num_processes", "1"]], ids=["cpu", "zero2"])
def test_accelerate_launches_a_run(tmp_path: Path, student: Path, data: Path, launch: list[str]) -> None:
    recipe, output = write_recipe(tmp_path, student, data), tmp_path / "model"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    done = subprocess.run(
        [
            *accelerate,
            str(ROOT / "recipes/accelerate" / launch[0]),
            *launch[1:],
            *command(recipe, output, "--json")[1:],
        ],
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((output / "metrics.json").read_text())["steps"] == 4
    assert RunFolder(output).verify() >= 5


@pytest.mark.slow
def test_a_run_survives_sigkill_at_any_moment(tmp_path: Path, student: Path, data: Path) -> None:
    recipe = write_recipe(tmp_path, student, data, train={"max_steps": 60, "save_steps": 1})
    output, environment = tmp_path / "killed", {**os.environ, "OMP_NUM_THREADS": "1"}
    # Processes all of them, with as many threads: sums that are taken in another order differ in their last bits.
    subprocess.run(command(recipe, tmp_path / "whole"), env=environment, check=True, stderr=subprocess.DEVNULL)
    for after in (1, 20, 45):
        process = subprocess.Popen(command(recipe, output), env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list((output / "checkpoints").glob(f"checkpoint-{after}*/{SEAL}")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(recipe, output), env=environment, check=True)
    assert same(weights(tmp_path / "whole"), weights(output))


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, student: Path, data: Path
) -> None:
    """PyTorch raises a `RuntimeError` that names no disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        recipe = write_recipe(tmp_path, student, data, train={"max_steps": 2})
        with pytest.raises(DataError, match="No space left on device; free some space and run the same command again"):
            train(recipe, disk / "model")
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert train(recipe, disk / "model")["steps"] == 2
    finally:
        subprocess.run(["umount", disk], check=True)


def test_another_error_on_a_disk_with_room_stays_what_it_was(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="of a library"), saving(tmp_path):
        raise RuntimeError("of a library")
