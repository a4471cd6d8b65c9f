"""Compute vLLM's steps on a CPU in turns with other engines; vLLM loads this class by its name.

It is named in `engine_arguments` of `start.py`, and imported in vLLM's own process only.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker

from gra.engines.vllm.core_turns import open_turns


class TurnTakingWorker(CPUWorker):  # type: ignore[misc]
    """vLLM's worker for CPUs, which computes only in its turn."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        turns = open_turns()
        self._step = turns.step if turns else nullcontext

    def execute_model(self, *args: Any, **options: Any) -> Any:
        """Compute one step's states and logits."""
        with self._step():
            return super().execute_model(*args, **options)

    def sample_tokens(self, *args: Any, **options: Any) -> Any:
        """Draw the tokens of a step."""
        with self._step():
            return super().sample_tokens(*args, **options)
