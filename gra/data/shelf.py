"""Vectors of a round, in a file without a name: the system may take back the memory, and a kill leaves nothing.

A million rows of 384 numbers are 1.5 GB, more than all else that a run keeps.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from gra.data.nearest import Matrix


class Shelf:
    """Room for so many rows, float32, shape (most, dimensions); it takes disk only for those that are there."""

    def __init__(self, folder: Path, most: int, dimensions: int) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the shelf
        self._file.truncate(most * dimensions * 4)
        self._rows: Matrix = np.asarray(np.memmap(self._file, np.float32, "r+", shape=(most, dimensions)))
        self.count = 0

    def append(self, rows: Matrix) -> None:
        """Add rows.

        Raises:
            OSError: when the disk is full; found here, for a write to mapped memory could only kill the process.
        """
        begun, row_bytes = self.count, self._rows.shape[1] * 4
        os.posix_fallocate(self._file.fileno(), begun * row_bytes, len(rows) * row_bytes)
        self._rows[begun : begun + len(rows)] = rows
        self.count += len(rows)

    def first(self, count: int) -> Matrix:
        """The first rows, not copied."""
        return self._rows[:count]
