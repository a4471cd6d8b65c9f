"""Draw rows of a dataset for training, so that students of several datasets see equally many."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from gra.core.files import atomic_path
from gra.core.hashing import digest


def draw_rows(source: Path, target: Path, count: int) -> tuple[int, int]:
    """Write some rows of a dataset into another file, in the order of the dataset.

    Rows are drawn by a digest of their prompts. So a smaller draw is part of a larger one, and datasets that share
    instructions share drawn ones.

    Args:
        source: the dataset, with a column `prompt`.
        target: the file to write.
        count: how many rows to draw; all there are, where there are fewer.

    Returns:
        The drawn rows, and those of the dataset.
    """
    table = pq.read_table(source)
    keys = [digest(["rows", prompt]) for prompt in table.column("prompt").to_pylist()]
    chosen = sorted(sorted(range(len(keys)), key=lambda place: (keys[place], place))[:count])
    with atomic_path(target) as temporary:
        pq.write_table(table.take(chosen), temporary, compression="zstd")
    return len(chosen), len(keys)
