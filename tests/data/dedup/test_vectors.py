"""The file in which a round's vectors lie: what comes back, what it leaves, and what a full disk does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from gra.data.dedup.vectors import VectorFile


def test_rows_come_back_as_they_were_and_no_file_is_seen(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((70, 5), np.float32)
    shelf = VectorFile(tmp_path, 5)
    for part in np.split(rows, [10, 69]):
        shelf.append(part)
    shelf.append(rows[:0])
    assert shelf.count == 70
    assert (shelf.mapped(70) == rows).all()
    assert (shelf.mapped(3) == rows[:3]).all()
    read = shelf.read(60)
    assert read.shape == (len(read), 5) == (60, 5)
    for asked in ([59, 0, 7, 7], []):
        assert (read[np.array(asked, np.intp)] == rows[asked].reshape(len(asked), 5)).all()
    del shelf
    assert (read[np.arange(60)] == rows[:60]).all(), "it needs no shelf"
    assert list(tmp_path.iterdir()) == []


def test_rows_past_the_end_are_an_error_and_no_rubbish(tmp_path: Path) -> None:
    shelf = VectorFile(tmp_path, 5)
    shelf.append(np.ones((4, 5), np.float32))
    with pytest.raises(IndexError, match="row 4 of 4"):
        shelf.read(4)[np.array([0, 4])]


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path: Path, monkeypatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shelf = VectorFile(tmp_path, 5)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        shelf.append(np.ones((4, 5), np.float32))
    assert shelf.count == 0
