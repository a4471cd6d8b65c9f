"""Draw rows of a dataset for training, so that students of several datasets see equally many."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from gra.core.files import atomic_path
from gra.core.hashing import digest


def draw_rows(source: Path, target: Path, count: int, *, best: bool = False) -> tuple[int, int]:
    """Write some rows of a dataset into another file, in the order of the dataset.

    Rows are drawn by a digest of their prompts. So a smaller draw is part of a larger one, and datasets that share
    instructions share drawn ones.

    Args:
        source: the dataset, with a column `prompt`; with `best` also `domain` and `score`.
        target: the file to write.
        count: how many rows to draw; all there are, where there are fewer.
        best: take the rows with the highest scores, as many of each domain as would be drawn without.

    Returns:
        The drawn rows, and those of the dataset.
    """
    table = pq.read_table(source)
    keys = [digest(["rows", prompt]) for prompt in table.column("prompt").to_pylist()]
    chosen = sorted(range(len(keys)), key=lambda place: (keys[place], place))[:count]
    if best:
        chosen = _best(table.column("domain").to_pylist(), table.column("score").to_pylist(), keys, chosen)
    with atomic_path(target) as temporary:
        pq.write_table(table.take(sorted(chosen)), temporary, compression="zstd")
    return len(chosen), len(keys)


def _best(
    domains: Sequence[str], scores: Sequence[float | None], keys: Sequence[str], drawn: Sequence[int]
) -> list[int]:
    """Return the places of the rows with the highest scores, as many of each domain as are drawn."""
    wanted = Counter(domains[place] for place in drawn)
    chosen: list[int] = []
    scored = [-math.inf if score is None else score for score in scores]
    for place in sorted(range(len(keys)), key=lambda place: (-scored[place], keys[place], place)):
        if wanted[domains[place]]:
            wanted[domains[place]] -= 1
            chosen.append(place)
    return chosen
