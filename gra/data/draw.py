"""Draw rows of a dataset for training, so that students of several datasets see equally many."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from gra.checks.instruction_constraints import read_constraints
from gra.core.files import atomic_path
from gra.core.hashing import digest
from gra.stats.apportion import apportion

Kind = tuple[str, bool]  # the domain of a row, and whether its instruction states a format constraint


def kinds_of(rows: Iterable[tuple[str, str]]) -> list[Kind]:
    """Return the kind of each row, given by domain and instruction."""
    return [(domain, bool(read_constraints(instruction))) for domain, instruction in rows]


def draw_rows(
    source: Path, target: Path, count: int, *, best: bool = False, like: Mapping[Kind, int] | None = None
) -> tuple[int, int]:
    """Write some rows of a dataset into another file, in the order of the dataset.

    Rows are drawn by a digest of their prompts. So a smaller draw is part of a larger one, and datasets that share
    instructions share drawn ones.

    Args:
        source: the dataset, with a column `prompt`; with `best` also `domain` and `score`, with `like` also `domain`.
        target: the file to write.
        count: how many rows to draw; all there are, where there are fewer.
        best: take the rows with the highest scores, as many of each domain as would be drawn without.
        like: how often each kind of row occurs in other data, which the drawn rows are to resemble.

    Returns:
        The drawn rows, and those of the dataset.
    """
    table = pq.read_table(source)
    keys = [digest(["rows", prompt]) for prompt in table.column("prompt").to_pylist()]
    chosen = sorted(range(len(keys)), key=lambda place: (keys[place], place))[:count]
    if best:
        chosen = _best(table.column("domain").to_pylist(), table.column("score").to_pylist(), keys, chosen)
    elif like:
        instructions = [prompt[-1]["content"] for prompt in table.column("prompt").to_pylist()]
        kinds = kinds_of(zip(table.column("domain").to_pylist(), instructions, strict=True))
        chosen = _alike(kinds, keys, like, count)
    with atomic_path(target) as temporary:
        pq.write_table(table.take(sorted(chosen)), temporary, compression="zstd")
    return len(chosen), len(keys)


def _best(
    domains: Sequence[str], scores: Sequence[float | None], keys: Sequence[str], drawn: Sequence[int]
) -> list[int]:
    """Return the places of the rows with the highest scores, as many of each domain as are drawn."""
    wanted = Counter(domains[place] for place in drawn)
    chosen: list[int] = []
    scored = [-math.inf if score is None else score for score in scores]
    for place in sorted(range(len(keys)), key=lambda place: (-scored[place], keys[place], place)):
        if wanted[domains[place]]:
            wanted[domains[place]] -= 1
            chosen.append(place)
    return chosen


def _alike(kinds: Sequence[Kind], keys: Sequence[str], like: Mapping[Kind, int], count: int) -> list[int]:
    """Return the places of rows whose kinds have the shares of other data, as far as there are such rows.

    Where a kind has too few rows, other domains give rows that agree about format constraints, and then all others.
    """
    order = sorted(range(len(keys)), key=lambda place: (keys[place], place))
    wanted = Counter(apportion(like, count))
    chosen: dict[int, None] = {}
    for place in order:
        if wanted[kinds[place]] > 0:
            wanted[kinds[place]] -= 1
            chosen[place] = None
    missing = Counter[bool]()
    for (_, constrained), rows in wanted.items():
        missing[constrained] += max(0, rows)
    for place in order:
        if place not in chosen and missing[kinds[place][1]] > 0:
            missing[kinds[place][1]] -= 1
            chosen[place] = None
    for place in order:
        if len(chosen) < count:
            chosen[place] = None
    return list(chosen)
