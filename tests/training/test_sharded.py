"""Two processes on the CPU over gloo: ZeRO-2, ZeRO-3 and plain data parallel save whole weights and resume exactly."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from training_tiny import PAIRS, logged, make_student, row, same, train, weights, write_recipe, write_rows

from gra.core.run_folder import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def launch(strategy: str, recipe: Path, output: Path) -> dict[str, Any]:
    """Train in two processes; the metrics."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    if strategy == "ddp":  # accelerate starts one process on a CPU unless it is given MPI
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    else:
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", str(ROOT / "recipes/accelerate" / f"{strategy}.yaml"), "--num_processes", "2"]
        command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    command += [str(ROOT / "train.py"), "--config", str(recipe), "--output", str(output), "--json"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout[done.stdout.index("{") :]))


def cut_off(output: Path, step: int) -> None:
    """Leave the folder as a kill after this step's checkpoint would: nothing later, no model, no manifest."""
    for checkpoint in output.glob("checkpoints/checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    for path in output.iterdir():
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_two_processes_save_and_resume(tmp_path: Path, student: Path, strategy: str, lora: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    data = write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS[:8]])
    options = {"max_steps": 4, "save_steps": 2, "learning_rate": 0.002}
    alone = write_recipe(tmp_path, student, data, lora=lora, train={**options, "per_device_train_batch_size": 4})
    train(alone, tmp_path / "alone")
    recipe = write_recipe(
        tmp_path, student, data, lora=lora, train={**options, "per_device_train_batch_size": 2, "bf16": True}
    )
    output = tmp_path / "model"
    metrics = launch(strategy, recipe, output)
    assert (metrics["steps"], metrics["processes"]) == (4, 2)
    assert RunFolder(output).manifest()["training"]["launch"]["strategy"] == strategy
    assert RunFolder(output).verify() >= 5
    # Two processes with two rows each see what one process sees with four, in bfloat16.
    assert logged(output, "loss") == pytest.approx(logged(tmp_path / "alone", "loss"), rel=0.02)

    saved, start = weights(output), weights(student if lora is None else tmp_path / "alone")
    for tied in saved.keys() - start.keys():  # ZeRO-2 hands what is tied over twice
        assert torch.equal(saved.pop(tied), saved["model.embed_tokens.weight"])
    assert {name: tensor.shape for name, tensor in saved.items()} == {name: t.shape for name, t in start.items()}
    assert any(bool((saved[name].float() != start[name]).any()) for name in saved)
    folder = output
    if lora is not None:
        from peft import PeftModel

        base = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[1, 50, 60, 70]])
    assert bool(model(input_ids=ids, labels=ids).loss.isfinite())

    whole = weights(output)
    for step in (2, 4):  # half of the way; and after the last step, before the model was written
        cut_off(output, step)
        again = launch(strategy, recipe, output)
        assert (again["status"], again["steps"], again["loss"]) == ("trained", 4, metrics["loss"])
        assert same(whole, weights(output))
