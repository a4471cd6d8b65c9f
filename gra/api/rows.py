"""Accept rows as files, lists, data frames, datasets and runs, and write those in memory to a file.

The file's name holds a digest of its bytes. The same rows give the same file, so the same call resumes its run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from gra.api.paths import given_path
from gra.core.errors import DataError
from gra.core.files import atomic_path
from gra.core.text.characters import well_formed

Row = dict[str, Any]
_FORMS = "give a path, a list of rows, a pandas DataFrame, a Dataset of the library datasets, or a Run"


def rows_file(data: Any, folder: Path, stem: str) -> Path:
    """Return the file that holds some rows; rows in memory are written first.

    Args:
        data: a path, a run, or rows in memory.
        folder: where rows in memory are written, as `inputs/STEM-DIGEST.jsonl`.
        stem: what the rows are, for the name of the file.

    Returns:
        The path of a file that the readers of seeds and of training data understand.

    Raises:
        DataError: when `data` holds no rows, or a cell cannot be written as JSON.
    """
    if isinstance(data, str | os.PathLike):
        return given_path(data, stem)
    if hasattr(data, "dataset_file"):
        return Path(data.dataset_file("train"))
    lines = [_line(stem, number, row) for number, row in enumerate(_rows(data, stem), 1)]
    if not lines:
        raise DataError(f"{stem}: there are no rows; {_FORMS}")
    content = "".join(lines).encode()
    target = folder / "inputs" / f"{stem}-{sha256(content).hexdigest()[:16]}.jsonl"
    if not target.is_file() or target.read_bytes() != content:
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
    return target


def _rows(data: Any, stem: str) -> Iterable[Any]:
    """Return the rows of an object; its methods show its type, so that no library has to be imported."""
    if hasattr(data, "to_pylist"):  # a pyarrow table
        return list(data.to_pylist())
    if hasattr(data, "to_dicts"):  # polars
        return list(data.to_dicts())
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # pandas
        return list(data.to_dict("records"))
    if isinstance(data, Mapping):  # a DatasetDict, or one row
        parts = ", ".join(map(str, data))
        raise DataError(f"{stem}: this is a mapping with the keys {parts}; give one of its parts, or a list of rows")
    if isinstance(data, Iterable) and not isinstance(data, bytes | bytearray):
        return data  # a list, a generator or a dataset
    raise DataError(f"{stem}: a {type(data).__name__} has no rows; {_FORMS}")


def _line(stem: str, number: int, row: Any) -> str:
    if not isinstance(row, Mapping):
        raise DataError(
            f"{stem}: row {number} is a {type(row).__name__}; each row must be a mapping of names to values"
        )
    cells = {str(name): value for name, cell in row.items() if (value := _plain(cell)) is not None}
    try:
        line = json.dumps(cells, ensure_ascii=False, allow_nan=False, default=_plain_or_fail)
        # Half a surrogate pair cannot be encoded; written as an escape it reaches the reader, which judges it.
        return (line if well_formed(line) == line else json.dumps(json.loads(line))) + "\n"
    except TypeError as error:
        raise DataError(f"{stem}: row {number} holds a {error}, which is no text; turn it into text first") from None
    except ValueError as error:
        raise DataError(f"{stem}: row {number} cannot be written ({error}); repair it or leave it out") from None


def _plain(cell: Any) -> Any:
    """Return a cell as a plain Python value: NumPy types are converted, and missing values become None."""
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    missing = type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and math.isnan(cell))
    return None if missing else cell


def _plain_or_fail(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(type(value).__name__)
