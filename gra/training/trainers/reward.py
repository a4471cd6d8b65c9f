"""Train a reward model with TRL's RewardTrainer, on tokenized pairs (Bradley-Terry; Ouyang et al. 2022, section 3.5).

Imports torch and TRL; import this module only when training starts.

A head with one label replaces the LM head. With `lora` the head is trained beside the adapter. The adapter is merged
into the weights that are saved, so that engines can serve them as any classifier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import RewardTrainer

from gra.core.errors import RecipeError
from gra.training.plan import TrainingPlan, load_student
from gra.training.trainers.sft import GraTrainer, trainer_of


class RewardModelTrainer(GraTrainer, RewardTrainer):  # type: ignore[misc]  # TRL is untyped
    """RewardTrainer over tokenized pairs; it keeps the margin of each pair of the last evaluation.

    Attributes:
        margins: The chosen answer's reward less the rejected one's, over all processes.
    """

    margins: list[float]

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Return the metrics of the held-out pairs."""
        self.margins = []
        return super().evaluate(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean negative log-probability that the chosen answer is the better one, in nats."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if not self.model.training:
            chosen, rejected = torch.chunk(outputs.logits.detach().float().squeeze(-1), 2)
            self.margins += self.accelerator.gather_for_metrics(chosen - rejected).tolist()
        return (loss, outputs) if return_outputs else loss


def make_trainer(plan: TrainingPlan, model: Any, arguments: Any, callbacks: list[TrainerCallback]) -> Any:
    """Return the trainer of `method: reward`.

    Raises:
        RecipeError: When a launch divides weights that an adapter has to be merged into.
    """
    deepspeed = arguments.deepspeed_plugin
    if plan.recipe.lora is not None and deepspeed is not None and deepspeed.zero_stage == 3:
        raise RecipeError(
            "`method: reward` with `lora` merges the adapter into weights that the launch `zero3` divides; launch with "
            "recipes/accelerate/zero2.yaml, or leave the `lora` section out",
            plan.loaded.path,
        )
    return trainer_of(RewardModelTrainer, plan, model, arguments, callbacks)


def accuracy_of(trainer: RewardModelTrainer) -> dict[str, Any]:
    """Return how often the chosen answer got the higher reward.

    Args:
        trainer: After training, and after the last evaluation where pairs are held out.

    Returns:
        `train_accuracy`, the mean of the last fifth of the logged steps. With held-out pairs also `preferred`: the
        number of `pairs`, those that are `right`, their `share`, and the mean `margin` of rewards. A tie is not right.
    """
    logged = [entry["accuracy"] for entry in trainer.state.log_history if "accuracy" in entry]
    last = logged[-max(1, len(logged) // 5) :]
    found: dict[str, Any] = {"train_accuracy": round(sum(last) / len(last), 4)} if last else {}
    if margins := getattr(trainer, "margins", []):
        right = sum(margin > 0 for margin in margins)
        found["preferred"] = {
            "pairs": len(margins),
            "right": right,
            "share": round(right / len(margins), 4),
            "margin": round(sum(margins) / len(margins), 4),
        }
    return found


def merge_adapter(plan: TrainingPlan, folder: Path) -> None:
    """Replace the adapter in a folder by the whole weights that it is merged into; without `lora` nothing is done.

    Args:
        plan: The run.
        folder: The model folder, with the adapter and its trained head.
    """
    if plan.recipe.lora is None:
        return
    from peft import PeftModel

    base = load_student(plan)
    base.config.get_text_config().pad_token_id = plan.tokenizer.pad_token_id  # the last token before it is scored
    PeftModel.from_pretrained(base, str(folder)).merge_and_unload().save_pretrained(folder)
    for file in folder.glob("adapter_*"):
        file.unlink()
