"""Rows of JSONL, JSON, Parquet and CSV files as they stand, each with its place; nothing is converted.

A cell of a CSV file stays text. A row that cannot be read is a `BadRow`, and reading goes on after it.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.core.hashing import canonical_json

Row = dict[str, Any]
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
_CELL = 16 << 20  # characters in the largest cell of a CSV file


@dataclass(frozen=True)
class BadRow:
    """What is wrong with a row."""

    problem: str


@dataclass(frozen=True)
class PlacedRow:
    """A row, or what is wrong with it; its place in the file as a person finds it; and its number, from 1."""

    where: str
    number: int
    row: Row | BadRow


def read_rows(path: Path) -> Iterator[PlacedRow]:
    """The rows of a file, by its ending; its number is the line in JSONL and CSV, the row's place in the others.

    Raises:
        DataError: when the file as a whole cannot be read.
    """
    readers: dict[str, Callable[[Path], Iterator[PlacedRow]]] = {
        ".jsonl": _jsonl, ".jsonl.gz": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv
    }  # fmt: skip
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), None)
    if ending is None:
        raise DataError(f"the file {path} ends in none of {', '.join(ENDINGS)}, so its form is not known")
    try:
        yield from readers[ending](path)
    except UnicodeDecodeError:
        raise DataError(f"{path}:{_not_text(path)}: not UTF-8 text; save the file as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the file {path} cannot be read: {error}") from None


def _not_text(path: Path) -> int:
    """The first line that is not UTF-8."""
    with _opener(path)(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _opener(path: Path) -> Callable[..., Any]:
    return gzip.open if path.suffix.lower() == ".gz" else open


def _jsonl(path: Path) -> Iterator[PlacedRow]:
    with _opener(path)(path, "rt", encoding="utf-8-sig", newline="\n") as lines:  # U+2028 does not end a line
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield PlacedRow(f"{path}:{number}", number, _parsed(line))


def _parsed(line: str) -> Row | BadRow:
    try:
        return _checked(json.loads(line))
    except json.JSONDecodeError as error:
        return BadRow(f"not valid JSON ({error.msg}, column {error.colno})")
    except RecursionError:
        return BadRow("not valid JSON (nested too deeply)")
    except ValueError:
        return BadRow("not valid JSON (a number with thousands of digits)")


def _checked(data: Any) -> Row | BadRow:
    if not isinstance(data, dict):
        return BadRow("a row must be a JSON object")
    try:
        canonical_json(data).encode()
    except ValueError as error:
        return BadRow(f"not text that can be asked about ({error})")  # NaN, or half of a surrogate pair
    return data


def _json(path: Path) -> Iterator[PlacedRow]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno})") from None
    except UnicodeDecodeError:
        raise
    except (RecursionError, ValueError):
        raise DataError(f"{path}: not valid JSON (nested too deeply, or a number with thousands of digits)") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: a .json file is one list of objects; name a file with one a line .jsonl")
    for number, row in enumerate(rows, start=1):
        yield PlacedRow(f"{path}, row {number}", number, _checked(row))


def _parquet(path: Path) -> Iterator[PlacedRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _each_once(path, names)
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                columns = [_values(path, name, batch.column(name)) for name in names]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield PlacedRow(f"{path}, row {number}", number, dict(zip(names, cells, strict=True)))
    except pa.ArrowException as error:
        raise DataError(f"the file {path} cannot be read: {error}") from None


def _values(path: Path, name: str, column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError) as error:  # not UTF-8, or a time that no calendar has
        raise DataError(f"{path}: the column `{name}` cannot be read ({error}); repair it, or take it out") from None


def _each_once(where: object, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two columns have the same name ({', '.join(names)})")


def _csv(path: Path) -> Iterator[PlacedRow]:
    csv.field_size_limit(_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = reader.fieldnames or []
        except csv.Error as error:
            raise DataError(f"{path}:1: not valid CSV ({error})") from None
        _each_once(f"{path}:1", names)
        while True:
            first = reader.reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # Behind a quotation mark that nothing closes other rows are hidden: as many as lines, for all we know.
                last = reader.reader.line_num
                span = f" in the row from line {first} to {last}" if last > first else ""
                for number in range(first, last + 1):
                    yield PlacedRow(f"{path}:{number}", number, BadRow(f"not valid CSV ({error}{span})"))
                continue
            fits = None not in row and None not in row.values()
            number = reader.line_num  # where the row ends; a cell may hold line breaks
            yield PlacedRow(f"{path}:{number}", number, row if fits else BadRow(f"does not have {len(names)} cells"))
