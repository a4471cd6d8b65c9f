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
from gra.core.text.characters import well_formed

CONTROL_ITEMS = "control_items.parquet"
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# `scores` holds raw scores by reviewer, in JSON.
SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("completion", _MESSAGES),
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
        pq.write_table(pa.Table.from_pylist([_writable(row) for row in rows], schema=SCHEMA), temporary)
    return path


def _writable(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: well_formed(value) for name, value in row.items() if isinstance(value, str)}
    messages = {
        name: [{key: well_formed(text) for key, text in message.items()} for message in row[name]]
        for name in ("prompt", "completion")
    }
    return {**row, **texts, **messages}
