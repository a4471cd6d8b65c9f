"""Adapt local training to a federation: one schedule of the learning rate over all rounds, and A frozen on request.

The optimizer of a round starts anew, but its learning rate goes on where the round before ended. So a recipe's warm-up
happens once. Imports torch; import this module only when training starts.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, get_scheduler

from gra.training.federation.aggregate import is_frozen


class FederatedRound(TrainerCallback):  # type: ignore[misc]
    """Change a trainer for one round.

    Args:
        before: Steps of the earlier rounds.
        total: Steps of all rounds.
        freeze_a: Whether A stays as it began.
    """

    def __init__(self, before: int, total: int, *, freeze_a: bool) -> None:
        self._before, self._total, self._freeze_a = before, total, freeze_a

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Freeze A before there is an optimizer."""
        for name, parameter in model.named_parameters() if self._freeze_a else ():
            if is_frozen(name):
                parameter.requires_grad_(False)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        """Replace the schedule of this round by its part of the whole schedule."""
        schedule = getattr(lr_scheduler, "scheduler", lr_scheduler)
        rate = self._whole_schedule(args)
        schedule.lr_lambdas = [lambda step: rate(self._before + step)] * len(schedule.lr_lambdas)
        for group, base in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = base * rate(self._before + schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _whole_schedule(self, args: Any) -> Any:
        """Return the factor of the learning rate at a step of the whole run."""
        stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
        whole = get_scheduler(
            args.lr_scheduler_type, stand_in, num_warmup_steps=args.get_warmup_steps(self._total),
            num_training_steps=self._total, scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )  # fmt: skip
        return whole.lr_lambdas[0]
