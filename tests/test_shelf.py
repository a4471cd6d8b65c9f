"""The file in which a round's vectors lie: what comes back, what it leaves, and what a full disk does."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import pytest

from gra.data.shelf import Shelf, let_go


def test_rows_come_back_as_they_were_and_no_file_is_seen(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((70, 5), np.float32)
    shelf = Shelf(tmp_path, 100, 5)
    for part in np.split(rows, [10, 69]):
        shelf.append(part)
    assert shelf.count == 70
    assert (shelf.first(70) == rows).all()
    assert (shelf.first(3) == rows[:3]).all()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path: Path, monkeypatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shelf = Shelf(tmp_path, 100, 5)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        shelf.append(np.ones((4, 5), np.float32))
    assert shelf.count == 0


def shared_mb() -> float:
    """Memory of this process that lies in files, in MB."""
    return float(psutil.Process().memory_info().shared) / 2**20


def test_a_large_shelf_takes_memory_only_while_it_is_looked_at(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((40_000, 384), np.float32)  # 59 MB
    shelf = Shelf(tmp_path, 50_000, 384)
    before = shared_mb()
    shelf.append(rows)
    assert shared_mb() - before < 10
    kept = shelf.first(39_000)
    np.testing.assert_array_equal(kept, rows[:39_000])
    assert shared_mb() - before > 40
    let_go(kept[5:20])
    assert shared_mb() - before < 10
    np.testing.assert_array_equal(kept, rows[:39_000])  # nothing is lost


@pytest.mark.parametrize("mode", ["c", None])
def test_what_is_in_no_file_stays(tmp_path: Path, mode: Literal["c"] | None) -> None:
    file = tmp_path / "zeros"
    file.write_bytes(bytes(4096 * 4))
    rows = np.zeros((64, 64), np.float32) if mode is None else np.memmap(file, np.float32, mode, shape=(64, 64))
    rows[3] = 7.0
    let_go(rows[:10])
    assert (rows[3] == 7.0).all()
