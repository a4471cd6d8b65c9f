"""Train the students of an experiment, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gra.config.loader import as_overrides
from gra.core.errors import GraError
from gra.core.hardware import gpu_count
from gra.core.processes.secrets import child_environment
from gra.core.progress import View


class StageFailed(GraError):
    """A stage that runs in its own process ended with an error of its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def train_student(recipe: Path, output: Path, changes: Mapping[str, Any], key: str, view: View) -> None:
    """Train a student in a process of its own, unless it is trained already.

    Args:
        recipe: the training recipe.
        output: the student's folder.
        changes: keys of the recipe with the values that replace its own.
        key: the student's name in messages.
        view: shows the stage.

    Raises:
        StageFailed: when the training ended with an error.
    """
    from gra.training.options.trl_config import load_train_recipe
    from gra.training.run import is_trained

    overrides = as_overrides(changes)
    arguments = ["gra.cli.train", "--config", str(recipe), "--output", str(output), *overrides]
    with view.stage("train", key):
        if is_trained(load_train_recipe(recipe, overrides), output):
            view.note(f"{output} already holds this student")
            return
        done = subprocess.run(
            [sys.executable, "-m", *_launcher(), *arguments],
            check=False,
            env=child_environment("HF_TOKEN", "WANDB_API_KEY"),
        )
    if done.returncode:
        raise StageFailed(
            f"training `{key}` ended with status {done.returncode} (see above); run the same command again to go on",
            done.returncode if done.returncode in (2, 3, 4, 5, 130) else 1,
        )


def _launcher() -> list[str]:
    """Return how the training starts: plain Python on a CPU, else `accelerate launch` over all GPUs."""
    if not (gpus := gpu_count()):
        return []
    counts = ["--num_processes", str(gpus), "--num_machines", "1", *(["--multi_gpu"] if gpus > 1 else [])]
    return ["accelerate.commands.launch", *counts, "--mixed_precision", "no", "--dynamo_backend", "no", "--module"]
