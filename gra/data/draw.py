"""Draw rows of a dataset for training, so that students of several datasets see equally many."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from gra.checks.instruction_constraints import read_constraints
from gra.core.files import atomic_path
from gra.core.hashing import digest
from gra.stats.apportion import apportion

_THIRDS = 3
_TRAITS = ("domain", "form", "length")


@dataclass(frozen=True)
class Proportions:
    """How often each value of a trait occurs in other rows, such as the seeds.

    Attributes:
        traits: by trait (`domain`, `form`, `length`), the number of rows with each value. Rows without a domain do not
            count for the domains.
        lengths: the most words of a response in the first and in the second third of the rows.
    """

    traits: Mapping[str, Mapping[Hashable, int]]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, str]]) -> Proportions:
        """Count the traits of rows, given by domain, instruction and response."""
        words = sorted(len(response.split()) for _, _, response in rows)
        lengths = tuple(words[len(words) * third // _THIRDS - 1] for third in range(1, _THIRDS)) if words else ()
        found = [traits_of(*row, lengths) for row in rows]
        traits = {name: Counter(each[name] for each in found if each[name] != "") for name in _TRAITS}
        return cls({name: counts for name, counts in traits.items() if counts}, lengths)


def traits_of(domain: str, instruction: str, response: str, lengths: Sequence[int]) -> dict[str, Hashable]:
    """Return a row's domain, whether its instruction states a format constraint, and its third of the lengths."""
    form = bool(read_constraints(instruction))
    return {"domain": domain, "form": form, "length": bisect_left(lengths, len(response.split()))}


def draw_rows(
    source: Path, target: Path, count: int, *, best: bool = False, like: Proportions | None = None
) -> tuple[int, int]:
    """Write some rows of a dataset into another file, in the order of the dataset.

    Rows are drawn by a digest of their prompts. So a smaller draw is part of a larger one, and datasets that share
    instructions share drawn ones. Neither holds with `best` or `like`.

    Args:
        source: the dataset, with a column `prompt`; with `best` also `domain` and `score`, with `like` `domain` and
            `completion`.
        target: the file to write.
        count: how many rows to draw; all there are, where there are fewer.
        best: take the rows with the highest scores, as many of each domain as would be drawn without.
        like: the proportions that the drawn rows are to have, as far as there are such rows.

    Returns:
        The drawn rows, and those of the dataset.
    """
    table = pq.read_table(source)
    keys = [digest(["rows", prompt]) for prompt in table.column("prompt").to_pylist()]
    chosen = sorted(range(len(keys)), key=lambda place: (keys[place], place))[:count]
    if best:
        chosen = _best(table.column("domain").to_pylist(), table.column("score").to_pylist(), keys, chosen)
    elif like is not None:
        columns = (table.column(name).to_pylist() for name in ("domain", "prompt", "completion"))
        traits = [
            traits_of(domain, prompt[-1]["content"], completion[-1]["content"], like.lengths)
            for domain, prompt, completion in zip(*columns, strict=True)
        ]
        chosen = _alike(traits, keys, like, count)
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


def _alike(traits: Sequence[Mapping[str, Hashable]], keys: Sequence[str], like: Proportions, count: int) -> list[int]:
    """Return the places of rows with about the proportions of other data.

    Rows are taken one by one: next is the first one with most values that are still short of their share.
    """
    short = {name: Counter(apportion(counts, count)) for name, counts in like.traits.items()}
    alike: dict[tuple[Hashable, ...], deque[int]] = {}  # the places of rows with equal traits
    order = {place: rank for rank, place in enumerate(sorted(range(len(keys)), key=lambda place: (keys[place], place)))}
    for place in order:
        alike.setdefault(tuple(traits[place][name] for name in short), deque()).append(place)

    def rank(values: tuple[Hashable, ...]) -> tuple[int, int]:
        missing = sum(short[name][value] > 0 for name, value in zip(short, values, strict=True))
        return -missing, order[alike[values][0]]

    chosen: list[int] = []
    while alike and len(chosen) < count:
        best = min(alike, key=rank)
        chosen.append(alike[best].popleft())
        if not alike[best]:
            del alike[best]
        for name, value in zip(short, best, strict=True):
            short[name][value] -= 1
    return chosen
