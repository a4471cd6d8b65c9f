"""The engines, models and embedder of a synthesis replaced by scripted ones, for tests that go through `run_jobs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_run import JitteryEngine, Script, WordEmbedder, answer_by_content, fake_resolve

from gra.engines.broker import EnginePool
from gra.engines.types import Call, Completion, Fault, ModelId
from gra.serving.models import ModelRegistry
from gra.synthesis import run as synthesis_run
from gra.synthesis.rounds import write_samples

Calls = list[Call]
UseEngines = Callable[..., Calls]


class MockRegistry(ModelRegistry):
    """Resolves every name, and serves it by a scripted engine."""

    script: Script = staticmethod(answer_by_content)
    delay_s = 0.002

    def model_id(self, name: str, adapter: str | None = None) -> ModelId:
        return ModelId(name, f"sha256:{name}", "template", adapter or "")

    def pool(self, logs: Path) -> EnginePool:
        return EnginePool({name: JitteryEngine(name, self.script, up_to_s=self.delay_s) for name in self.models}, 100.0)


@pytest.fixture
def mock_engines(monkeypatch: pytest.MonkeyPatch) -> UseEngines:
    """Return a function that puts scripted engines in place and returns the list of calls they receive."""

    def use(script: Script = answer_by_content, *, delay_s: float = 0.002) -> Calls:
        calls: Calls = []

        def recorded(call: Call) -> Completion | Fault:
            calls.append(call)
            return script(call)

        def find(recipes, view) -> MockRegistry:
            names = {m.model: fake_resolve(m.model) for r in recipes for m in synthesis_run.members_of(r)}
            registry = MockRegistry(recipes[0].engine, names)
            registry.script, registry.delay_s = recorded, delay_s  # type: ignore[method-assign]
            return registry

        monkeypatch.setattr(synthesis_run, "find_models", find)
        monkeypatch.setattr(write_samples, "Embedder", WordEmbedder)
        monkeypatch.setattr(write_samples, "resolve", fake_resolve)
        return calls

    return use
