"""Seeds from a JSONL file: typed rows, and one clear list of the rows that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.core.manifest import canonical_json
from gra.core.records import Seed

_REQUIRED = ("instruction", "response")
_SHOWN = 10  # problems listed before "and N more"


def load_seeds(path: Path, domains: list[str], limit: int | None = None) -> list[Seed]:
    """Read seed rows: `instruction`, `response`, and optionally `domain`, `id`, `keywords` (three), `summary`.

    A row without a domain gets one from a model before it becomes a parent.

    Raises:
        DataError: naming every malformed row with file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would cut at U+2028 too
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the seed file {path} cannot be read: {error}") from None
    seeds: list[Seed] = []
    problems: list[str] = []
    used: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line, number, domains)
        if isinstance(row, str):
            problems.append(f"{path}:{number}: {row}")
        elif row.id in used:
            problems.append(f"{path}:{number}: the id `{row.id}` is already used on line {used[row.id]}")
        else:
            used[row.id] = number
            seeds.append(row)
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{len(problems)} of {len(problems) + len(seeds)} seed rows cannot be used:\n  "
            + "\n  ".join(problems[:_SHOWN])
            + more
        )
    if not seeds:
        raise DataError(f"the seed file {path} has no rows")
    return seeds[:limit]


def _row(line: str, number: int, domains: list[str]) -> Seed | str:
    """A seed, or what is wrong with the row."""
    try:
        data: Any = json.loads(line)
        canonical_json(data).encode()
    except json.JSONDecodeError as error:
        return f"not valid JSON ({error.msg}, column {error.colno})"
    except ValueError as error:
        return f"not text that can be asked about ({error})"  # NaN, or half of a surrogate pair
    if not isinstance(data, dict):
        return "a row must be a JSON object"
    for key in _REQUIRED:
        if not isinstance(data.get(key), str) or not data[key].strip():
            return f"`{key}` is missing, empty or not text"
    domain = data.get("domain") or ""
    if domain and domain not in domains:
        return f"`domain` is {domain!r}; the recipe's domains are {', '.join(domains)}"
    keywords, summary = data.get("keywords") or [], data.get("summary") or ""
    if keywords and not (
        isinstance(keywords, list) and len(keywords) == 3 and all(isinstance(k, str) and k.strip() for k in keywords)
    ):
        return "`keywords` must be a list of three texts, or left out"
    if not isinstance(summary, str):
        return "`summary` must be text, or left out"
    identity = data.get("id", f"seed-{number:06d}")
    if not isinstance(identity, str):
        return "`id` must be text, or left out"
    return Seed(identity, domain, data["instruction"].strip(), data["response"].strip(), tuple(keywords), summary)
