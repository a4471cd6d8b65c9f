"""The file in which a round's vectors lie: what comes back, what it leaves, and what a full disk does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from gra.data.shelf import Shelf


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
