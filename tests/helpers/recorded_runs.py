"""Finished evaluations whose answers are given, for tests of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import tiny_suite, under_test

from gra.evaluation import run as harness
from gra.evaluation.generate import EvaluationRun
from gra.evaluation.task import SampleOutput

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Records an evaluation whose answers are given: which items pass, and which choices are right."""
    model = tmp_path / "weights"
    model.mkdir()
    (model / "config.json").write_text("{}")

    def make(
        name: str,
        passes: Sequence[int],
        right: Sequence[int] = (0,),
        *,
        prompt: str = "p",
        stops: bool = True,
        **suite: Any,
    ) -> Path:
        folder = tmp_path / f"suite-{name}"

        def outputs(run: EvaluationRun) -> dict[str, list[SampleOutput]]:
            written = [
                SampleOutput(
                    item.id,
                    item.asked,
                    prompt,
                    f"ok-{name}" if int(item.id[1:]) in passes else "no " * 9,
                    "stop" if stops else "length",
                    2,
                )
                for item in run.tasks[0].samples
            ]
            sums = [
                SampleOutput(
                    item.id, item.asked, "s", loglikelihoods=[0.0], acc=1.0, acc_norm=float(int(item.id[1:]) in right)
                )
                for item in run.tasks[1].samples
            ]
            return {"instructions": written, "sums": sums}

        monkeypatch.setattr(harness, "ask", lambda *_: None)
        monkeypatch.setattr(EvaluationRun, "outputs", outputs)
        harness.evaluate(tiny_suite(folder, **suite), under_test(model, name=name.split("#")[0]), tmp_path / name)
        return tmp_path / name

    return make
