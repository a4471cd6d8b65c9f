"""Read the data file of a task: JSON Lines, one sample a line; a wrong line is named with its file and number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.core.files import read_regular
from gra.core.hashing import canonical_json

Row = Mapping[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield "file:line" and the content of each line that is not empty.

    Raises:
        DataError: for a file or a line that cannot be read.
    """
    try:
        lines = read_regular(path, "utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the file cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        yield f"{path}:{number}", parse_row(line, f"{path}:{number}")


def parse_row(line: str, where: str) -> dict[str, Any]:
    """Read one line of JSON Lines.

    Args:
        line: the line.
        where: "file:line", for messages.

    Raises:
        DataError: when it is no JSON object, or holds half of a surrogate pair.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: this line is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row is a JSON object, this line is not")
    try:
        canonical_json(row).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: this row holds half of a surrogate pair (such as \\ud83d alone), which is no character; "
            "write the whole character"
        ) from None
    except ValueError:
        raise DataError(f"{where}: this line is not JSON (NaN and Infinity are no JSON numbers)") from None
    return row


def text_field(row: Row, key: str, where: str) -> str:
    """Return a text that must be there.

    Raises:
        DataError: when it is missing, empty or no text.
    """
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: `{key}` must be a text that is not empty")
    return value


def label_field(row: Row, key: str, where: str) -> str:
    """Return a text that may be missing; the default is empty.

    Raises:
        DataError: when it is no text.
    """
    value = row.get(key, "")
    if not isinstance(value, str):
        raise DataError(f"{where}: `{key}` must be a text")
    return value
