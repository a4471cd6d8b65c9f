"""Embed texts with a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.core.text.characters import well_formed
from gra.data.dedup.nearest import Matrix


class Embedder:
    """Sentence embeddings of unit length, float32, shape (texts, dimensions).

    Args:
        path: the folder of the model.
        gpu: compute on a GPU where one can be used and has room; while engines run, it is theirs.
    """

    def __init__(self, path: Path, *, gpu: bool = False) -> None:
        self._path, self._gpu = path, gpu
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Embed texts; the model is loaded at the first call.

        Half of a surrogate pair, which no tokenizer takes, counts as U+FFFD.
        """
        import torch

        if self._model is None:
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
            self._model = SentenceTransformer(
                str(self._path), device="cpu", local_files_only=True, trust_remote_code=False
            )
            self._gpu = self._gpu and torch.cuda.is_available()
        if self._gpu:
            try:
                return self._encode(texts, "cuda")
            except torch.OutOfMemoryError:
                self._gpu = False
        return self._encode(texts, "cpu")

    def _encode(self, texts: Sequence[str], device: str) -> Matrix:
        found = self._model.to(device).encode(
            [well_formed(text) for text in texts],
            normalize_embeddings=True,
            show_progress_bar=False,
            batch_size=64,
            device=device,
        )
        return np.asarray(found, dtype=np.float32)


def similarities(embedder: Embedder, texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
    """Return the cosines of texts (rows) with others (columns).

    They are rounded, so that the order of summation does not decide between equals.
    """
    vectors = embedder.encode([*others, *texts]).astype(np.float64)
    return np.round(vectors[len(others) :] @ vectors[: len(others)].T, 5)
