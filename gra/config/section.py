"""The base class of recipe sections, and paths of keys in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gra.config.problems import KeyPath, explain
from gra.core.errors import RecipeError

__all__ = ["KeyPath", "Section"]

if TYPE_CHECKING:  # for a type checker the constructors stay pydantic's
    from pydantic._internal._model_construction import ModelMetaclass as _Constructor
else:

    class _Constructor(type(BaseModel)):
        """The metaclass of sections: a section made in Python fails with the sentences of a recipe file.

        Pydantic does not call it for the sections inside another, so a section raises once, for all of its problems.
        """

        def __call__(cls, /, *args: Any, **values: Any) -> Any:
            try:
                return super().__call__(*args, **values)
            except ValidationError as error:
                problems = [explain(cls, {}, Path(), item, {}) for item in error.errors()]
            raise RecipeError(list(dict.fromkeys(problems)), cls.__name__)


class Section(BaseModel, metaclass=_Constructor):
    """A part of a recipe: no unknown keys, no guessed types, never changed after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())
    # Keys of earlier releases, and what to write now.
    renamed: ClassVar[Mapping[str, str]] = {}
