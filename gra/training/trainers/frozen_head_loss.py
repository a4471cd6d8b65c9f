"""Compute the loss of a student with a frozen LM head on the CPU, each logit once.

Imports torch; import this module only when training starts.

On a GPU, TRL projects only the completion's tokens through the LM head (a Triton kernel). On a CPU it projects every
token, padding included, and recomputes the logits in the backward pass in float32. For a vocabulary of 262,144 that is
most of the work; docs/benchmarks.md has measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

_WORDS_AT_ONCE = 8192  # the logits of a few hundred tokens stay in the processor's cache

_ROWS_AT_ONCE = 4  # few rows are of similar length, and matrix products stay efficient


class FrozenHeadLoss(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T` when `weight` is not trained.

    The gradient with respect to `hidden` is the model's expected row of `weight` minus the row of the label. It is
    computed with the loss in pieces of the vocabulary, with a running maximum as in FlashAttention.
    Each logit is computed once and kept for one piece only.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the summed loss in nats.

        Args:
            ctx: Of autograd.
            hidden: (tokens, width).
            weight: (vocabulary, width).
            labels: (tokens).
        """
        states = hidden.to(weight.dtype)
        top = torch.full((len(labels), 1), -torch.inf)
        mass, rows = torch.zeros_like(top), torch.zeros(hidden.shape)
        for piece in torch.split(weight, _WORDS_AT_ONCE):
            logits = states @ piece.t()
            highest = torch.maximum(top, logits.amax(-1, keepdim=True).float())
            shares = logits.float().sub_(highest).exp_()
            fade = (top - highest).exp_()
            mass = mass * fade + shares.sum(-1, keepdim=True)
            rows = rows.mul_(fade).add_(shares.to(piece.dtype) @ piece)
            top = highest
        wanted = weight[labels].float()
        ctx.save_for_backward((rows.div_(mass) - wanted).to(hidden.dtype))
        return (top + mass.log()).sum() - (states.float() * wanted).sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Scale the gradient that the forward pass computed."""
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None


def parts_of_like_length(batch: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the rows of a batch, padded on the right, in parts that are cut to their longest row."""
    if "attention_mask" not in batch:  # packed: there is no padding
        yield dict(batch)
        return
    lengths = batch["attention_mask"].sum(1)
    for rows in torch.split(lengths.argsort(stable=True), _ROWS_AT_ONCE):
        longest = int(lengths[rows].max())
        yield {name: column[rows, :longest] for name, column in batch.items()}
