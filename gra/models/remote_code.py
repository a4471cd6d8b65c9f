"""Python code that a model brings along: when it may run, and which references are always refused.

Code runs only from the commit that the catalog pins, and only when the user allows it: in the recipe, or on the
command line. Configurations that point to code of another repository are refused in every case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gra.core.errors import RecipeError
from gra.models.entries import CatalogEntry

_WITH_CODE = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json",
              "preprocessor_config.json", "adapter_config.json")  # fmt: skip
# Values of these keys may name a repository whose compiled code transformers would load.
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_MODULES = "modules.json"  # of a sentence-transformers model
_LARGEST = 50_000_000  # bytes of a configuration


def allowed_code(entry: CatalogEntry, commit: str, *, by_user: bool) -> bool:
    """Whether code of a hub snapshot may run: pinned by the catalog, and allowed by the user.

    Args:
        entry: what the catalog says of the model.
        commit: the commit of the snapshot.
        by_user: whether the recipe or the command line allows code.
    """
    return by_user and entry.remote_code and entry.revision is not None and commit == entry.revision


def brings_code(path: Path) -> bool:
    """Whether a configuration in a model directory refers to Python code."""
    return any(True for name in _WITH_CODE for _ in _references(_content(path / name)))


def check_references(path: Path) -> None:
    """Refuse a model directory whose configurations refer to code outside of it.

    Raises:
        RecipeError: naming the file and the reference.
    """
    for name in _WITH_CODE:
        content = _content(path / name)
        for reference in _references(content):
            if "--" in reference:
                raise RecipeError(_foreign(path / name, reference))
        for reference in _kernels(content):
            raise RecipeError(_foreign(path / name, reference))
    modules = _content(path / _MODULES)
    for module in modules if isinstance(modules, list) else ():
        kind = module.get("type") if isinstance(module, dict) else None
        if isinstance(kind, str) and not kind.startswith("sentence_transformers."):
            raise RecipeError(_foreign(path / _MODULES, kind))


def _foreign(file: Path, reference: str) -> str:
    return (
        f"{file} asks for the code {reference!r}, which is not a part of this model, and GRA never runs such code; "
        "remove the entry if the model works without it, or choose another model"
    )


def _content(file: Path) -> Any:
    """Read a configuration; None where there is none that can be read (`weights.damage` reports that)."""
    try:
        if file.stat().st_size > _LARGEST:
            return None
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _references(content: Any) -> Iterator[str]:
    """Yield every text below a key `auto_map` or `custom_generate`, at any depth."""
    for key, value in _items(content):
        if key in ("auto_map", "custom_generate"):
            yield from _texts(value)


def _kernels(content: Any) -> Iterator[str]:
    for key, value in _items(content):
        if key in _KERNELS:
            yield from (text for text in _texts(value) if "/" in text)


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _texts(content: Any) -> Iterator[str]:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
