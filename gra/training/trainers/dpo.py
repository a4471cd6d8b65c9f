"""Train on preferences with TRL's DPOTrainer, on tokenized pairs (Rafailov et al. 2023, arXiv 2305.18290).

Imports torch and TRL; import this module only when training starts.

The reference model is the student before training. That is the loaded weights, or a frozen copy of the adapter when
training goes on from an adapter (`model.adapter`).
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from trl import DPOTrainer

from gra.training.plan import TrainingPlan
from gra.training.trainers.sft import GraTrainer, trainer_of

_REFERENCE = "ref"  # the name of TRL's copy of the adapter


class PreferenceTrainer(GraTrainer, DPOTrainer):  # type: ignore[misc]  # TRL is untyped
    """DPOTrainer over tokenized pairs."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save without the frozen copy, which is made again from the first adapter."""
        import shutil
        from pathlib import Path

        super()._save(output_dir, state_dict)
        shutil.rmtree(Path(output_dir or self.args.output_dir) / _REFERENCE, ignore_errors=True)


def make_trainer(plan: TrainingPlan, model: Any, arguments: Any, callbacks: list[TrainerCallback]) -> Any:
    """Return the trainer of `method: preference`."""
    return trainer_of(PreferenceTrainer, plan, model, arguments, callbacks)
