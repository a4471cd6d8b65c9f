"""Write and read what a federation sends: the tensors of an adapter, row counts and metrics, and nothing else.

A message is a safetensors file in memory. Its header has one entry with the round, the rows and the metrics, which are
numbers. A reader refuses everything else, so that no other program can send text in one.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gra.core.errors import Mismatch
from gra.core.hashing import canonical_json
from gra.training.federation.aggregate import Array, Tensors

_ENTRY = "gra"
_LARGEST = 2**53  # of a count, so that a float can hold it
# Figures of local training that a client sends.
METRICS = ("loss_first", "loss", "eval_loss", "steps", "tokens", "seconds")


@dataclass(frozen=True)
class AdapterMessage:
    """An adapter on its way: to a client before a round, or from it after the round.

    Attributes:
        round: counted from 0.
        tensors: the adapter.
        rows: that it learned from; 0 on the way to a client.
        metrics: figures of `METRICS`.
    """

    round: int
    tensors: Tensors
    rows: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the message as bytes, the same for the same content."""
        head = {"round": self.round, "rows": self.rows, "metrics": self.metrics}
        return bytes(save(dict(self.tensors), metadata={_ENTRY: canonical_json(head)}))


def read_message(data: bytes, like: Tensors | None = None) -> AdapterMessage:
    """Read a message.

    Args:
        data: The bytes.
        like: An adapter whose names and shapes the tensors must have.

    Raises:
        Mismatch: It is no message of a federation, or of another adapter, or has a number that is not finite.
    """
    try:
        entries = _header(data)["__metadata__"]
        head = json.loads(entries.pop(_ENTRY))
        tensors: dict[str, Array] = load(data)
        message = AdapterMessage(
            _count(head.pop("round")), tensors, _count(head.pop("rows")),
            {str(name): _figure(name, value) for name, value in head.pop("metrics").items()},
        )  # fmt: skip
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Mismatch(f"this is no message of a federation ({type(error).__name__})") from None
    if head or entries:
        raise Mismatch("this is no message of a federation (it has further entries)")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise Mismatch(f"`{name}` holds {tensor.dtype} and not float32")
        if not np.isfinite(tensor).all():
            raise Mismatch(f"`{name}` holds numbers that are not finite; training diverged")
    if like is not None and _shapes(like) != _shapes(tensors):
        raise Mismatch("the adapter has other tensors than the one that was sent; use one recipe everywhere")
    return message


def adapter_digest(tensors: Tensors) -> str:
    """Return the SHA-256 of an adapter's names, shapes and values."""
    return hashlib.sha256(save(dict(tensors))).hexdigest()


def _header(data: bytes) -> dict[str, dict[str, str]]:
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]))


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError("no count")
    return value


def _figure(name: str, value: object) -> float:
    if name not in METRICS or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no figure")
    return float(value)


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}
