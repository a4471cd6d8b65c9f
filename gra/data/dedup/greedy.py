"""Greedy deduplication in descending score (paper section 3.4): a row is kept when nothing kept before it is the same.

What is the same is decided in three stages: the same text, nearly the same wording (only if asked for), an embedding at
or above the threshold. The outcome is that of comparing every row with everything kept before it and with the whole
pool; memory beside the vectors is bounded by blocks. `incremental.py` keeps the same records while rows come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gra.data.dedup.minhash import MinHashText
from gra.data.dedup.nearest import (
    BLOCK,
    Best,
    Corpus,
    Matrix,
    QuantizedPrefilter,
    Rows,
    Vectors,
    cosine,
    reaches,
    worker_threads,
)

Stage = Literal["text", "wording", "embedding"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a row is kept, and if not, which stage found what it duplicates.

    `neighbour` is what it duplicates, or the nearest by embedding: among the pool (negative numbers: -1 is pool row 0,
    -2 is row 1, …) and the rows kept before it; `similarity` is the cosine to it. None when there was nothing, or when
    the neighbors of kept rows were not asked for.
    """

    kept: bool
    neighbour: int | None
    similarity: float | None
    stage: Stage | None = None


_KEPT = Decision(True, None, None)


@dataclass(frozen=True)
class DedupTexts:
    """What rows and pool say, and the Jaccard similarity from which wording counts as the same (None: never)."""

    rows: Sequence[str]
    pool: Sequence[str]
    minhash: float | None = None


def greedy_dedup(
    embeddings: Vectors,
    scores: Sequence[float],
    pool: Matrix,
    threshold: float,
    *,
    texts: DedupTexts | None = None,
    neighbours: bool = True,
) -> list[Decision]:
    """Decide in descending score (ties in given order): kept if nothing kept or pooled is the same.

    Args:
        embeddings: unit rows, shape (n, d); may lie in a file.
        scores: n numbers.
        pool: unit rows, shape (m, d); m may be 0.
        threshold: cosine similarity at which two samples count as the same.
        texts: adds the two stages that compare texts.
        neighbours: also report the row nearest to each kept row. That takes the products of all rows with
            all; without it most of them are left out, by bounds that change no decision (`QuantizedPrefilter`).
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    decisions: dict[int, Decision] = {}
    with worker_threads() as workers:
        greedy = _Greedy(embeddings, pool, threshold, texts, neighbours, workers)
        for start in range(0, len(order), BLOCK):
            decisions.update(greedy.decide(order[start : start + BLOCK]))
    return [decisions[i] for i in range(len(order))]


class _Greedy:
    """The pool and what was kept so far, and the decision on the next block of rows."""

    def __init__(
        self,
        embeddings: Vectors,
        pool: Matrix,
        threshold: float,
        texts: DedupTexts | None,
        neighbours: bool,
        workers: ThreadPoolExecutor,
    ) -> None:
        self._embeddings, self._pool = embeddings, pool
        self._threshold = threshold
        self._neighbours = neighbours
        self._workers = workers
        self._twins = _Twins(texts)
        screen = None if neighbours or len(embeddings) == 0 else QuantizedPrefilter.fit(embeddings, threshold)
        self._pooled, self._kept = Corpus(pool, screen), Corpus(embeddings, screen)
        self._pooled.add(np.arange(len(pool)))

    def decide(self, rows: Rows) -> dict[int, Decision]:
        """Decide rows that come after all rows decided before, in their order."""
        # What the cheap stages know already needs no products.
        decided = {i: self._twin(i, *found) for i in rows.tolist() if (found := self._twins.find(i)) is not None}
        rows = np.array([i for i in rows.tolist() if i not in decided], np.intp)
        if not len(rows):
            return decided
        block = self._embeddings[rows]
        pooled = self._pooled.nearest(block, self._threshold, self._workers)
        before = self._kept.nearest(block, self._threshold, self._workers)
        taken = np.maximum(pooled.similarity, before.similarity) >= self._threshold
        products = block @ block.T
        similar = reaches(products, block, block, self._threshold)
        fresh = np.zeros(len(rows), bool)
        for place, i in enumerate(rows.tolist()):
            if (found := self._twins.find(i)) is not None:
                decided[i] = self._twin(i, *found)
            elif not taken[place] and not (similar[place] & fresh).any():
                fresh[place] = True
                self._twins.keep(i)
        within = Best(len(rows))
        within.offer_top(np.where(np.tril(np.ones_like(similar), -1) & fresh, products, -np.inf), block, block, 0)
        names = [-1 - pooled.index, _named(self._kept.rows, before), _named(rows, within)]
        similarities = [pooled.similarity, before.similarity, within.similarity]
        choice = np.argmax(similarities, axis=0)
        name, similarity = np.choose(choice, names).tolist(), np.choose(choice, similarities).tolist()
        for place, i in enumerate(rows.tolist()):
            if i in decided:
                continue
            if (fresh[place] and not self._neighbours) or similarity[place] == -np.inf:
                decided[i] = _KEPT
            else:
                decided[i] = Decision(
                    bool(fresh[place]), name[place], similarity[place], None if fresh[place] else "embedding"
                )
        self._kept.add(rows[fresh])
        return decided

    def _twin(self, i: int, name: int, stage: Stage) -> Decision:
        place = np.array([-1 - name if name < 0 else name])
        other = self._pool[place] if name < 0 else self._embeddings[place]
        return Decision(False, name, float(cosine(self._embeddings[np.array([i])], other)[0]), stage)


def _named(rows: Rows, best: Best) -> Rows:
    """Return the rows that `best` points at; 0 where it points at nothing."""
    return rows[best.index] if len(rows) else np.zeros_like(best.index)


class _Twins:
    """Texts that are taken, and the rows that have them; without texts, none."""

    def __init__(self, texts: DedupTexts | None) -> None:
        self._wording = MinHashText(texts.minhash if texts else None)
        pooled = [self._wording.key(text) for text in texts.pool] if texts else []
        self._keys = [self._wording.key(text) for text in texts.rows] if texts else []
        # From the last to the first, so that the first of several with one text gives its name.
        self._held = {key: -1 - j for j, key in reversed(list(enumerate(pooled)))}

    def find(self, i: int) -> tuple[int, Stage] | None:
        """Find a row of the pool, or a kept one, with the text of this row or nearly its wording."""
        if not self._keys:
            return None
        key = self._keys[i]
        if key in self._held:
            return self._held[key], "text"
        for other in self._wording.alike(key):
            if other in self._held:
                return self._held[other], "wording"
        return None

    def keep(self, i: int) -> None:
        """Hold the row's text as taken from now on."""
        if self._keys:
            self._held[self._keys[i]] = i
