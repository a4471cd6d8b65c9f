"""Accept recipes as a file, a mapping of keys, or an object made in Python."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import yaml

from gra.api.paths import given_path
from gra.config.experiment import ExperimentRecipe, SymbiosisRecipe
from gra.config.loader import Loaded, kind_key
from gra.config.loader import load_recipe as load_file
from gra.config.plain_yaml import plain_yaml
from gra.config.section import KeyPath, Section
from gra.config.suite import SuiteConfig
from gra.config.synthesis import SynthesisRecipe
from gra.config.training import FederationRecipe, TrainRecipe
from gra.core.errors import RecipeError
from gra.core.files import read_regular

Recipe: TypeAlias = SynthesisRecipe | TrainRecipe | SuiteConfig | ExperimentRecipe | SymbiosisRecipe
RecipeLike: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Section
S = TypeVar("S", bound=Section)

# By the key that a recipe of this kind has.
_SCHEMAS: dict[str, type[Recipe]] = {
    "arms": ExperimentRecipe, "problems": SymbiosisRecipe, "tasks": SuiteConfig, "seeds": SynthesisRecipe,
    "clients": FederationRecipe, "model": TrainRecipe,
}  # fmt: skip
_IN_PYTHON = "Python"
# Relative paths in a recipe start at its folder, so `load_recipe` keeps the path of each recipe that it returned.
_LOADED: dict[int, tuple[weakref.ref[Section], Loaded[Any]]] = {}


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file of any kind and check it.

    Args:
        path: a YAML file: a synthesis or training recipe, a federation, a suite, or an experiment of either kind.
        overrides: texts `key.sub=value`, checked like the values of the file.

    Returns:
        The recipe. To change it, load it again with overrides.

    Raises:
        RecipeError: naming every problem with file and line.
    """
    file = given_path(path, "path")
    loaded = _load(file, _schema_of(file), overrides)
    _remember(loaded)
    return loaded.recipe


def as_loaded(recipe: RecipeLike, schema: type[S], overrides: Sequence[str] = ()) -> Loaded[S]:
    """Return a recipe with its path and the origin of every value.

    Args:
        recipe: the path of a file, a mapping of keys, a recipe made in Python, or what `load_recipe` returned.
        schema: the kind that is wanted.
        overrides: texts `key.sub=value`; for a file only.

    Raises:
        RecipeError: when the recipe is wrong or of another kind.
    """
    if isinstance(recipe, str | os.PathLike):
        return _load(given_path(recipe, "recipe"), schema, overrides)
    if overrides:
        raise RecipeError("overrides are for a recipe file; give a path, or set the values where the recipe is made")
    made = schema(**recipe) if isinstance(recipe, Mapping) else recipe
    if not isinstance(made, schema):
        raise RecipeError(f"this is a {type(made).__name__}; wanted here is a {schema.__name__} or the path of one")
    known, loaded = _LOADED.get(id(made), (None, None))
    if known is not None and known() is made:
        assert loaded is not None
        return loaded
    return Loaded(made, Path(schema.__name__), _origins(made))


def _load(path: Path, schema: type[S], overrides: Sequence[str]) -> Loaded[S]:
    if issubclass(schema, TrainRecipe):
        from gra.training.options.trl_config import load_trained

        return load_trained(path, schema, overrides)  # type: ignore[return-value]
    if schema is SuiteConfig:
        from gra.evaluation.suite import read_suite

        return read_suite(path, overrides)  # type: ignore[return-value]
    return load_file(path, schema, overrides)


def _schema_of(path: Path) -> type[Recipe]:
    """Choose the schema by the keys of a file; when it cannot be read, the loader raises the error."""
    try:
        content = plain_yaml(read_regular(path))
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    found = dict(content) if isinstance(content, dict) else {}
    key = kind_key(found)
    if key is None and isinstance(base := found.get("extends"), str):
        return _schema_of(path.parent / base)
    return SynthesisRecipe if key is None else _SCHEMAS[key]


def _remember(loaded: Loaded[Recipe]) -> None:
    key = id(loaded.recipe)

    def forget(_: object, known: dict[int, Any] = _LOADED) -> None:
        known.pop(key, None)

    _LOADED[key] = (weakref.ref(loaded.recipe, forget), loaded)


def _origins(recipe: Section) -> dict[KeyPath, str]:
    """Mark the values that were given in Python; the others have the schema's defaults."""
    origins: dict[KeyPath, str] = {}

    def mark(value: Any, at: KeyPath) -> None:
        if isinstance(value, Section):
            for name in value.model_fields_set:
                origins[(*at, name)] = _IN_PYTHON
                mark(getattr(value, name), (*at, name))
        elif isinstance(value, dict):
            for name, item in value.items():
                origins[(*at, name)] = _IN_PYTHON
                mark(item, (*at, name))

    mark(recipe, ())
    return origins
