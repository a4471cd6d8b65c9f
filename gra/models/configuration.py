"""Find the configuration and tokenizer of a model without its weights, for planning.

The order is: the model on this machine, the hub's small files, the table of published shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gra.core.errors import ModelUnavailable
from gra.downloads.cache import Progress, switched_on
from gra.downloads.hub import hub_reachable
from gra.models import catalog, hub
from gra.models.remote_code import brings_code, check_references

if TYPE_CHECKING:
    from gra.models.catalog import ResolvedModel

SHAPES = Path(__file__).parent / "shapes.yaml"


class ConfigurationUnreadable(ModelUnavailable):
    """Transformers cannot read the configuration of a model."""


@dataclass(frozen=True)
class Known:
    """Configuration of a model, a folder with its tokenizer, and the model itself when it is on this machine."""

    source: str
    config: Any = None  # a transformers configuration
    folder: Path | None = None
    model: ResolvedModel | None = None


def find_configuration(name: str, *, accept_licenses: Sequence[str] = (), progress: Progress | None = None) -> Known:
    """Find what is known of a model without downloading its weights.

    Raises:
        RecipeError: no such name or path, or a license that was not accepted.
    """
    from transformers import AutoConfig

    if catalog.cached(name):
        model = catalog.resolve(name, accept_licenses=accept_licenses, progress=progress)
        return Known(f"on this machine ({model.source_note})", _config(model.path), model.path, model)
    repository = catalog.hub_name(name)
    folder = _small_files(repository, progress)
    if folder is not None:
        return Known(f"{name} on the hub, without its weights", _config(folder), folder)
    shape = _shapes().get(repository[0] if repository else name)
    if shape is None:
        return Known(f"{name} is not on this machine and the hub cannot be asked")
    values = dict(shape)
    return Known("the published configuration", AutoConfig.for_model(values.pop("model_type"), **values))


def _config(folder: Path) -> Any:
    """Read the configuration in a folder; None when it needs code of its own, which planning never runs.

    Raises:
        RecipeError: it refers to code of another repository.
        ConfigurationUnreadable: it cannot be read.
    """
    from transformers import AutoConfig

    check_references(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of the library that reads a file written by others
        if brings_code(folder):
            return None
        reason = " ".join(str(error).split())
        raise ConfigurationUnreadable(f"the configuration in {folder} cannot be read ({reason})") from None


def _small_files(repository: tuple[str, str | None] | None, progress: Progress | None) -> Path | None:
    offline = switched_on("GRA_OFFLINE") or switched_on("HF_HUB_OFFLINE")
    if repository is None or offline or not hub_reachable():
        return None
    try:
        return hub.download_configuration(*repository)
    except ModelUnavailable as error:
        if progress is not None:
            progress(f"! {error}")
        return None


@lru_cache(maxsize=1)
def _shapes() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(SHAPES.read_text(encoding="utf-8")))
