"""Names in recipes that become folder names."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator


def folder_name(name: str) -> str:
    """The name as it is, when a folder inside another can be called so."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError("must be a folder's name: letters, digits, `.`, `_` and `-`, the first a letter or a digit")
    return name


Name = Annotated[str, AfterValidator(folder_name)]
