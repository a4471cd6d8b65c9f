"""Combine the adapters of several clients into one: pure NumPy.

A LoRA module adds BA to a frozen matrix. The mean of B times the mean of A is not the mean of BA: the cross terms
between clients grow with their difference. `fedavg` (FederatedScope-LLM, arXiv 2309.00363) takes that error.
`freeze_a` (FFA-LoRA, arXiv 2403.12313) has one A for all, and there the mean of B is exact. `stack` (after FLoRA,
arXiv 2409.05976) computes the mean of BA and factors it again, at the rank of the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gra.core.errors import Mismatch

Array = NDArray[np.float32]
Tensors = Mapping[str, Array]
A, B = ".lora_A.", ".lora_B."


def aggregate(kind: str, adapters: Sequence[Tensors], rows: Sequence[int]) -> dict[str, Array]:
    """Return one adapter of several.

    Args:
        kind: `fedavg`, `freeze_a` or `stack`.
        adapters: The clients' tensors, with the same names and shapes.
        rows: The rows of each client, which weigh its adapter.

    Returns:
        The adapter. That of a single client is returned bit for bit.

    Raises:
        Mismatch: With `freeze_a`, when clients have different A.
    """
    if len(adapters) == 1:
        return dict(adapters[0])
    weights = shares(rows)
    if kind == "stack":
        return _stacked(adapters, weights)
    names = list(adapters[0])
    if kind == "freeze_a":
        for other in adapters[1:]:
            refuse_other_a(other, adapters[0])
        return {name: adapters[0][name] if is_frozen(name) else _mean(adapters, weights, name) for name in names}
    return {name: _mean(adapters, weights, name) for name in names}


def is_frozen(name: str) -> bool:
    """Return whether `freeze_a` leaves a tensor or parameter of this name as it began."""
    return A in name


def refuse_other_a(found: Tensors, wanted: Tensors) -> None:
    """Refuse an adapter whose A is not the wanted one.

    Raises:
        Mismatch: Naming the first tensor that differs.
    """
    for name in filter(is_frozen, wanted):
        if not np.array_equal(found[name], wanted[name]):
            raise Mismatch(f"`aggregate: freeze_a` needs one A for all clients, and `{name}` is another")


def shares(rows: Sequence[int]) -> NDArray[np.float64]:
    """Return the weight of each client: its share of all rows."""
    counts = np.array(rows, dtype=np.float64)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _mean(adapters: Sequence[Tensors], weights: NDArray[np.float64], name: str) -> Array:
    total = sum(weight * each[name].astype(np.float64) for weight, each in zip(weights, adapters, strict=True))
    return np.asarray(total, dtype=np.float32)


def _stacked(adapters: Sequence[Tensors], weights: NDArray[np.float64]) -> dict[str, Array]:
    """Return the best adapter of the same rank for the mean of BA of each module; other tensors are averaged."""
    result: dict[str, Array] = {}
    for name in adapters[0]:
        if A in name and (partner := name.replace(A, B)) in adapters[0]:
            result[partner], result[name] = factor(
                [each[partner] for each in adapters], [each[name] for each in adapters], weights
            )
        elif not (B in name and name.replace(B, A) in adapters[0]):
            result[name] = _mean(adapters, weights, name)
    return {name: result[name] for name in adapters[0]}


def factor(bs: Sequence[Array], as_: Sequence[Array], weights: NDArray[np.float64]) -> tuple[Array, Array]:
    """Return B and A of one client's rank r whose product is nearest to the weighted mean of BA.

    The product is never formed: ranks are stacked, and a singular value decomposition acts on small matrices. The rows
    of A are as long as the clients' rows on average. So steps on A and B stay as large as they were. A direction
    without a singular value keeps its row of A, so that it can still learn.

    Args:
        bs: B of each client, (outputs, r).
        as_: A of each client, (r, inputs).
        weights: Of the clients; their sum is 1.
    """
    rank = as_[0].shape[0]
    tall = np.concatenate([w * b.astype(np.float64) for w, b in zip(weights, bs, strict=True)], axis=1)
    wide = np.concatenate([a.astype(np.float64) for a in as_], axis=0)
    left, inner_left = np.linalg.qr(tall)
    right, inner_right = np.linalg.qr(wide.T)
    u, values, v = np.linalg.svd(inner_left @ inner_right.T, full_matrices=True)
    found = min(rank, len(values))
    length = float(np.mean(np.linalg.norm(wide, axis=1))) or 1.0
    b = np.zeros((tall.shape[0], rank))
    b[:, :found] = (left @ u[:, :found]) * values[:found] / length
    directions = right @ v[: min(rank, v.shape[0])].T
    a = np.array(as_[0], dtype=np.float64)  # rows beyond the matrix's own rank
    a[: directions.shape[1]] = directions.T * length
    return b.astype(np.float32), a.astype(np.float32)
