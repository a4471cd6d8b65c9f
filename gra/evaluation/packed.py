"""Multiply a network's float32 layers faster on a CPU, for inference.

PyTorch lays out a weight anew at every product. A weight can be kept in the layout that the kernels of oneDNN read. For
the few rows of decoding that is up to three times as fast (docs/benchmarks.md, "CPUs without AVX-512").
"""

from __future__ import annotations

from typing import Any

import torch


class PackedLinear(torch.nn.Module):
    """A linear layer without gradients, whose weight is kept in oneDNN's layout."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = linear.bias.detach() if linear.bias is not None else None

    def __getattr__(self, name: str) -> Any:
        """Return the weight in the usual layout, a copy, for networks that multiply by it themselves."""
        if name == "weight":
            return self._weight.to_dense()
        return self._bias if name == "bias" else super().__getattr__(name)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the product, of the shape of `states` with `out_features` at its end."""
        product = torch.ops.mkldnn._linear_pointwise(states.contiguous(), self._weight, self._bias, "none", [], "")
        assert isinstance(product, torch.Tensor)
        return product


def can_be_packed() -> bool:
    """Return whether this build of PyTorch has oneDNN's packed product."""
    ops = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(torch.ops.mkldnn, name) for name in ops
    )


def pack_linear(network: Any) -> int:
    """Replace the float32 linear layers on the CPU, and return how many were replaced."""
    if not can_be_packed():
        return 0
    count = 0
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            # Of this very type: a subclass may compute something else.
            if type(child) is torch.nn.Linear and child.weight.dtype == torch.float32 and child.weight.is_cpu:
                setattr(module, name, PackedLinear(child))
                count += 1
    return count
