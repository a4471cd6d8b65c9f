"""Keep the distributions of a teacher in one file, under the digest of everything that they follow from."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gra.core.errors import Mismatch
from gra.core.files import atomic_path, refuse_irregular
from gra.training.fusion.targets import TeacherDistributions

_ARRAYS = ("bounds", "positions", "ids", "logprobs", "cross_entropy")


def stored_file(folder: Path, name: str, key: str) -> Path:
    """Return the file of a teacher.

    Args:
        folder: of the stored distributions.
        name: the teacher's.
        key: digest of what the distributions follow from.
    """
    return folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-.')[-60:]}-{key[:16]}.npz"


def write_distributions(file: Path, key: str, distributions: TeacherDistributions) -> None:
    """Write the distributions of a teacher; the file appears as a whole."""
    arrays: dict[str, Any] = {name: getattr(distributions, name) for name in _ARRAYS}
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, key=np.array(key), **arrays)


def read_distributions(file: Path, key: str, rows: int) -> TeacherDistributions:
    """Read the distributions of a teacher.

    Args:
        file: what `write_distributions` wrote.
        key: of these rows and this teacher.
        rows: how many there are.

    Raises:
        Mismatch: when the file is damaged, or holds the distributions of other rows or of another teacher.
    """
    refuse_irregular(file)
    try:
        with np.load(file, allow_pickle=False) as found:
            same = str(found["key"]) == key
            arrays = {name: found[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Mismatch(f"{file} cannot be read ({error}); delete it, and its teacher is asked again") from None
    distributions = TeacherDistributions(**arrays)
    bounds, count = distributions.bounds, len(distributions.positions)
    whole = len(bounds) == rows + 1 and bounds[-1] == count and len(distributions.cross_entropy) == rows
    if not (same and whole and distributions.ids.shape == distributions.logprobs.shape and len(arrays["ids"]) == count):
        raise Mismatch(
            f"{file} does not hold this teacher's distributions of these rows; delete it, and its teacher is asked "
            "again, or set another `fusion.store`"
        )
    return distributions
