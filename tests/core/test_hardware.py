"""The types that weights are computed in, and what they mean for engines, memory and students."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_tiny import under_test
from safetensors.torch import save_file
from scripted_run import make_recipe
from training_tiny import make_student

from gra.config.committee import EngineConfig
from gra.core import hardware
from gra.core.progress import View
from gra.engines.vllm import start
from gra.engines.vllm.engine import VllmSettings
from gra.serving.memory import engine_gb
from gra.serving.models import find_models, weights_gb

ZEN_4 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\nprocessor\t: 1\nflags\t\t: fpu\n"
HASWELL = "processor\t: 0\nmodel name\t: avx512f is not here\nflags\t\t: fpu fma avx avx2 f16c\n"
GRAVITON_3 = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd asimdhp\n"


@pytest.fixture
def slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_computes_bfloat16", lambda: False)


@pytest.mark.parametrize(
    ("report", "at_speed"), [(ZEN_4, True), (HASWELL, False), (GRAVITON_3, True), (GRAVITON_2, False), ("", True)]
)
def test_instruction_sets_say_whether_bfloat16_is_computed_at_speed(
    tmp_path: Path, report: str, at_speed: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(report)
    assert hardware.multiplies_bfloat16(hardware.cpu_flags(tmp_path / "cpuinfo")) is at_speed


def test_machine_without_a_report_has_no_known_instruction_sets(tmp_path: Path) -> None:
    assert hardware.cpu_flags(tmp_path / "none") == frozenset()


def test_only_bfloat16_on_such_a_cpu_is_computed_in_another_type(slow_bfloat16: None) -> None:
    found = [hardware.computing_type(dtype, on_gpu=gpu) for dtype in ("bfloat16", "float32") for gpu in (False, True)]
    assert found == ["float32", "bfloat16", "float32", "float32"]


def test_engine_computes_in_float32_and_its_cache_holds_as_many_tokens(slow_bfloat16: None) -> None:
    def engine(threads: int) -> Any:
        settings = VllmSettings(Path("weights"), max_model_len=512, kv_cache_gb=1.0, threads=threads, concurrency=8)
        given = start.engine_arguments(asdict(settings) | {"path": "weights"})
        return given["dtype"], given["kv_cache_memory_bytes"]

    assert [engine(2), engine(0)] == [("float32", 2 * 2**30), ("bfloat16", 2**30)]
    config = EngineConfig(kv_cache_gb=0.5)
    planned = [
        engine_gb(0.0, config, on_gpu) - engine_gb(0.0, EngineConfig(kv_cache_gb=1.5), on_gpu)
        for on_gpu in (False, True)
    ]
    assert planned == [-2.0, -1.0]


def test_weights_are_planned_as_wide_as_they_are_computed(tmp_path: Path, slow_bfloat16: None) -> None:
    half, full = torch.zeros(64, 64, dtype=torch.bfloat16), torch.zeros(64, 64)
    save_file({"a": half, "b": full, "c": torch.zeros(64, 64, dtype=torch.int8)}, tmp_path / "model.safetensors")
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert weights_gb(tmp_path, on_gpu=True) * 2**30 == pytest.approx(stored)
    assert weights_gb(tmp_path, on_gpu=False) * 2**30 == pytest.approx(stored + 2 * 64 * 64)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def test_evaluated_weights_are_rounded_alike_and_computed_in_float32(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_stored = under_test(student).load_weights("bfloat16", "cpu")
    monkeypatch.setattr(hardware, "cpu_computes_bfloat16", lambda: False)
    widened = under_test(student).load_weights("bfloat16", "cpu")
    assert (as_stored.dtype, widened.dtype) == (torch.bfloat16, torch.float32)
    for name, weight in as_stored.state_dict().items():
        assert torch.equal(widened.state_dict()[name], weight.float()), name


def test_a_run_on_such_a_cpu_says_that_it_takes_longer(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(student, weights)
    (weights / "chat_template.jinja").write_text("{{ messages[0].content }}")
    monkeypatch.setattr("gra.serving.models.gpu_memory_gb", lambda: None)
    recipe = make_recipe(committee={"models": {"a": str(weights)}, "reviewers": 0})
    found = find_models([recipe], View(None, quiet=True))
    assert found.speed_note() is None
    monkeypatch.setattr(hardware, "cpu_computes_bfloat16", lambda: False)
    assert "models compute in float32" in (found.speed_note() or "")
    monkeypatch.setattr("gra.serving.models.gpu_memory_gb", lambda: 80.0)
    assert found.speed_note() is None
