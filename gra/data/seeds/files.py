"""Read the rows of JSONL, JSON, Parquet and CSV files with their places; nothing is converted.

A cell of a CSV file stays text. A row that cannot be read is a `BadRow`, and reading goes on after it. Files come from
strangers, so the size of a line, a cell and an unpacked file is limited.
"""

from __future__ import annotations

import csv
import gzip
import json
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.core.files import open_regular, refuse_irregular
from gra.core.hashing import canonical_json
from gra.core.text.lines import LONGEST_LINE, bounded_lines

Row = dict[str, Any]
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
_CELL = 16 << 20  # Characters in the largest cell of a CSV file.
_LARGEST_JSON = 1 << 30  # Bytes of a .json file, which is read as a whole.
_BATCH = 1 << 30  # Bytes that one batch of a Parquet file may take.

# A compressed file may unpack to this number of bytes, or to this multiple of its size.
_UNPACKED, _TIMES = 1 << 30, 200

_TOO_LONG = f"the line is longer than {LONGEST_LINE >> 20} MiB"


@dataclass(frozen=True)
class BadRow:
    """What is wrong with a row."""

    problem: str


@dataclass(frozen=True)
class PlacedRow:
    """A row or its problem, its place as a person finds it, and its number from 1."""

    where: str
    number: int
    row: Row | BadRow


def read_rows(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a file, by its ending.

    The number of a row is its line in JSONL and CSV files, and its position in the other formats.

    Raises:
        DataError: When the file as a whole cannot be read.
    """
    readers: dict[str, Callable[[Path], Iterator[PlacedRow]]] = {
        ".jsonl": _jsonl, ".jsonl.gz": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv
    }  # fmt: skip
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), None)
    if ending is None:
        raise DataError(f"the file {path} ends in none of {', '.join(ENDINGS)}, so its form is not known")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"the file {path} cannot be read: it is a folder or a device")
        yield from readers[ending](path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the file {path} cannot be read: {error}") from None


@dataclass
class _Unpacking:
    """Count the bytes that come out of a compressed file.

    A few kilobytes can unpack to gigabytes; a real file of text shrinks much less.
    """

    path: Path
    stream: Any = None
    unpacked: int = 0

    def add(self, count: int) -> None:
        """Count bytes.

        Raises:
            DataError: When they are too many for the size of the file.
        """
        self.unpacked += count
        if self.unpacked > max(_UNPACKED, _TIMES * self.path.stat().st_size):
            raise DataError(f"the file {self.path} unpacks to more than {_TIMES} times its size; unpack it yourself")

    def readline(self, most: int) -> bytes:
        """Read a line, or the first `most` bytes of it."""
        line: bytes = self.stream.readline(most)
        self.add(len(line))
        return line


def _lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Yield the lines of a text file with their numbers; None for a line that is too long.

    Raises:
        DataError: When a line is not UTF-8, or a compressed file unpacks to too much.
    """
    packed = path.suffix.lower() == ".gz"
    with open_regular(path) as file, gzip.open(file) if packed else file as stream:
        for number, line in bounded_lines(_Unpacking(path, stream) if packed else stream):
            try:
                text = None if line is None else line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{path}:{number}: not UTF-8 text; save the file as UTF-8") from None
            yield number, text


def _jsonl(path: Path) -> Iterator[PlacedRow]:
    for number, line in _lines(path):
        if line is None:
            yield PlacedRow(f"{path}:{number}", number, BadRow(_TOO_LONG))
        elif line.strip():
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
    except RecursionError:
        return BadRow("not valid JSON (nested too deeply)")
    except ValueError as error:
        return BadRow(f"not text that can be asked about ({error})")  # NaN, or half of a surrogate pair
    return data


def _json(path: Path) -> Iterator[PlacedRow]:
    if path.stat().st_size > _LARGEST_JSON:
        raise DataError(f"{path}: a .json file of more than {_LARGEST_JSON >> 30} GiB; write a .jsonl file")
    with open_regular(path) as file:
        content = file.read()
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno})") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
    except (RecursionError, ValueError):
        raise DataError(f"{path}: not valid JSON (nested too deeply, or a number with thousands of digits)") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: a .json file is one list of objects; name a file with one a line .jsonl")
    for number, row in enumerate(rows, start=1):
        yield PlacedRow(f"{path}, row {number}", number, _checked(row))


def _parquet(path: Path) -> Iterator[PlacedRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_irregular(path)
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _each_once(path, names)
            number, unpacking = 0, _Unpacking(path)
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
                unpacking.add(batch.nbytes)
                columns = [_values(path, name, batch.column(name)) for name in names]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield PlacedRow(f"{path}, row {number}", number, dict(zip(names, cells, strict=True)))
    except pa.ArrowException as error:
        raise DataError(f"the file {path} cannot be read: {error}") from None


def _batch_rows(metadata: Any) -> int:
    """Return how many rows to read at once: each may repeat the largest value of its column."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [group.column(at).total_uncompressed_size for group in groups for at in range(group.num_columns)]
    return int(min(1024, max(1, _BATCH // max([1, *sizes]))))


def _values(path: Path, name: str, column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError) as error:  # not UTF-8, or a time that no calendar has
        raise DataError(f"{path}: the column `{name}` cannot be read ({error}); repair it, or take it out") from None


def _each_once(where: object, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two columns have the same name ({', '.join(names)})")


def _csv_lines(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        if line is None:
            raise DataError(f"{path}:{number}: {_TOO_LONG}; split the file there")
        yield line


def _csv(path: Path) -> Iterator[PlacedRow]:
    csv.field_size_limit(_CELL)
    reader = csv.DictReader(_csv_lines(path), strict=True)
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
            # Behind a quotation mark that is never closed other rows are hidden: at most as many as lines.
            last = reader.reader.line_num
            span = f" in the row from line {first} to {last}" if last > first else ""
            for number in range(first, last + 1):
                yield PlacedRow(f"{path}:{number}", number, BadRow(f"not valid CSV ({error}{span})"))
            continue
        fits = None not in row and None not in row.values()
        number = reader.line_num  # where the row ends; a cell may hold line breaks
        yield PlacedRow(f"{path}:{number}", number, row if fits else BadRow(f"does not have {len(names)} cells"))
