"""Task kind `lm-eval`: a task or group of lm-eval's own, with its prompts, worked examples and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gra.config.suite import TaskConfig
from gra.evaluation.task import LoadedTask, Sample, TaskKind


class LMEvalTask(TaskKind):
    """Tasks that lm-eval defines; it scores them while it asks, so recorded answers keep their metrics."""

    name = "lm-eval"
    native = True

    def problems(self, config: TaskConfig) -> list[str]:
        """Return what is wrong with the task's section."""
        found = []
        if config.metric is None:
            found.append(f"the task `{config.name}` needs `metric`: which of lm-eval's metrics is its score")
        if config.template is not None:
            found.append(f"`template` is not for `kind: lm-eval`: the task `{config.data}` has its own wording")
        return found

    def read(self, config: TaskConfig, data_dir: Path | None) -> tuple[list[Sample], bool]:
        """Read the samples that lm-eval has for the task."""
        from gra.evaluation.lm_eval import native_samples

        return native_samples(config, data_dir)

    def chat(self, config: TaskConfig) -> bool:
        """Return that no chat template is used by default, as in lm-eval."""
        return False

    def prompt_parts(self, task: LoadedTask) -> list[Any]:
        """Return lm-eval's name of the task and the number of worked examples; the samples hold their wording."""
        return [task.name, self.name, task.chat, task.config.data, task.config.shots]
