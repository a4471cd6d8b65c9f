"""Read the paths that callers give."""

from __future__ import annotations

import os
from pathlib import Path

from gra.core.errors import user_path


def given_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return a path that a caller gave, with `~` replaced.

    Args:
        path: the path.
        name: the parameter, for the error.

    Raises:
        RecipeError: no path can be made of it.
    """
    return user_path(os.fspath(path), f"`{name}`")
