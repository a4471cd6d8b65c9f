"""TRL's SFTTrainer, with a cheaper loss on the CPU and GRA's callbacks.

Imports torch and TRL; import this module only when training starts.

On a GPU, TRL projects only the completion's tokens through the LM head (a Triton kernel). On a CPU it
projects every token and recomputes the logits in the backward pass, which for a vocabulary of 262,144
is most of the work. `FrozenHeadLoss` does neither: a step of Gemma-3-270m with LoRA took 12.8 s of one
core's time with TRL's loss and 3.3 s with this one (8 rows of 60 tokens, half of them completion).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from gra.core.console import View
from gra.core.tracking import Tracker
from gra.training.checkpoints import Inputs, seal
from gra.training.template import IGNORED

_TOKENS_AT_ONCE = 128  # logits of so many exist at the same time: 128 x 262,144 x 4 bytes = 134 MB


class FrozenHeadLoss(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T` when `weight` is not trained.

    The gradient with respect to `hidden` is taken together with the loss, so logits are computed once and
    live for one chunk only.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`hidden` (tokens, width), `weight` (vocabulary, width), `labels` (tokens); the loss in nats."""
        total = torch.zeros((), dtype=torch.float32)
        gradients = []
        for start in range(0, len(labels), _TOKENS_AT_ONCE):
            states, targets = hidden[start : start + _TOKENS_AT_ONCE], labels[start : start + _TOKENS_AT_ONCE]
            logits = (states.to(weight.dtype) @ weight.t()).log_softmax(-1, dtype=torch.float32)
            at = torch.arange(len(targets))
            total -= logits[at, targets].sum()
            slope = logits.exp_()  # softmax(logits) - one_hot(targets)
            slope[at, targets] -= 1
            gradients.append(slope.to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(gradients).to(hidden.dtype) if gradients else torch.zeros_like(hidden))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Scale the gradient that was taken in the forward pass."""
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None


class StudentTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is untyped
    """SFTTrainer that computes only what is trained when the LM head is frozen on a CPU."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean negative log-likelihood of the completion's tokens, in nats."""
        core = self.accelerator.unwrap_model(model)
        if return_outputs or not _plain_frozen_head(self, core):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        core = core.get_base_model() if hasattr(core, "get_base_model") else core
        features = {key: value for key, value in inputs.items() if key != "labels"}
        hidden = core.base_model(**features, use_cache=False).last_hidden_state[:, :-1]
        labels = inputs["labels"][:, 1:]
        inside = labels != IGNORED
        loss = FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden[inside], core.get_output_embeddings().weight, labels[inside]
        )
        return loss / torch.as_tensor(inside.sum() if num_items_in_batch is None else num_items_in_batch).clamp(min=1)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card here: gra.training.card writes one that names the data."""


def _plain_frozen_head(trainer: StudentTrainer, core: Any) -> bool:
    """Whether FrozenHeadLoss is exactly the loss that TRL would compute."""
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


class Seal(TrainerCallback):  # type: ignore[misc]
    """Declares each checkpoint whole after the trainer has written it."""

    def __init__(self, inputs: Inputs, seconds_before: float) -> None:
        self._inputs, self._seconds_before = inputs, seconds_before
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time over all resumes."""
        return self._seconds_before + time.monotonic() - self._begun

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seal the checkpoint of this step once every process has written its part."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._inputs, self.seconds)


class Progress(TrainerCallback):  # type: ignore[misc]
    """Shows each logged step to the person and to the tracker."""

    def __init__(self, view: View, tracker: Tracker) -> None:
        self._view, self._tracker = view, tracker
        self._begun, self._tokens_before = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember where this process starts."""
        self._begun, self._tokens_before = time.monotonic(), state.num_input_tokens_seen

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """One line with the loss and the rate in tokens per second, padding excluded."""
        if not state.is_world_process_zero or not logs:
            return
        self._tracker.log(
            {key: value for key, value in logs.items() if isinstance(value, (int, float))}, state.global_step
        )
        if "loss" in logs:
            rate = (state.num_input_tokens_seen - self._tokens_before) / (time.monotonic() - self._begun)
            detail = f"loss {float(logs['loss']):.3f}, {rate:.0f} tokens/s"
            self._view.progress("train", state.global_step, state.max_steps, detail)


def make_trainer(
    model: Any, arguments: Any, tokenizer: Any, train: Any, heldout: Any, lora: Any, callbacks: list[TrainerCallback]
) -> StudentTrainer:
    """The trainer over tokenised rows; nothing is printed to standard output."""
    trainer = StudentTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=heldout,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
