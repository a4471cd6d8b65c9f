"""Read a lineage file: one row a candidate, or the candidates themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gra.core.errors import DataError
from gra.core.stored.lineage import Lineage
from gra.core.stored.reader import check_type
from gra.core.stored.release_0_1 import read_rejected_at
from gra.core.types import Candidate, verifier_mode

GROUP = 4096  # rows in memory at a time, and in a row group of a file
# Nested records travel as canonical JSON.
JSON_COLUMNS = ("checks", "programs", "reviews", "ruling", "drafts", "contamination", "usage", "decisions")
_ABSENT = {"ruling": "null", "contamination": "null", "usage": "{}"}  # of the others: an empty list
REVIEWERS_AGREE = "reviewers agree"  # a reason
# Columns that a Candidate does not hold.
_LINEAGE_ONLY = ("candidate_id", "prompt_tokens", "completion_tokens")


def lineage_batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield lineage rows with their nested records parsed, a few thousand at a time.

    Raises:
        DataError: the file is damaged, or no lineage.
    """
    try:
        for batch in pq.ParquetFile(path).iter_batches(GROUP):
            yield parse_rows(batch.to_pylist(), path)
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); see `gra verify {path.parent}`") from None


def parse_rows(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Parse the nested records of lineage rows.

    Raises:
        DataError: the rows are none of a lineage.
        ValueError: a nested record is no JSON.
    """
    # A lineage of an earlier version lacks the columns that came later.
    found = [
        {"rejected_at": read_rejected_at(row.get("reason") or "") or ""}
        | row
        | {name: json.loads(row.get(name) or _ABSENT.get(name, "[]")) for name in JSON_COLUMNS}
        for row in rows
    ]
    if found and not {"candidate_id", "state"} <= found[0].keys():
        raise DataError(f"{path} is no lineage (its columns are {', '.join(rows[0])})")
    return list(check_type(found, Lineage, path))


def read_lineage(path: Path) -> list[dict[str, Any]]:
    """Read all rows of a lineage.

    Raises:
        DataError: the file is damaged, or no lineage.
    """
    return [row for batch in lineage_batches(path) for row in batch]


def shown_reason(reason: str, row: Mapping[str, Any]) -> str:
    """Return a reason as it is shown: where one score alone decided, no reviewers agreed.

    Args:
        reason: of the row.
        row: as `read_lineage` gives it.
    """
    return "one reviewer alone" if reason == REVIEWERS_AGREE and is_scored_once(row) else reason


def is_scored_once(row: Mapping[str, Any]) -> bool:
    """Return whether a row, as `read_lineage` gives it, has one score: of a reviewer or of a scoring verifier."""
    verified = [v.get("score") for v in row["programs"] if verifier_mode(v["takes"]) == "score"]
    return len(row["reviews"]) + len(verified) - verified.count(None) == 1


def iter_candidates(path: Path) -> Iterator[Candidate]:
    """Yield the candidates of a lineage file.

    Raises:
        DataError: the file is damaged, or no lineage.
    """
    rows = (row | {"id": row["candidate_id"]} for batch in lineage_batches(path) for row in batch)
    try:
        for row in rows:
            yield Candidate.from_json({name: value for name, value in row.items() if name not in _LINEAGE_ONLY})
    except (KeyError, TypeError, ValueError) as error:  # records with other fields than a candidate has
        raise DataError(f"{path} is damaged ({error}); run the stage that writes it again") from None


def read_candidates(path: Path) -> list[Candidate]:
    """Read the candidates of a lineage file.

    Raises:
        DataError: the file is damaged, or no lineage.
    """
    return list(iter_candidates(path))
