"""The base class of recipe sections, and paths of keys in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

KeyPath = tuple[str | int, ...]


class Section(BaseModel):
    """A part of a recipe: no unknown keys, no guessed types, never changed after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())
    # Keys of earlier releases, and what to write now.
    renamed: ClassVar[Mapping[str, str]] = {}
