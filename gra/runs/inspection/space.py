"""Measure embedded instructions of seeds and arms: how varied they are, and which regions of the seeds they miss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gra.core.rng import rng
from gra.data.dedup.nearest import Matrix
from gra.runs.inspection.columns import InspectedColumn, InspectedRow, drawn
from gra.stats.diversity import coverage, find_regions, nearest_cosines, vendi_score

Embed = Callable[[Sequence[str]], Matrix]
MOST_EMBEDDED = 1000  # rows a column: a processor core embeds one or two hundred a second
NEIGHBORS = 5
_MOST_REGIONS = 12
_DRAWS = 5
_LEAST_EQUAL = 8  # rows below which the Vendi score of equally many rows says nothing


@dataclass(frozen=True)
class SpaceFigures:
    """Describe the embedded instructions of one column; cosines are medians.

    Attributes:
        embedded: how many rows were embedded.
        vendi: the effective number of different rows among them.
        vendi_equal: the mean of the same over `Space.equal` rows; None for a column with fewer.
        nearest: to the most similar other row of the column; None for a single row.
        nearest_seed: to the most similar seed; None without seeds, and for the seeds.
        coverage: the share of seeds with a row nearby; None for the seeds, or with too few seeds.
    """

    embedded: int
    vendi: float
    vendi_equal: float | None
    nearest: float | None
    nearest_seed: float | None
    coverage: float | None


@dataclass(frozen=True)
class Region:
    """Describe a region of the seeds.

    Attributes:
        typical: the instruction of the seed nearest to its center.
        domain: of that seed.
        rows: how many rows of each column lie in it, by the column's name.
    """

    typical: str
    domain: str
    rows: dict[str, int]


@dataclass(frozen=True)
class Space:
    """Hold what the embeddings show.

    Attributes:
        figures: by column.
        regions: of the seeds, most seeds first; empty without seeds.
        equal: how many rows of each column `vendi_equal` is of; None where the columns are of one size.
        points: the first two principal axes of the seeds, shape (rows, 2) by column.
        region_points: where the typical seeds are, shape (regions, 2).
    """

    figures: list[SpaceFigures]
    regions: list[Region]
    equal: int | None
    points: list[NDArray[np.float64]]
    region_points: NDArray[np.float64]


def measure_space(columns: Sequence[InspectedColumn], embed: Embed) -> Space:
    """Embed the instructions of all columns, equal texts once, and measure them.

    Args:
        columns: the seeds first, where there are any; each with at least one row.
        embed: returns unit rows.
    """
    rows = [drawn(column.rows, MOST_EMBEDDED) for column in columns]
    vectors = _vectors(rows, embed)
    has_seeds = columns[0].arm is None
    seeds = vectors[0] if has_seeds else None
    sizes = {len(found) for found in vectors if len(found) >= _LEAST_EQUAL}
    equal = min(sizes) if len(sizes) > 1 else None
    figures = [
        SpaceFigures(
            embedded=len(found),
            vendi=vendi_score(found),
            vendi_equal=_equal_vendi(found, equal) if equal and len(found) >= equal else None,
            nearest=_median(nearest_cosines(found)),
            nearest_seed=_median((found @ seeds.T).max(axis=1)) if seeds is not None and place else None,
            coverage=coverage(seeds, found, NEIGHBORS) if seeds is not None and place else None,
        )
        for place, found in enumerate(vectors)
    ]
    flat = _flattened(vectors)
    if seeds is None:
        return Space(figures, [], equal, flat, np.empty((0, 2)))
    regions, typical = _regions(columns, rows[0], vectors)
    return Space(figures, regions, equal, flat, flat[0][typical])


def _vectors(rows: Sequence[Sequence[InspectedRow]], embed: Embed) -> list[Matrix]:
    texts = list(dict.fromkeys(row.instruction for column in rows for row in column))
    places = {text: place for place, text in enumerate(texts)}
    known = embed(texts)
    return [known[[places[row.instruction] for row in column]] for column in rows]


def _equal_vendi(vectors: Matrix, count: int) -> float:
    """Return the mean Vendi score of `count` rows drawn at random: the score grows with the number of rows."""
    if len(vectors) == count:
        return vendi_score(vectors)
    random = rng(count, "vendi")
    draws = [random.sample(range(len(vectors)), count) for _ in range(_DRAWS)]
    return float(np.mean([vendi_score(vectors[places]) for places in draws]))


def _regions(
    columns: Sequence[InspectedColumn], seeds: Sequence[InspectedRow], vectors: Sequence[Matrix]
) -> tuple[list[Region], NDArray[np.intp]]:
    """Divide the seeds into regions, and count every column's rows in each."""
    wanted = int(np.clip(round(float(np.sqrt(len(seeds) / 2))), 2, _MOST_REGIONS))
    found = find_regions(vectors[0], wanted)
    assigned = [found.members, *(found.assign(each) for each in vectors[1:])]
    counts = np.stack([np.bincount(each, minlength=len(found.centers)) for each in assigned])
    order = np.argsort(-counts[0], kind="stable")
    regions = [
        Region(
            seeds[int(found.typical[place])].instruction,
            seeds[int(found.typical[place])].domain,
            {column.name: int(count) for column, count in zip(columns, counts[:, place], strict=True)},
        )
        for place in order
    ]
    return regions, found.typical[order]


def _flattened(vectors: Sequence[Matrix]) -> list[NDArray[np.float64]]:
    """Project all rows on the two principal axes of the first column."""
    base = vectors[0].astype(np.float64)
    center = base.mean(axis=0)
    _, _, axes = np.linalg.svd(base - center, full_matrices=False)
    plane = np.zeros((2, base.shape[1]))
    plane[: min(2, len(axes))] = axes[:2]
    return [(each - center) @ plane.T for each in vectors]


def _median(values: NDArray[np.floating]) -> float | None:
    return float(np.median(values)) if len(values) else None
