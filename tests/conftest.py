"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from paths import ROOT
from recorded_runs import make_run as make_run
from scripted_run import Script, answer_by_content
from xdist.scheduler import LoadScopeScheduling

from gra.config.review import ReviewConfig
from gra.engines.mock import MockEngine
from gra.engines.types import ModelId, SamplingSettings
from gra.ledger.ledger import Ledger
from gra.synthesis.committee.members import Member

# setuptools refuses to replace a distutils that some earlier import has loaded; vLLM imports setuptools.
if sys.version_info < (3, 12):
    os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")

# Two busy cores make any deadline a coin toss; the time limit of a test is pytest's.
settings.register_profile("gra", deadline=None, max_examples=50)
settings.load_profile("gra")

# Where the tests run in the background of a script, the shell has Ctrl-C ignored, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny networks compute on one thread; threads that wait for each other take cores from the other workers."""
    if request.node.get_closest_marker("models") is None:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _bfloat16_at_speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let planned types and sizes be the same on every machine; real weights are computed as the machine does best."""
    if request.node.get_closest_marker("models") is None:
        monkeypatch.setattr("gra.core.hardware.cpu_computes_bfloat16", lambda: True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, monkeypatch) -> None:
    """No test reads or fills the user's cache, except those that run real weights and share theirs."""
    if request.node.get_closest_marker("models") is None:
        # One a test module: what one module puts into it must not decide another's tests.
        name = request.path.relative_to(ROOT).as_posix().replace("/", "-")
        monkeypatch.setenv("GRA_CACHE", str(tmp_path_factory.getbasetemp() / "cache" / name))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public seeds, benchmarks and judgements that lie beside the repository on some machines."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the optional data folder {folder}")
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite", run="test")
    yield ledger
    ledger.close()


@pytest.fixture
def scripted_committee() -> Callable[..., tuple[dict[str, Member], dict[str, MockEngine]]]:
    """Makes members on scripted engines, one model each unless `weights` says otherwise."""

    def make(
        names: str = "abcde",
        script: Script = answer_by_content,
        *,
        weights: dict[str, str] | None = None,
        ask: str = "integers",
        delay_s: float = 0.0,
    ) -> tuple[dict[str, Member], dict[str, MockEngine]]:
        models = {name: (weights or {}).get(name, f"model-{name}") for name in names}
        sampling = SamplingSettings(0.7, 0.95, 1.0, 256)
        members = {
            name: Member(
                name,
                ModelId(model, f"sha256:{model}", "template-1"),
                None,
                sampling,
                ("generator", "reviewer", "adjudicator"),
                ReviewConfig(ask=ask).ask,  # type: ignore[arg-type]
            )
            for name, model in models.items()
        }
        engines = {model: MockEngine(model, script, delay_s=delay_s) for model in models.values()}
        return members, engines

    return make


# Modules that take longest, as they start. Those that run vLLM are far apart, so that no two run at the same time.
FIRST = [
    "test_end_to_end.py", "training/test_methods.py", "evaluation/test_suites.py", "synthesis/test_resume.py",
    "evaluation/test_evaluation.py", "training/test_equal_runs.py", "training/test_recipes.py", "training/test_runs.py",
    "training/test_plan.py", "api/test_experiments.py", "synthesis/arms/test_arms.py", "synthesis/test_rounds.py",
    "forecast/test_plan.py", "runs/test_damaged_runs.py", "stats/test_error_rates.py",
    "sandbox/test_abuse.py", "checks/test_hostile_texts.py", "test_golden_runs.py", "models/test_gguf.py",
    "runs/test_push.py", "synthesis/test_decontamination.py", "engines/openai_server/test_synthesis.py",
    "sandbox/test_sandbox.py", "cli/test_hostile_recipes.py",
]  # fmt: skip


# Folders and modules that import torch and trl; one process runs them all, because the imports take it 15 s.
TOGETHER = {"training": "training", "api/test_experiments.py": "training", "api/test_models.py": "training",
            "evaluation": "evaluation"}  # fmt: skip


class ByImports(LoadScopeScheduling):
    """Keep a module in one process, and with it the modules that have the same imports."""

    def _split_scope(self, nodeid: str) -> str:
        name = nodeid.partition("::")[0].removeprefix("tests/")
        return TOGETHER.get(name) or TOGETHER.get(name.partition("/")[0]) or name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByImports:
    """Distribute modules to processes by what they import."""
    return ByImports(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long modules first, so that none is left for the end."""
    order = {ROOT / "tests" / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
