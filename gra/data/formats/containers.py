"""Write and read records as JSONL, as a JSON list, or as CSV, one record at a time."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Record = Mapping[str, Any]
_LARGEST_FIELD = 2**31 - 1  # characters; the csv module refuses more than 131,072 by default
_FIELD_LIMIT = threading.Lock()  # the limit is one for the whole process


class Container(Protocol):
    """A kind of file that holds records."""

    suffix: str

    def write(self, path: Path, records: Iterable[Record]) -> int:
        """Write the records and return their number."""

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the records of a file."""


class JsonLines:
    """One JSON object a line."""

    suffix = "jsonl"

    def write(self, path: Path, records: Iterable[Record]) -> int:
        """Write the records and return their number."""
        count = 0
        with path.open("w", encoding="utf-8", newline="") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
        return count

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the records of a file."""
        # Other line breaks, such as U+2028, may stand inside a record.
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield json.loads(line)


class JsonList:
    """A JSON list of objects, with one object a line."""

    suffix = "json"

    def write(self, path: Path, records: Iterable[Record]) -> int:
        """Write the records and return their number."""
        count = 0
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write("[")
            for count, record in enumerate(records, 1):
                file.write((",\n" if count > 1 else "\n") + json.dumps(record, ensure_ascii=False))
            file.write("\n]\n")
        return count

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the records of a file that `write` wrote."""
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                if line not in ("[\n", "]\n", "\n"):
                    yield json.loads(line.removesuffix("\n").removesuffix(","))


class Csv:
    """A table with a header; every text is quoted, and a missing number is an empty field."""

    suffix = "csv"

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def write(self, path: Path, records: Iterable[Record]) -> int:
        """Write the records and return their number."""
        count = 0
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, self._columns, quoting=csv.QUOTE_ALL)
            table.writeheader()
            for record in records:
                table.writerow(record)
                count += 1
        return count

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the records of a file; every value is a text."""
        with _FIELD_LIMIT, path.open(encoding="utf-8", newline="") as file:
            before = csv.field_size_limit(_LARGEST_FIELD)
            try:
                yield from csv.DictReader(file)
            finally:
                csv.field_size_limit(before)
