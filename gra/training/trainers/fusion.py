"""Train on answers, and beside them on the combined distributions of several teachers.

    L = lambda L_SFT + (1 - lambda) L_fusion,   L_fusion = - sum_b P(b) log Q(b)

as in FuseLLM (Wan et al. 2024, arXiv 2401.10491). P is the teachers', Q the student's. The sum is over the kept tokens
and over all others together. A token without a target has no second term.

Imports torch and TRL; import this module only when training starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from gra.core.errors import RecipeError
from gra.training.data.tokenize import IGNORED
from gra.training.fusion.report import summarize
from gra.training.fusion.targets import Target, TeacherDistributions, target_of
from gra.training.fusion.teachers import read_all, store_folder
from gra.training.fusion.vocabulary import NONE
from gra.training.plan import TrainingPlan
from gra.training.trainers.sft import StudentTrainer, trainer_of

_ROW = "row"  # the column with the number of a distinct row
_LEAST = 1e-6  # probability of all other tokens, below which it has no gradient


def fusion_loss(logprobs: torch.Tensor, ids: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the student's distributions to the targets, in nats.

    Args:
        logprobs: the student's, shape [tokens, vocabulary].
        ids: tokens of the target, `NONE` where there are fewer, shape [tokens, k].
        probabilities: of these tokens, shape [tokens, k]. The rest belongs to all other tokens together.

    Returns:
        Shape [tokens]; 0 where a token has no target.
    """
    given = ids != NONE
    ours = logprobs.gather(1, ids.clamp(min=0)).masked_fill(~given, 0.0)
    kept = (ours.exp() * given).sum(-1)
    others = torch.log1p(-kept.clamp(max=1 - _LEAST))
    rest = (1 - probabilities.sum(-1)).clamp(min=0)
    return (-(probabilities * ours).sum(-1) - rest * others) * given.any(-1)


class TargetCollator:
    """Add the targets of a batch's rows to what TRL's collator makes of them."""

    def __init__(self, collator: Any, targets: Sequence[Target]) -> None:
        self._collator, self._targets = collator, targets

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch; held-out rows have no targets."""
        rows = [example.pop(_ROW, None) for example in examples]
        batch = dict(self._collator(examples))
        if rows[0] is None:
            return batch
        targets = [self._targets[row] for row in rows]
        size = (*batch["input_ids"].shape, max(target.ids.shape[1] for target in targets))
        ids, probabilities = torch.full(size, NONE), torch.zeros(size)
        for line, target in enumerate(targets):
            places, width = torch.from_numpy(target.positions).long(), target.ids.shape[1]
            ids[line, places, :width] = torch.from_numpy(target.ids).long()
            probabilities[line, places, :width] = torch.from_numpy(target.probabilities).float()
        return {**batch, "target_ids": ids, "target_probabilities": probabilities}


class FusionTrainer(StudentTrainer):
    """StudentTrainer with a second target.

    Attributes:
        sft_weight: lambda.
        stored: the teachers' distributions.
        summary: what the teachers contribute.
    """

    sft_weight: float
    stored: list[TeacherDistributions]
    summary: dict[str, Any]
    _signature_columns: Any  # of TRL

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if _ROW not in self._signature_columns:
            self._signature_columns.append(_ROW)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted sum of both losses in nats; of held-out rows the supervised loss alone."""
        ids, probabilities = inputs.pop("target_ids", None), inputs.pop("target_probabilities", None)
        if ids is None or self.sft_weight == 1:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        inside = labels != IGNORED
        first = int(inside.any(0).nonzero()[0])  # prompts need no logits
        read = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        keep = inputs["labels"].shape[1] - first
        outputs = model(**read, use_cache=False, logits_to_keep=keep)
        chosen = inside[:, first:]
        logprobs = outputs.logits[:, :-1][chosen].float().log_softmax(-1)
        sft = -logprobs.gather(1, labels[inside][:, None]).sum()
        fused = fusion_loss(logprobs, ids[:, 1:][inside], probabilities[:, 1:][inside]).sum()
        count = inside.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        for name, part in (("sft_loss", sft), ("fusion_loss", fused)):
            self._metrics["train"][name].append(float(part.detach() / inside.sum()))
        loss = (self.sft_weight * sft + (1 - self.sft_weight) * fused) / count.clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the count is over all processes, and gradients are averaged
        return (loss, outputs) if return_outputs else loss


def make_trainer(plan: TrainingPlan, model: Any, arguments: Any, callbacks: list[TrainerCallback]) -> FusionTrainer:
    """Return the trainer of `method: fusion`, with the stored distributions.

    Raises:
        RecipeError: When the student has a loss of its own beside its tokens'.
        Mismatch: When the stored distributions are not those of these rows.
    """
    fusion = plan.recipe.fusion
    assert fusion is not None
    assert plan.fusion is not None
    stored = read_all(plan.fusion, store_folder(fusion.store, Path(arguments.output_dir).parent))
    plan.train.columns[_ROW] = plan.fusion.student.index
    trainer: FusionTrainer = trainer_of(FusionTrainer, plan, model, arguments, callbacks)
    if trainer.aux_loss_enabled:
        raise RecipeError(
            f"{plan.recipe.model.name} balances its experts by a loss of their own, which `method: fusion` leaves out; "
            "name another student",
            plan.loaded.path,
        )
    targets = [target_of(stored, row, fusion.combine) for row in range(len(plan.fusion.student.rows))]
    trainer.data_collator = TargetCollator(trainer.data_collator, targets)
    trainer.sft_weight, trainer.stored = fusion.sft_weight, stored
    trainer.summary = {"sft_weight": fusion.sft_weight, **summarize(plan.fusion, stored, fusion.combine, targets)}
    return trainer
