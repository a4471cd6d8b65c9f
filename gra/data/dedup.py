"""Greedy deduplication by embedding, in descending score (paper section 3.4).

Exact: every candidate is compared with everything kept before it and with the whole pool, in blocks of
matrix products, so memory stays bounded by the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a candidate is kept, and its nearest neighbour among the pool (negative numbers: -1 is pool row 0,
    -2 is row 1, …) and the candidates kept before it, with the cosine similarity; None when there was nothing."""

    kept: bool
    neighbour: int | None
    similarity: float | None


class Embedder:
    """Sentence embeddings of unit length, float32, shape (texts, dimensions)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Embed texts; the model is loaded at the first call."""
        if self._model is None:
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
            self._model = SentenceTransformer(str(self._path), device="cpu", local_files_only=True)
        found = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=64)
        return np.asarray(found, dtype=np.float32)


def greedy_dedup(embeddings: Matrix, scores: Sequence[float], pool: Matrix, threshold: float) -> list[Decision]:
    """Decide in descending score (ties in given order): kept if everything kept or pooled is below `threshold`.

    Args:
        embeddings: unit rows, shape (n, d).
        scores: n numbers.
        pool: unit rows, shape (m, d); m may be 0.
        threshold: cosine similarity at which two samples count as the same.
    """
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    decisions: list[Decision | None] = [None] * len(order)
    kept: list[int] = []
    for i in order:
        near, best = _nearest(embeddings[i], pool)
        neighbour = None if near is None else -1 - near
        if kept:
            inside, similarity = _nearest(embeddings[i], embeddings[kept])
            if inside is not None and (best is None or similarity is None or similarity > best):
                neighbour, best = kept[inside], similarity
        keep = best is None or best < threshold
        if keep:
            kept.append(i)
        decisions[i] = Decision(keep, neighbour, best)
    return [decision for decision in decisions if decision is not None]


def _nearest(row: Matrix, others: Matrix) -> tuple[int | None, float | None]:
    """Index and cosine of the most similar row; (None, None) when there are no rows."""
    index: int | None = None
    best: float | None = None
    for start in range(0, len(others), _BLOCK):
        similarities = others[start : start + _BLOCK] @ row
        place = int(similarities.argmax())
        if best is None or similarities[place] > best:
            index, best = start + place, float(similarities[place])
    return index, best
