"""What the models of a recipe need in memory, as far as that is known without downloading or loading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gra.core.schema import SynthesisRecipe
from gra.models.catalog import cached, resolve
from gra.models.entries import find_entry
from gra.synthesis.committee import committee_of
from gra.synthesis.workshop import engine_gb, limit_gb, weights_gb

_BYTES_A_PARAMETER = 2  # bfloat16


@dataclass(frozen=True)
class Memory:
    """GB by model on this machine (None: not known), and what they may take together."""

    models: dict[str, float | None]
    limit_gb: float

    @property
    def local(self) -> bool:
        """Whether anything runs on this machine."""
        return bool(self.models)

    @property
    def gpus(self) -> int:
        """What models on this machine hold: one GPU, or where there is none the machine."""
        return int(self.local)

    @property
    def together(self) -> bool | None:
        """Whether all fit at once; None when that is not known."""
        sizes = list(self.models.values())
        known = [size for size in sizes if size is not None]
        return None if len(known) < len(sizes) else sum(known) <= self.limit_gb

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"models_gb": self.models, "limit_gb": self.limit_gb, "together": self.together}


def memory_plan(recipes: Sequence[SynthesisRecipe]) -> Memory:
    """The memory of every model on this machine, each counted once."""
    models: dict[str, float | None] = {}
    for recipe in recipes:
        committee = committee_of(recipe)
        for member in committee.models.values() if committee is not None else ():
            if (member.engine or recipe.engine).kind == "vllm" and member.model not in models:
                size = _weights(member.model, recipe.accept_licences)
                models[member.model] = None if size is None else engine_gb(size, recipe.engine)
    return Memory(models, limit_gb(recipes[0].engine))


def _weights(name: str, licences: Sequence[str]) -> float | None:
    """The size of a model's weights: of the files when they are here, else by its parameters."""
    if cached(name):
        return weights_gb(resolve(name, accept_licences=licences).path)
    entry = find_entry(name.removeprefix("catalog:").partition("@")[0])
    return entry.parameters * _BYTES_A_PARAMETER / 2**30 if entry is not None and entry.parameters else None
