"""Write the control items of a run with what reviewers said of them: `control_items.parquet`.

The file has the form of training rows, so it can also train a critic: an adapter of a reviewer's weights that answers
whether a response is correct.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.files import atomic_path
from gra.data.export import MESSAGES, writable

CONTROL_ITEMS = "control_items.parquet"
# `scores` holds raw scores by reviewer, in JSON.
SCHEMA = pa.schema(
    [
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
        ("id", pa.string()),
        ("kind", pa.string()),
        ("right", pa.bool_()),
        ("instruction", pa.string()),
        ("response", pa.string()),
        ("author", pa.string()),
        ("scores", pa.string()),
    ]
)


def export_control_items(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write the file into a run folder.

    Args:
        folder: the run folder.
        rows: with the columns of SCHEMA.
    """
    path = folder / CONTROL_ITEMS
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([writable(row) for row in rows], schema=SCHEMA), temporary)
    return path
