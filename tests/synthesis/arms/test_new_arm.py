"""An arm is one line of the arm table and one module; every listed arm has its module."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import scripted_run
from pydantic import ValidationError
from scripted_run import make_recipe, write_job

from gra.config.arms import ARMS, DISTILLED_SAMPLES, ArmSpec, find_arm
from gra.core.types import Seed, State
from gra.data.export import read_candidates
from gra.synthesis.arms import ArmCandidates, find_runner
from gra.synthesis.context import SynthesisContext
from gra.synthesis.from_seeds import copy_seed


def test_new_arm_is_one_line_and_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    echo = ModuleType("gra.synthesis.arms.echo")

    async def make_candidates(context: SynthesisContext, seeds: Sequence[Seed], first: int | None) -> ArmCandidates:
        copies = [copy_seed(context.recipe, f"echo-{seed.id}", i, seed, "echo") for i, seed in enumerate(seeds[:first])]
        return ArmCandidates([replace(copy, response=copy.instruction) for copy in copies], {"echoed": len(copies)})

    echo.make_candidates = make_candidates  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, echo.__name__, echo)
    monkeypatch.setitem(ARMS, "echo", ArmSpec("echo", keeps_seed_instructions=True))
    write_job(tmp_path, make_recipe(arm="echo", committee=None))
    scripted_run.make(tmp_path)
    candidates = read_candidates(tmp_path / "lineage.parquet")
    assert len(candidates) == 6
    assert all(c.state is State.ACCEPTED and c.response == c.instruction and c.arm == "echo" for c in candidates)
    facts = json.loads((tmp_path / "manifest.json").read_text())["synthesis"]
    assert (facts["arm"], facts["echoed"]) == ("echo", 6)


@pytest.mark.parametrize("spec", [*ARMS.values(), DISTILLED_SAMPLES], ids=lambda spec: spec.module)
def test_every_arm_has_its_module(spec: ArmSpec) -> None:
    assert callable(find_runner(spec))


def test_unknown_arm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"'vanilla', 'distilled', .* or 'annotate'"):
        make_recipe(arm="graa")


def test_teacher_decides_which_distilled_arm_it_is() -> None:
    assert find_arm("distilled", "answers").keeps_seed_instructions
    assert find_arm("distilled", "samples").writes_rounds
    assert not find_arm("gra", "samples").asks_teacher


def test_round_that_cannot_be_filled_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"`rounds.accept: 5` cannot be reached .*max_candidates: 2`.*Raise"):
        make_recipe(rounds={"accept": 5, "max_candidates": 2})
    with pytest.raises(ValidationError, match=r"cannot be split evenly over 2 domains"):
        make_recipe(rounds={"accept": 1, "max_candidates": 9, "quotas": "even"})
    with pytest.raises(ValidationError, match=r"`seeds.limit: 1` leaves one seed"):
        make_recipe(seeds={"source": "seeds.jsonl", "limit": 1})
    make_recipe(arm="vanilla", committee=None, rounds={"accept": 5, "max_candidates": 2})
