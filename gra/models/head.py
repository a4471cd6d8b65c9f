"""The output layer of a model whose weights are frozen, kept from copying its vocabulary for every row."""

from __future__ import annotations

from typing import Any


def feed_contiguous(network: Any) -> Any:
    """Hand the output layer contiguous states; returns the handle that undoes it.

    `generate` gives the head the last position of every row, a strided view. When the weight takes no
    gradient, PyTorch then multiplies batch by batch with the weight expanded to every row, and copies it for
    that: 0.3 GB for each row of a model with 262,000 tokens, and half a minute for 32 rows on two cores.
    """
    return network.get_output_embeddings().register_forward_pre_hook(
        lambda _, states: tuple(s.contiguous() for s in states)
    )
