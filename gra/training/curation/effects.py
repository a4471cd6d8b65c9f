"""Measure what a curation did: by length, to the diversity of the rows, and beside simpler filters of equal size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.stats.agreement import length_bias
from gra.stats.dynamics import LearningDynamics

Table = NDArray[np.float64]
_BUCKETS = 4
_DRAWS = 20


@dataclass(frozen=True)
class Effects:
    """What a curation did.

    Attributes:
        lengths: by quarter of the answer tokens: smallest, largest, rows, dropped rows.
        diversity: distinct word pairs a word pair: of rows drawn at random (as many as are kept), and of kept rows.
        length_bias: rank correlation of confidence with answer tokens; None where either is constant.
        same_as_last: share of the dropped rows that the last checkpoint's likelihood alone would drop, too.
    """

    lengths: list[list[float]]
    diversity: tuple[float, float]
    length_bias: float | None
    same_as_last: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_effects(
    answers: Sequence[str], dynamics: LearningDynamics, last: Table, tokens: Table, out: NDArray[np.bool_]
) -> Effects:
    """Measure what a curation did.

    Args:
        answers: of all rows.
        dynamics: of all rows.
        last: probability of each answer at the last checkpoint.
        tokens: answer tokens of all rows.
        out: which rows are dropped.
    """
    pairs = [word_pairs(text) for text in answers]
    kept = np.flatnonzero(~out)
    random = np.random.default_rng(0)
    drawn = [distinct([pairs[row] for row in random.permutation(len(pairs))[: len(kept)]]) for _ in range(_DRAWS)]
    known = ~np.isnan(dynamics.confidence) & ~np.isnan(tokens)
    bias = length_bias(dynamics.confidence[known], tokens[known]) if known.sum() > 1 else float("nan")
    lowest = np.argsort(np.where(np.isnan(last), np.inf, last), kind="stable")[: int(out.sum())]
    return Effects(
        _by_length(tokens, out),
        (float(np.mean(drawn)), distinct([pairs[row] for row in kept])),
        None if np.isnan(bias) else float(bias),
        float(out[lowest].mean()) if lowest.size else None,
    )


def word_pairs(text: str) -> list[tuple[str, str]]:
    """Return the pairs of neighboring words of a text, in lower case."""
    words = re.findall(r"\w+", text.casefold())
    return list(pairwise(words))


def distinct(rows: Sequence[Sequence[tuple[str, str]]]) -> float:
    """Return distinct word pairs a word pair (distinct-2, Li et al. 2016); 0 without any.

    It falls with the number of rows, so compare equal numbers.
    """
    total = sum(map(len, rows))
    return len({pair for row in rows for pair in row}) / total if total else 0.0


def _by_length(tokens: Table, out: NDArray[np.bool_]) -> list[list[float]]:
    order = np.argsort(tokens, kind="stable")
    order = order[~np.isnan(tokens[order])]
    parts = [part for part in np.array_split(order, _BUCKETS) if part.size]
    return [
        [float(tokens[part[0]]), float(tokens[part[-1]]), float(part.size), float(out[part].sum())] for part in parts
    ]
