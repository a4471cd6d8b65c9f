"""Train the students of an experiment outside this process.

On a CPU one process trains them one after another: importing the libraries can take as long as a training. On GPUs
each student has a launch of its own.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gra.config.loader import as_overrides
from gra.core.errors import GraError
from gra.core.hardware import gpu_count
from gra.core.processes.secrets import child_environment
from gra.core.progress import View

_OWN_CODES = (2, 3, 4, 5, 130)  # of `gra train`, which the whole job passes on
_PATIENCE_S, _INTERRUPT_S = 10.0, 2.0  # how long the process may take to end


class StageFailed(GraError):
    """A stage that runs in its own process ended with an error of its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TrainingProcess:
    """Trains students until it is left; the process starts with the first student that is not trained yet."""

    def __init__(self, view: View) -> None:
        """Prepare the trainer; `view` shows the stages."""
        self._view = view
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        patience = _PATIENCE_S if kind is None else _INTERRUPT_S  # an interrupt reached the process, too
        try:
            with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                process.communicate(timeout=patience)  # closes its standard input, at which it ends
        finally:
            process.kill()
            process.wait()

    def train(self, recipe: Path, output: Path, changes: Mapping[str, Any], key: str) -> None:
        """Train a student, unless it is trained already.

        Args:
            recipe: the training recipe.
            output: the student's folder.
            changes: keys of the recipe with the values that replace its own.
            key: the student's name in messages.

        Raises:
            StageFailed: when the training ended with an error.
        """
        from gra.training.options.trl_config import load_train_recipe
        from gra.training.run import is_trained

        overrides = as_overrides(changes)
        arguments = ["--config", str(recipe), "--output", str(output), *overrides]
        with self._view.stage("train", key):
            if is_trained(load_train_recipe(recipe, overrides), output):
                self._view.note(f"{output} already holds this student")
                return
            gpus = gpu_count()
            code = _launch(arguments, gpus) if gpus else self._ask(arguments)
        if code:
            raise StageFailed(
                f"training `{key}` ended with status {code} (see above); run the same command again to go on",
                code if code in _OWN_CODES else 1,
            )

    def _ask(self, arguments: list[str]) -> int:
        """Have the process train one student and return its exit code; that of the process where it ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gra.cli.train", "--several"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=_environment(),
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        return int(reply) if reply.strip() else process.wait() or 1


def _launch(arguments: list[str], gpus: int) -> int:
    """Train one student on all GPUs with `accelerate launch`, and return its exit code."""
    counts = ["--num_processes", str(gpus), "--num_machines", "1", *(["--multi_gpu"] if gpus > 1 else [])]
    launcher = ["accelerate.commands.launch", *counts, "--mixed_precision", "no", "--dynamo_backend", "no", "--module"]
    command = [sys.executable, "-m", *launcher, "gra.cli.train", *arguments]
    return subprocess.run(command, check=False, env=_environment()).returncode


def _environment() -> dict[str, str]:
    return child_environment("HF_TOKEN", "WANDB_API_KEY")
