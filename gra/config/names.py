"""Check names in recipes that become folder names."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator


def folder_name(name: str) -> str:
    """Return the name when it can be that of a folder inside another.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError("must be a folder's name: letters, digits, `.`, `_` and `-`, the first a letter or a digit")
    return name


Name = Annotated[str, AfterValidator(folder_name)]
