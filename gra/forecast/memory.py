"""What the models of a recipe need in memory, as far as that is known without downloading or loading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gra.config.committee import BackendConfig, MemberConfig
from gra.config.synthesis import SynthesisRecipe, members_of
from gra.core.hardware import available_gb, gpu_memory_gb, width
from gra.models.adapters import Adapter, find_adapter
from gra.models.catalog import cached, resolve
from gra.models.entries import entry_of
from gra.models.int8 import int8_gb
from gra.serving.memory import adapters_gb, cluster_gpus, engine_gb, limit_gb
from gra.serving.models import check_head, weights_gb


@dataclass(frozen=True)
class Memory:
    """GB by model on this machine (None: not known), what they may take together, and what is held of clusters."""

    models: dict[str, float | None]
    limit_gb: float
    cluster_gpus: float = 0.0

    @property
    def local(self) -> bool:
        """Whether anything runs on this machine."""
        return bool(self.models)

    @property
    def gpus(self) -> float:
        """What the models hold: one GPU here, or where there is none the machine, and their part of a cluster."""
        return int(self.local) + self.cluster_gpus

    @property
    def together(self) -> bool | None:
        """Whether all fit at once; None when that is not known."""
        sizes = list(self.models.values())
        known = [size for size in sizes if size is not None]
        return None if len(known) < len(sizes) else sum(known) <= self.limit_gb

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `--json`."""
        return {"models_gb": self.models, "limit_gb": self.limit_gb, "together": self.together}


def memory_plan(recipes: Sequence[SynthesisRecipe]) -> Memory:
    """Return the memory of every model on this machine, each counted once."""
    engine, gpu = recipes[0].engine, gpu_memory_gb()
    members = [(recipe, member) for recipe in recipes for member in members_of(recipe)]
    adapters: dict[str, dict[str, Adapter]] = {}
    for _, member in members:
        if member.adapter is not None:
            adapters.setdefault(member.model, {})[member.adapter] = find_adapter(member.adapter)
    models: dict[str, float | None] = {}
    clusters: dict[str, BackendConfig] = {}
    for recipe, member in members:
        served = member.engine or recipe.engine
        if served.kind == "ray":
            clusters[member.model] = served
        elif served.kind == "vllm" and member.model not in models:
            size = _weights(member, recipe.accept_licenses, int8=engine.weights == "int8", on_gpu=gpu is not None)
            beside = adapters_gb(adapters.get(member.model, {}).values())
            models[member.model] = None if size is None else engine_gb(size + beside, engine, gpu is not None)
    return Memory(models, limit_gb(engine, gpu, available_gb()), sum(map(cluster_gpus, clusters.values())))


def _weights(member: MemberConfig, licences: Sequence[str], *, int8: bool, on_gpu: bool) -> float | None:
    """Return the size of a member's weights: of its files on this machine, else by its parameters.

    What a model that is not here has in int8 depends on its vocabulary. So the size in bfloat16 is planned for it.

    Raises:
        RecipeError: the model on this machine cannot give what the member is asked for.
    """
    if cached(member.model):
        model = resolve(member.model, accept_licenses=licences)
        check_head(member, member.model, model.path)
        return int8_gb(model) if int8 else weights_gb(model.path, on_gpu=on_gpu)
    entry = entry_of(member.model)
    known = entry is not None and entry.parameters
    return known * width("bfloat16", on_gpu=on_gpu) / 2**30 if known else None
