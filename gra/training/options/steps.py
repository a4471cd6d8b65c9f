"""Count the optimizer steps of a run from rows, batch and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def steps(options: Mapping[str, Any], rows: int, processes: int) -> int:
    """Return the optimizer steps of a run over `rows` rows (after packing) on `processes` processes."""
    if options.get("max_steps", -1) > 0:
        return int(options["max_steps"])
    per_step: int = options.get("per_device_train_batch_size", 8) * processes
    batches: int = rows // per_step if options.get("dataloader_drop_last") else math.ceil(rows / per_step)
    updates: int = math.ceil(batches / options.get("gradient_accumulation_steps", 1))
    epochs: float = options.get("num_train_epochs", 3.0)
    return math.ceil(updates * epochs)


def effective_batch(options: Mapping[str, Any], processes: int) -> int:
    """Return the rows of one optimizer step."""
    rows: int = options.get("per_device_train_batch_size", 8) * options.get("gradient_accumulation_steps", 1)
    return rows * processes


def packed_rows(lengths: Sequence[int], options: Mapping[str, Any]) -> int:
    """Return how many rows TRL packs rows of these `lengths` (in tokens) into."""
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    rows = Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
    packed = pack_dataset(rows, options.get("max_length", 1024), options.get("packing_strategy", "bfd"))
    return len(packed)
