"""The workshop: the models of one or more recipes found, planned into memory, and served.

Everything that can go wrong before a token is spent goes wrong here: a model that is not there, a
missing chat template, a context that is too short, memory that is too small.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gra.core.committee_schema import Member, Served
from gra.core.console import View
from gra.core.errors import ModelUnavailable, RecipeError
from gra.core.machine import available_gb, gpu_memory_gb
from gra.core.schema import Engine as EngineRecipe
from gra.core.schema import SynthesisRecipe
from gra.engines.broker import EnginePool
from gra.engines.protocol import Engine, ModelId
from gra.engines.vllm import VllmEngine, VllmSettings
from gra.models.catalog import ResolvedModel, resolve
from gra.models.chat import context_length, has_chat_template, template_digest
from gra.synthesis.committee import committee_of

# Resident size of an engine beside weights and KV cache, measured; see docs/benchmarks.md.
_CPU_OVERHEAD_GB = 3.5
_GPU_OVERHEAD_GB = 2.5


@dataclass
class Workshop:
    """Resolved models by the name the recipe gives them, and who had to be left out."""

    engine: EngineRecipe
    models: dict[str, ResolvedModel] = field(default_factory=dict)
    servers: dict[str, Served] = field(default_factory=dict)  # the models that are not on this machine
    missing: dict[str, str] = field(default_factory=dict)
    # Set when a committee's first candidate has ended. Teachers wait for it: the way to a committee's first row is
    # long and they can fill the gaps later.
    prepared: asyncio.Event = field(default_factory=asyncio.Event)

    def model_id(self, name: str) -> ModelId:
        """What the ledger knows the model by."""
        model = self.models[name]
        # A server keeps its chat template to itself; it is part of what the server is.
        template = "server" if name in self.servers else template_digest(model.path)
        return ModelId(model.name, model.identity, template)

    @property
    def gpus(self) -> int:
        """What models on this machine hold: one GPU, or where there is none the machine; 0 when all are served."""
        return int(len(self.servers) < len(self.models))

    def served(self, member: Member) -> str | None:
        """The name of the model a member runs on: its own, its fallback, or None when neither can be had."""
        return next((n for n in (member.model, member.fallback) if n in self.models), None)

    def pool(self, logs: Path) -> EnginePool:
        """One engine per model; those on this machine are planned into its memory.

        Raises:
            RecipeError: when the variable that should hold a server's key is not set.
        """
        remote: dict[str, Engine] = {name: self._remote(name, served) for name, served in self.servers.items()}
        local, limit = self._local(logs)
        return EnginePool(local | remote, limit)

    def _remote(self, name: str, served: Served) -> Engine:
        from gra.engines.openai import OpenAIEngine, ServerSettings

        assert served.base_url is not None
        settings = ServerSettings(
            base_url=served.base_url,
            model=name,
            api_key_env=served.api_key_env,
            concurrency=served.concurrency,
            start_timeout_s=self.engine.start_timeout_s,
        )
        return OpenAIEngine(name, settings)

    def _local(self, logs: Path) -> tuple[dict[str, Engine], float]:
        """vLLM engines by model name, and the memory that they may take together, in GB."""
        models = [m for name, m in self.models.items() if name not in self.servers]
        gpu = gpu_memory_gb()
        memory = {m.name: engine_gb(weights_gb(m.path), self.engine) for m in models}
        cores = len(os.sched_getaffinity(0))
        engines: dict[str, Engine] = {
            m.name: VllmEngine(
                m.name,
                VllmSettings(
                    path=m.path,
                    max_model_len=min(self.engine.max_model_len, context_length(m.path)),
                    kv_cache_gb=kv_cache_gb(self.engine),
                    threads=0 if gpu is not None else cores,
                    concurrency=self.engine.concurrency,
                    gpu_memory_utilization=0.9 if gpu is None else min(0.92, memory[m.name] / gpu),
                    start_timeout_s=self.engine.start_timeout_s,
                ),
                memory_gb=memory[m.name],
                log_file=logs / f"engine-{m.name.replace('/', '--')}.log",
            )
            for m in models
        }
        return engines, limit_gb(self.engine)


def find_models(recipes: Sequence[SynthesisRecipe], view: View) -> Workshop:
    """Resolve every model that the recipes name; members whose model is gone are noted where the recipe allows it.

    Raises:
        ModelUnavailable: when a model that a recipe cannot do without is not to be had.
        RecipeError: when a model has no chat template.
    """
    workshop = Workshop(recipes[0].engine)
    for recipe in recipes:
        if recipe.engine != workshop.engine:
            raise RecipeError(
                f"the arms `{recipes[0].name}` and `{recipe.name}` share engines; give them the same `engine`"
            )
        for member, optional in _members(recipe):
            served = member.engine or recipe.engine
            if served.kind == "openai":
                _find_served(workshop, member.model, served)
            elif member.model in workshop.servers:
                raise _two_places(member.model)
            elif workshop.served(member) is None:
                _find(workshop, member, optional, recipe.accept_licences, view)
    for name, model in workshop.models.items():
        if name not in workshop.servers and not has_chat_template(model.path):
            raise RecipeError(
                f"`{model.name}` has no chat template (a base model?), so it cannot sit on a committee or teach; "
                "choose its instruction-tuned version"
            )
    return workshop


def _members(recipe: SynthesisRecipe) -> list[tuple[Member, bool]]:
    """The members a recipe needs served, and whether it can do without each."""
    committee = committee_of(recipe)
    return [(member, committee.allow_missing) for member in committee.models.values()] if committee else []


def _find(workshop: Workshop, member: Member, optional: bool, licences: Sequence[str], view: View) -> None:
    for name in filter(None, (member.model, member.fallback)):
        if name in workshop.models:
            return
        try:
            workshop.models[name] = resolve(name, accept_licences=licences, progress=view.note)
            return
        except ModelUnavailable as error:
            if not optional and (member.fallback is None or name == member.fallback):
                raise
            workshop.missing[name] = str(error)
            view.note(f"! {error}")


def _find_served(workshop: Workshop, name: str, served: Served) -> None:
    """Enter a model that a server holds; whether it does is seen when the engine starts."""
    place = Served(**served.model_dump(include=set(Served.model_fields)))
    if name in workshop.models and workshop.servers.get(name) != place:
        raise _two_places(name)
    workshop.servers[name] = place
    workshop.models[name] = ResolvedModel(
        name=name,
        path=Path(),
        origin="server",
        identity=f"openai:{name}@{served.served_as or (served.base_url or '').rstrip('/')}",
        licence="unknown",
        licence_url=None,
        family="",
        parameters=None,
        is_base=False,
        source_note=f"served at {served.base_url}",
    )


def _two_places(name: str) -> RecipeError:
    return RecipeError(f"the model `{name}` is named with two different `engine`s; a model is served at one place")


@asynccontextmanager
async def running(pool: EnginePool, view: View) -> AsyncIterator[EnginePool]:
    """Start the engines (together where memory allows), and end them whatever happens."""
    names = ", ".join(pool.engines)
    try:
        if pool.engines:
            how = "together" if pool.residency.together() else "in turns, memory does not hold all of them"
            with view.stage("engines", f"{names} ({how})"):
                await pool.residency.warm()
        yield pool
    finally:
        await pool.residency.close()


def kv_cache_gb(engine: EngineRecipe) -> float:
    """What an engine sets aside for what it has read."""
    return engine.kv_cache_gb or (1.0 if gpu_memory_gb() is None else 4.0)


def engine_gb(weights: float, engine: EngineRecipe) -> float:
    """What an engine with weights of so many GB takes in memory."""
    return weights + kv_cache_gb(engine) + (_CPU_OVERHEAD_GB if gpu_memory_gb() is None else _GPU_OVERHEAD_GB)


def limit_gb(engine: EngineRecipe) -> float:
    """What all engines may take together."""
    gpu = gpu_memory_gb()
    return engine.memory_gb or (0.85 * available_gb() if gpu is None else 0.92 * gpu)


def weights_gb(path: Path) -> float:
    """Size of a model's weight files."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) / 2**30
