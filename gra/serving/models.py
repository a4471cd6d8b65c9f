"""Find the models of one or more recipes, plan them into memory, and make their engines.

Problems are found here before a token is spent: a missing model or chat template, a context that is too short, too
little memory.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from gra.config.committee import BackendConfig, EngineConfig, MemberConfig
from gra.config.keys import check_key
from gra.config.synthesis import SynthesisRecipe, committee_of
from gra.core.errors import ModelUnavailable, RecipeError
from gra.core.hardware import available_gb, gpu_memory_gb, width
from gra.core.progress import View
from gra.engines.broker import EnginePool
from gra.engines.types import Engine, ModelId
from gra.engines.vllm.core_turns import STEP_TOKENS, cores_file
from gra.engines.vllm.engine import VllmEngine, VllmSettings
from gra.models.adapters import Adapter, find_adapter
from gra.models.catalog import ResolvedModel, resolve
from gra.models.chat import context_length, has_chat_template, template_digest, template_tokens
from gra.models.classification import refuse_reward_model, require_reward_head
from gra.models.int8 import int8_model
from gra.models.weights import count_half_parameters
from gra.serving.memory import (
    adapters_gb,
    check_weights,
    cluster_gpus,
    cpu_threads,
    kv_cache_gb,
    on_few_cores,
    plan_memory,
)


@dataclass
class ModelRegistry:
    """The models of one or more recipes, by the name that the recipe gives them.

    Attributes:
        engine: how models on this machine are served.
        models: the resolved models.
        servers: models behind an OpenAI-compatible server.
        clusters: models on a Ray cluster; their weights are on this machine too.
        adapters: by model, then by the recipe's name of the adapter.
        missing: models that could not be resolved, and why.
        rewards: reward models and classifiers, which give numbers.
        candidates_began: set when a committee begins its first candidates. Teachers wait for it: a committee takes
            many calls before, and its first candidates leave places that teachers can fill.
    """

    engine: EngineConfig
    models: dict[str, ResolvedModel] = field(default_factory=dict)
    servers: dict[str, BackendConfig] = field(default_factory=dict)
    clusters: dict[str, BackendConfig] = field(default_factory=dict)
    adapters: dict[str, dict[str, Adapter]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    rewards: set[str] = field(default_factory=set)
    candidates_began: asyncio.Event = field(default_factory=asyncio.Event)

    def model_id(self, name: str, adapter: str | None = None) -> ModelId:
        """Return what identifies the model's answers in the ledger, with or without one of its adapters."""
        model = self.models[name]
        # A server does not show its chat template; its identity stands for it.
        template = "server" if name in self.servers else template_digest(model.path)
        adapted = self.adapters[name][adapter].identity if adapter is not None else ""
        return ModelId(model.name, model.identity, template, adapted)

    def template_tokens(self) -> frozenset[str]:
        """Return the chat-template tokens of the models on this machine."""
        local = (model.path for name, model in self.models.items() if name not in self.servers)
        return frozenset().union(*map(template_tokens, local))

    @property
    def gpus(self) -> float:
        """The GPUs that the models hold: one here (a machine without a GPU counts as one), and those of a cluster."""
        return int(bool(self.here)) + sum(map(cluster_gpus, self.clusters.values()))

    @property
    def here(self) -> list[str]:
        """The models that are served on this machine."""
        return [name for name in self.models if name not in self.servers and name not in self.clusters]

    def speed_note(self) -> str | None:
        """Return what a user should know of this machine's speed before engines start; None where it is usual."""
        if not self.here or self.engine.weights or width("bfloat16", on_gpu=gpu_memory_gb() is not None) == 2:
            return None
        return (
            "! this CPU has no fast bfloat16 (AVX-512, or Arm's bf16), so models compute in float32: it takes two to "
            "four times as long"
        )

    def served(self, member: MemberConfig) -> str | None:
        """Return the model that a member runs on: its own, its fallback, or None when both are missing."""
        return next((n for n in (member.model, member.fallback) if n in self.models), None)

    def pool(self, logs: Path) -> EnginePool:
        """Make one engine a model; models on this machine are planned into its memory.

        Raises:
            RecipeError: when the variable that should hold a server's key is not set.
        """
        remote: dict[str, Engine] = {name: self._remote(name, served) for name, served in self.servers.items()}
        remote |= {name: self._replicated(name, served, logs) for name, served in self.clusters.items()}
        local, limit = self._local(logs)
        return EnginePool(local | remote, limit)

    def _replicated(self, name: str, served: BackendConfig, logs: Path) -> Engine:
        from gra.engines.ray import RayEngine, RaySettings

        gpus = 1.0 if served.gpus is None else served.gpus
        cluster = RaySettings(served.replicas or 1, gpus, served.cpus or 1.0, served.address)
        settings = replace(
            self._settings(name, kv_cache_gb(self.engine, gpus > 0)),
            concurrency=served.concurrency,
            threads=0 if gpus else math.ceil(cluster.cpus),
            gpu_memory_utilization=0.9 * (gpus or 1.0),
        )
        return RayEngine(self.models[name].name, settings, cluster, log_file=self._log_file(name, logs))

    def _remote(self, name: str, served: BackendConfig) -> Engine:
        from gra.engines.openai_server.engine import OpenAIEngine, ServerSettings

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
        """Return vLLM engines by model name, and the memory in GB that they may take together."""
        models = {name: self.models[name] for name in self.here}
        if not models:
            return {}, 0.0
        gpu = gpu_memory_gb()
        sizes = {
            name: weights_gb(m.path, on_gpu=gpu is not None) + adapters_gb(self.adapters.get(name, {}).values())
            for name, m in models.items()
        }
        memory_plan = plan_memory(sizes, self.engine, gpu, available_gb())
        few_cores = gpu is None and on_few_cores(self.engine)
        engines: dict[str, Engine] = {}
        for name, model in models.items():
            settings = replace(
                self._settings(name, memory_plan.kv_gb),
                threads=0 if gpu is not None else cpu_threads(self.engine),
                gpu_memory_utilization=0.9 if gpu is None else min(0.92, memory_plan.memory_gb[name] / gpu),
                sleep_level=memory_plan.sleep_level,
                step_tokens=STEP_TOKENS if few_cores else 0,
                cores_file=str(cores_file()) if few_cores and len(models) > 1 else "",
            )
            engines[model.name] = VllmEngine(
                model.name,
                settings,
                memory_gb=memory_plan.memory_gb[name],
                log_file=self._log_file(name, logs),
                asleep_gb=memory_plan.asleep_gb,
            )
        return engines, memory_plan.limit_gb

    def _settings(self, name: str, kv_gb: float) -> VllmSettings:
        """Return the settings that hold on this machine and on a cluster."""
        path = self.models[name].path
        adapters = self.adapters.get(name, {}).values()
        return VllmSettings(
            path=path,
            max_model_len=min(self.engine.max_model_len, context_length(path)),
            kv_cache_gb=kv_gb,
            threads=0,
            concurrency=self.engine.concurrency,
            start_timeout_s=self.engine.start_timeout_s,
            adapters={adapter.identity: str(adapter.path) for adapter in adapters},
            lora_rank=max((adapter.rank for adapter in adapters), default=0),
            lora_modules=tuple(sorted({module for adapter in adapters for module in adapter.modules})),
            rewards=name in self.rewards,
        )

    def _log_file(self, name: str, logs: Path) -> Path:
        return logs / f"engine-{self.models[name].name.replace('/', '--')}.log"


def find_models(recipes: Sequence[SynthesisRecipe], view: View) -> ModelRegistry:
    """Resolve every model that the recipes name; note a missing member where the recipe allows one.

    Raises:
        ModelUnavailable: when a model that a recipe needs is missing.
        RecipeError: when a model has no chat template, or `engine.weights` cannot be had.
    """
    registry = ModelRegistry(recipes[0].engine)
    for recipe in recipes:
        check_weights(recipe)
        if recipe.engine != registry.engine:
            raise RecipeError(
                f"the arms `{recipes[0].name}` and `{recipe.name}` share engines; give them the same `engine`"
            )
        for member, optional in _members(recipe):
            served = member.engine or recipe.engine
            if member.adapter is not None and served.kind == "openai":
                raise RecipeError(
                    f"`adapter: {member.adapter}` cannot be used with a server, which holds its adapters itself: "
                    "leave it out and give the name under which the server knows the adapter as `model`"
                )
            if served.kind == "openai":
                _find_served(registry, member.model, served)
            elif member.model in registry.servers:
                raise _two_places(member.model)
            else:
                _find_here(registry, member, served, optional, recipe.accept_licenses, view)
            if member.adapter is not None:
                _find_adapter(registry, member)
    for name, model in registry.models.items():
        if name not in registry.servers and not has_chat_template(model.path):
            if name in registry.rewards:
                raise RecipeError(
                    f"`{model.name}` has no chat template, with which a reward model reads an instruction and its "
                    "answer; save it again with a tokenizer that has one"
                )
            raise RecipeError(
                f"`{model.name}` has no chat template (a base model?), so it cannot be a member or a teacher; "
                "choose its instruction-tuned version"
            )
    if registry.engine.weights == "int8":
        for name in registry.here:
            registry.models[name] = int8_model(registry.models[name], view.note)
    return registry


def _members(recipe: SynthesisRecipe) -> list[tuple[MemberConfig, bool]]:
    """Return the members of a recipe, and whether it can do without each."""
    committee = committee_of(recipe)
    return [(member, committee.allow_missing) for member in committee.models.values()] if committee else []


def _find_here(
    registry: ModelRegistry,
    member: MemberConfig,
    served: BackendConfig,
    optional: bool,
    licences: Sequence[str],
    view: View,
) -> None:
    """Add a model whose weights are on this machine, to be served here or on a cluster."""
    known = registry.served(member)
    if known is None:
        _find(registry, member, optional, licences, view)
    name = registry.served(member)
    if name is None:
        return
    check_head(member, name, registry.models[name].path)
    if member.ask == "reward":
        registry.rewards.add(name)
    place = _place(served) if served.kind == "ray" else None
    if known is not None and registry.clusters.get(name) != place:
        raise _two_places(name)
    if place is not None:
        registry.clusters[name] = place


def check_head(member: MemberConfig, name: str, path: Path) -> None:
    """Check that a member's model gives what the member is asked for: a reward, or text.

    Args:
        member: the member.
        name: its model or fallback.
        path: the folder of that model.

    Raises:
        RecipeError: a model without a head is asked for rewards, or a reward model for text.
    """
    if member.ask == "reward":
        require_reward_head(name, path)
    else:
        refuse_reward_model(
            name, path, "set `ask: reward` and `roles: [reviewer]` for this member, or name a model that writes"
        )


def _place(served: BackendConfig) -> BackendConfig:
    """Return where a model runs, without the other keys of the recipe's `engine`."""
    return BackendConfig(**served.model_dump(include=set(BackendConfig.model_fields)))


def _find(registry: ModelRegistry, member: MemberConfig, optional: bool, licences: Sequence[str], view: View) -> None:
    for name in filter(None, (member.model, member.fallback)):
        if name in registry.models:
            return
        try:
            registry.models[name] = resolve(name, accept_licenses=licences, progress=view.note)
            return
        except ModelUnavailable as error:
            if not optional and (member.fallback is None or name == member.fallback):
                raise
            registry.missing[name] = str(error)
            view.note(f"! {error}")


def _find_adapter(registry: ModelRegistry, member: MemberConfig) -> None:
    """Add a member's adapter."""
    assert member.adapter is not None
    adapters = registry.adapters.setdefault(member.model, {})
    if member.adapter not in adapters:
        model = registry.models.get(member.model)
        adapters[member.adapter] = find_adapter(member.adapter, model.path if model is not None else None)


def _find_served(registry: ModelRegistry, name: str, served: BackendConfig) -> None:
    """Add a model behind a server; the engine's start checks whether the server has it."""
    check_key(served)
    place = _place(served)
    if name in registry.models and registry.servers.get(name) != place:
        raise _two_places(name)
    registry.servers[name] = place
    registry.models[name] = ResolvedModel(
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
    """Start the engines, together where memory allows, and end them after the block."""
    names = ", ".join(pool.engines)
    try:
        if pool.engines:
            how = "together" if pool.swapper.together() else "in turns, memory does not hold all of them"
            with view.stage("engines", f"{names} ({how})"):
                await pool.swapper.warm()
        yield pool
    finally:
        await pool.swapper.close()


def weights_gb(path: Path, *, on_gpu: bool) -> float:
    """Return the GB of a model's weights: the size of their files, with 16-bit numbers as wide as they are computed."""
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    added = width("bfloat16", on_gpu=on_gpu) - 2
    return (stored + (added * count_half_parameters(path) if added else 0)) / 2**30
