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

_VOCAB_CHUNK = 8192  # the logits of a few hundred tokens stay in the processor's cache

_ROWS_AT_ONCE = 4  # few rows are of similar length, and matrix products stay efficient


class FrozenHeadLoss(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T` when `weight` is not trained.

    d loss / d hidden = softmax(logits) @ weight - weight[label]

    Loss and gradient are computed together, one chunk of the vocabulary after another. The softmax keeps a running
    maximum, as in FlashAttention. Each logit is computed once and kept for one chunk only.
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
        running_max = torch.full((len(labels), 1), -torch.inf)
        normalizer, weighted_rows = torch.zeros_like(running_max), torch.zeros(hidden.shape)
        chosen = torch.zeros_like(normalizer)
        for first, chunk in zip(range(0, len(weight), _VOCAB_CHUNK), torch.split(weight, _VOCAB_CHUNK), strict=True):
            logits = states @ chunk.t()
            # The label's logit is rounded as the others are: from another product a sure answer's loss may be negative.
            inside = ((labels >= first) & (labels < first + len(chunk))).nonzero()[:, 0]
            chosen[inside, 0] = logits[inside, labels[inside] - first].float()
            highest = torch.maximum(running_max, logits.amax(-1, keepdim=True).float())
            exp_logits = logits.float().sub_(highest).exp_()
            rescale = (running_max - highest).exp_()
            normalizer = normalizer * rescale + exp_logits.sum(-1, keepdim=True)
            weighted_rows = weighted_rows.mul_(rescale).add_(exp_logits.to(chunk.dtype) @ chunk)
            running_max = highest
        wanted = weight[labels].float()
        ctx.save_for_backward((weighted_rows.div_(normalizer) - wanted).to(hidden.dtype))
        return (running_max + normalizer.log() - chosen).sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Scale the gradient that the forward pass computed."""
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None


def length_sorted_chunks(batch: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the rows of a right-padded batch in chunks of similar length, each cut to its longest row."""
    if "attention_mask" not in batch:  # packed: there is no padding
        yield dict(batch)
        return
    lengths = batch["attention_mask"].sum(1)
    for rows in torch.split(lengths.argsort(stable=True), _ROWS_AT_ONCE):
        longest = int(lengths[rows].max())
        yield {name: column[rows, :longest] for name, column in batch.items()}
