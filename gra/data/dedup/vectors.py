"""Vectors of a round, in a file without a name: memory holds what is looked at, and a kill leaves nothing.

A million rows of 384 numbers are 1.5 GB, more than all else that a run keeps.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from gra.data.dedup.nearest import Matrix, Rows


class VectorFile:
    """Rows of float32 numbers, shape (count, dimensions)."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the shelf
        self._dimensions = dimensions
        self.count = 0

    def append(self, rows: Matrix) -> None:
        """Add rows.

        Raises:
            OSError: when the disk is full; nothing is added then.
        """
        begun, size = self.count * self._dimensions * 4, len(rows) * self._dimensions * 4
        if size:
            os.posix_fallocate(self._file.fileno(), begun, size)
            os.pwrite(self._file.fileno(), np.ascontiguousarray(rows, np.float32).data, begun)
        self.count += len(rows)

    def mapped(self, count: int) -> Matrix:
        """Map the first rows into memory, not copied; read parts stay there until the system needs the memory."""
        return np.asarray(np.memmap(self._file, np.float32, "r", shape=(count, self._dimensions)))

    def read(self, count: int) -> VectorReader:
        """Return a reader of the first rows; memory holds a row only while it is used."""
        return VectorReader(self._file, (count, self._dimensions))


class VectorReader:
    """Rows in a file, to be asked for by number.

    A mapping would take far more memory: the system maps what lies around a row with it.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int]) -> None:
        self.shape = shape
        self._file = file

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> Matrix:
        found = np.empty((len(rows), self.shape[1]), np.float32)
        for into, row in zip(found, rows.tolist(), strict=True):
            if os.preadv(self._file.fileno(), [into.data], row * into.nbytes) < into.nbytes:
                raise IndexError(f"row {row} of {len(self)}")
        return found
