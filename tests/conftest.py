"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from paths import ROOT
from recorded_runs import make_run as make_run
from scripted_run import Script, answer_by_content

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
def _own_cache(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, monkeypatch) -> None:
    """No test reads or fills the user's cache, except those that run real weights and share theirs."""
    if "models" not in request.keywords:
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest module first: it runs beside the others and does not lengthen the end."""
    items.sort(key=lambda item: item.path.name != "test_end_to_end.py")
