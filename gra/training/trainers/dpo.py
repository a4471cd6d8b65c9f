"""TRL's DPOTrainer on pairs that GRA has tokenised (Rafailov et al. 2023, arXiv 2305.18290).

Imports torch and TRL; import this module only when training starts.

The reference model is the student as it was: the loaded weights when every parameter or a new adapter is
trained, a frozen copy of the adapter when training goes on from one (`model.adapter`).
"""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

from gra.training.trainers.sft import GraTrainer

_REFERENCE = "ref"  # what TRL calls its copy of the adapter


class PreferenceTrainer(GraTrainer, DPOTrainer):  # type: ignore[misc]  # TRL is untyped
    """DPOTrainer over rows that are tokens already."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save without the frozen copy: it is made again from the adapter that training began with."""
        import shutil
        from pathlib import Path

        super()._save(output_dir, state_dict)
        shutil.rmtree(Path(output_dir or self.args.output_dir) / _REFERENCE, ignore_errors=True)
