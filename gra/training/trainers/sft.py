"""Build TRL trainers with GRA's callbacks; SFT has a cheaper loss on the CPU.

Imports torch and TRL; import this module only when training starts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from gra.core.progress import View
from gra.tracking import Tracker
from gra.training.adapters import lora_config
from gra.training.checkpoints import Inputs, seal
from gra.training.data.tokenize import IGNORED
from gra.training.plan import TrainingPlan
from gra.training.trainers.frozen_head_loss import FrozenHeadLoss, length_sorted_chunks


class GraTrainer:
    """Change what every trainer of TRL does: no model card, and no step after the last."""

    state: Any

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card: gra.training.model_card writes one that names the data."""

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # On resume from the last step, TRL would train one more step before it checks `max_steps`.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]  # the trainer that is mixed in has it


class StudentTrainer(GraTrainer, SFTTrainer):  # type: ignore[misc]  # TRL is untyped
    """SFTTrainer that computes logits only for completion tokens when the LM head is frozen on a CPU."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean negative log-likelihood of the completion's tokens, in nats."""
        core = self.accelerator.unwrap_model(model)
        if return_outputs or not _plain_frozen_head(self, core):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        core = core.get_base_model() if hasattr(core, "get_base_model") else core
        states, targets = [], []
        for chunk in length_sorted_chunks(inputs):
            labels = chunk.pop("labels")[:, 1:]
            hidden = core.base_model(**chunk, use_cache=False).last_hidden_state[:, :-1]
            states.append(hidden[labels != IGNORED])
            targets.append(labels[labels != IGNORED])
        target_ids = torch.cat(targets)
        loss = FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
            torch.cat(states), core.get_output_embeddings().weight, target_ids
        )
        count = len(target_ids) if num_items_in_batch is None else num_items_in_batch
        return loss / torch.as_tensor(count).clamp(min=1)


def _plain_frozen_head(trainer: StudentTrainer, core: Any) -> bool:
    """Return whether FrozenHeadLoss is exactly the loss that TRL would compute."""
    config, head = core.config.get_text_config(), core.get_output_embeddings()
    scaled = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    return (
        head.weight.device.type == "cpu"
        and trainer.accelerator.num_processes == 1
        and not head.weight.requires_grad
        and getattr(head, "bias", None) is None
        and not any(getattr(config, name, None) for name in scaled)
        and trainer.args.loss_type == "nll"
        and not trainer.args.label_smoothing_factor
        and not trainer.aux_loss_enabled
    )


class SealCallback(TrainerCallback):  # type: ignore[misc]
    """Seal each checkpoint after the trainer has written it."""

    def __init__(self, inputs: Inputs, seconds_before: float) -> None:
        self._inputs, self._seconds_before = inputs, seconds_before
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the training time over all resumes."""
        return self._seconds_before + time.monotonic() - self._begun

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seal the checkpoint of this step once every process has written its part."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._inputs, self.seconds)


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Show each logged step to the user and the tracker."""

    def __init__(self, view: View, tracker: Tracker) -> None:
        self._view, self._tracker = view, tracker
        self._begun, self._tokens_before = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note time and tokens at the start of this process."""
        self._begun, self._tokens_before = time.monotonic(), state.num_input_tokens_seen

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the loss and the rate in tokens per second, padding excluded."""
        if not state.is_world_process_zero or not logs:
            return
        self._tracker.log(
            {key: value for key, value in logs.items() if isinstance(value, (int, float))}, state.global_step
        )
        if "loss" in logs:
            rate = (state.num_input_tokens_seen - self._tokens_before) / (time.monotonic() - self._begun)
            detail = f"loss {float(logs['loss']):.3f}, {rate:.0f} tokens/s"
            self._view.progress("train", state.global_step, state.max_steps, detail)


def trainer_of(
    kind: type[GraTrainer],
    plan: TrainingPlan,
    model: Any,
    arguments: Any,
    callbacks: list[TrainerCallback],
    **more: Any,
) -> Any:
    """Return the trainer of a method over the plan's encoded rows; it prints nothing to standard output.

    Args:
        kind: Class of the trainer.
        plan: The run.
        model: The student's weights.
        arguments: TRL's configuration.
        callbacks: Called besides TRL's own.
        more: Arguments of this class only.
    """
    make: Any = kind
    trainer = make(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(plan.train.columns),
        eval_dataset=Dataset.from_dict(plan.heldout.columns) if len(plan.heldout) else None,
        processing_class=plan.tokenizer,
        peft_config=lora_config(plan.recipe),
        callbacks=callbacks,
        **more,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def make_trainer(plan: TrainingPlan, model: Any, arguments: Any, callbacks: list[TrainerCallback]) -> Any:
    """Return the trainer of `method: sft`."""
    return trainer_of(StudentTrainer, plan, model, arguments, callbacks)
