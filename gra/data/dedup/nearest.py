"""Find the most similar rows by cosine, exactly, in blocks of float32 matrix products.

Pairs within rounding of a decision are decided by `cosine` in float64. So the size of blocks, the number of threads and
the BLAS never change an answer. Rows are unit vectors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Rows = NDArray[np.intp]
BLOCK = 1024  # rows compared at a time
_TILE = 512  # rows they are compared with at a time: the product of a block and a tile stays in a core's cache
_PAIRS = 8192  # pairs looked at in full at a time
_TIES = 8  # of the rows that are nearest up to rounding, how many are looked at again


class Vectors(Protocol):
    """A matrix, or what reads rows of one by their numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dimensions."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> Matrix: ...


def slack(dimensions: int) -> float:
    """Bound the error of a float32 dot product of unit vectors: gamma_n of Higham 2002, section 3.1, rounded up."""
    return (dimensions + 16) * 2.0**-24


def cosine(one: Matrix, other: Matrix) -> NDArray[np.float64]:
    """Return the cosine of each row with the same row of the other, in float64; every decision rests on it."""
    found: NDArray[np.float64] = np.einsum("ij,ij->i", one.astype(np.float64), other.astype(np.float64))
    return found


def reaches(products: Matrix, rows: Matrix, columns: Matrix, threshold: float) -> NDArray[np.bool_]:
    """Return which cosines are at or above a threshold, given their float32 products, shape (rows, columns)."""
    found: NDArray[np.bool_] = products >= threshold
    row, column = np.nonzero(np.abs(products - threshold) <= slack(rows.shape[1]))
    for start in range(0, len(row), _PAIRS):
        r, c = row[start : start + _PAIRS], column[start : start + _PAIRS]
        found[r, c] = cosine(rows[r], columns[c]) >= threshold
    return found


class Best:
    """For each of n rows the most similar other row so far, ties to the lower index; -inf and -1 if there is none."""

    def __init__(self, count: int) -> None:
        self.similarity = np.full(count, -np.inf)
        self.index = np.full(count, -1, np.intp)

    def offer(self, rows: Rows, others: Rows, similarities: NDArray[np.float64]) -> None:
        """Take the pairs that are better than what is known; a row may come more than once."""
        order = np.lexsort((others, -similarities, rows))
        first = order[np.diff(rows[order], prepend=-1) > 0]
        rows, others, similarities = rows[first], others[first], similarities[first]
        known = self.similarity[rows]
        better = (similarities > known) | ((similarities == known) & (others < self.index[rows]))
        self.similarity[rows[better]], self.index[rows[better]] = similarities[better], others[better]

    def offer_top(self, products: Matrix, block: Matrix, others: Matrix, base: int) -> None:
        """Take each row's nearest of `others` (known as base, base + 1, …) by their float32 products."""
        off = slack(block.shape[1])
        top = products.max(axis=1)
        rows = np.flatnonzero((top >= self.similarity - off) & (top > -np.inf))
        ties = products[rows] >= top[rows, None] - 2 * off
        row, column = np.nonzero(ties & (np.cumsum(ties, axis=1) <= _TIES))
        row = rows[row]
        self.offer(row, base + column, cosine(block[row], others[column]))


class QuantizedPrefilter:
    """An upper bound of the cosine from a few numbers a row, by Cauchy-Schwarz.

    With P an orthogonal projection, x.y <= Px.Py + |x - Px| |y - Py|: the product of two codes. A row's code is its
    coordinates along a few directions and the length of the rest. Directions are principal axes of a
    sample, so that little is left out.
    """

    def __init__(self, directions: NDArray[np.float64]) -> None:
        self._directions = directions

    @property
    def width(self) -> int:
        """How many numbers a code has."""
        return int(self._directions.shape[1]) + 1

    def codes(self, rows: Matrix) -> Matrix:
        """Return the codes of rows, shape (n, directions + 1); in float64, so that only products are rounded."""
        exact = rows.astype(np.float64)
        along = exact @ self._directions
        rest = np.einsum("ij,ij->i", exact, exact) - np.einsum("ij,ij->i", along, along)
        return np.column_stack([along, np.sqrt(np.maximum(rest, 0) + 1e-12)]).astype(np.float32)

    @classmethod
    def fit(cls, rows: Vectors, threshold: float) -> QuantizedPrefilter | None:
        """Return the prefilter that should cost least on rows like these; None when comparing all costs less."""
        every = np.linspace(0, len(rows) - 1, min(len(rows), 4096)).astype(np.intp)
        sample = rows[every]
        _, axes = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
        cheapest, best = _cost(rows.shape[1], 0.0), None
        for count in (15, 31, 47, 63, 95, 127, 191, 255):
            if count + 1 >= rows.shape[1]:
                break
            screen = cls(np.ascontiguousarray(axes[:, ::-1][:, :count]))
            codes = screen.codes(sample)
            # Near rows in the sample may be duplicates, which every prefilter must let through.
            bounds = codes[::8] @ codes.T
            real = sample[::8] @ sample.T >= threshold
            cost = _cost(count + 1, float(((bounds >= threshold) & ~real).mean()))
            if cost < cheapest:
                cheapest, best = cost, screen
        return best


def _cost(width: int, passing: float) -> float:
    """Estimate nanoseconds a pair: a product of codes, its comparison, and the full product of those that pass."""
    return 0.15 + 0.012 * width + 400 * passing


class Corpus:
    """Rows of a matrix that later rows are compared with, in the order in which they were added."""

    def __init__(self, matrix: Vectors, screen: QuantizedPrefilter | None = None) -> None:
        self._matrix = matrix
        self._screen = screen
        self.rows = np.empty(0, np.intp)
        self._room = np.empty(0, np.intp)
        self._codes = np.empty((0, 0 if screen is None else screen.width), np.float32)

    def add(self, rows: Rows) -> None:
        """Add rows of the matrix by number."""
        begun, end = len(self.rows), len(self.rows) + len(rows)
        if end > len(self._room):
            self._grow(end)
        self._room[begun:end] = rows
        self.rows = self._room[:end]
        if self._screen is not None:
            for start in range(begun, end, _PAIRS):
                stop = min(start + _PAIRS, end)
                self._codes[start:stop] = self._screen.codes(self._matrix[self._room[start:stop]])

    def _grow(self, needed: int) -> None:
        size = min(max(needed, 2 * len(self._room)), len(self._matrix))
        room, self._room = self._room, np.empty(size, np.intp)
        self._room[: len(room)] = room
        if self._screen is not None:
            codes, self._codes = self._codes, np.empty((size, self._screen.width), np.float32)
            self._codes[: len(codes)] = codes

    def nearest(self, block: Matrix, threshold: float, workers: ThreadPoolExecutor) -> Best:
        """Return the places in `rows` of the most similar row for each row of a block.

        With a screen only what reaches the threshold is found; of other rows nothing is known.
        """
        found = Best(len(block))
        share = -(-len(self.rows) // (_TILE * _threads())) * _TILE  # whole tiles
        spans = [(start, min(start + share, len(self.rows))) for start in range(0, len(self.rows), share or 1)]
        look = self._look_at_all if self._screen is None else self._look_through_screen
        for part in workers.map(lambda span: look(block, threshold, *span), spans):
            rows = np.flatnonzero(part.index >= 0)
            found.offer(rows, part.index[rows], part.similarity[rows])
        return found

    def _look_at_all(self, block: Matrix, threshold: float, start: int, stop: int) -> Best:
        found = Best(len(block))
        for base in range(start, stop, _TILE):
            others = self._matrix[self.rows[base : min(base + _TILE, stop)]]
            found.offer_top(block @ others.T, block, others, base)
        return found

    def _look_through_screen(self, block: Matrix, threshold: float, start: int, stop: int) -> Best:
        assert self._screen is not None
        found = Best(len(block))
        codes = self._screen.codes(block)
        off = slack(block.shape[1])
        bounds = np.empty((len(block), _TILE), np.float32)
        for base in range(start, stop, _TILE):
            tile = self._codes[base : min(base + _TILE, stop)]
            bound = np.matmul(codes, tile.T, out=bounds[:, : len(tile)])
            rows = np.flatnonzero(bound.max(axis=1) >= threshold - off)
            if len(rows):
                row, column = np.nonzero(bound[rows] >= threshold - off)
                self._look_at_pairs(found, block, rows[row], base + column, threshold)
        return found

    def _look_at_pairs(self, found: Best, block: Matrix, rows: Rows, places: Rows, threshold: float) -> None:
        off = slack(block.shape[1])
        for start in range(0, len(rows), _PAIRS):
            row, place = rows[start : start + _PAIRS], places[start : start + _PAIRS]
            one, other = block[row], self._matrix[self.rows[place]]
            near = np.flatnonzero(np.einsum("ij,ij->i", one, other) >= threshold - off)
            similarity = cosine(one[near], other[near])
            real = similarity >= threshold
            found.offer(row[near][real], place[near][real], similarity[real])


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a thread for every core, each with a BLAS of one thread: faster for many small products."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_threads()) as workers:
        yield workers


def _threads() -> int:
    return len(os.sched_getaffinity(0))
