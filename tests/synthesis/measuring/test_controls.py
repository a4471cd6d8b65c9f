"""Control items: each shows its fault, good ones are seeds as they are, and draws follow from the seed alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from gra.checks.format import failed
from gra.checks.instruction_constraints import read_constraints
from gra.config.synthesis import DOMAINS
from gra.core.types import Seed
from gra.data.seeds.load import load_seeds
from gra.synthesis.measuring.controls import (
    INSTRUCTION_FAULTS,
    RESPONSE_FAULTS,
    ControlKind,
    halves,
    instruction_controls,
    response_controls,
)

SEEDS = load_seeds(ROOT / "recipes/seeds/quickstart.jsonl", DOMAINS).rows
BY_ID = {seed.id: seed for seed in SEEDS}


def test_shipped_seeds_give_every_kind_of_fault() -> None:
    responses = Counter(item.kind for item in response_controls(SEEDS, 8, 0))
    instructions = Counter(item.kind for item in instruction_controls(SEEDS, 8, 0))
    assert responses == dict.fromkeys((ControlKind.GOOD, *RESPONSE_FAULTS), 8)
    assert instructions == {ControlKind.GOOD: 70, **dict.fromkeys(INSTRUCTION_FAULTS, 8)}


@given(st.integers(0, 1000))
def test_each_item_shows_its_fault(seed: int) -> None:
    for item in response_controls(SEEDS, 6, seed):
        own = BY_ID[item.seed]
        assert item.instruction == own.instruction
        match item.kind:
            case ControlKind.GOOD:
                assert item.response == own.response
                assert item.is_good
            case ControlKind.MISMATCHED:
                assert item.response in {s.response for s in SEEDS if s.domain == own.domain} - {own.response}
            case ControlKind.TRUNCATED:
                assert own.response.startswith(item.response)
                assert not item.response.endswith((".", "!", "?"))
                assert len(item.response) < len(own.response)
            case ControlKind.CONTRADICTED:
                assert own.domain not in ("creation", "role-play")
                assert len(item.response.split()) in range(len(own.response.split()) - 1, len(own.response.split()) + 2)
                assert item.response != own.response
            case ControlKind.OFF_FORMAT:
                checks = read_constraints(own.instruction)
                assert not failed(checks, own.response)
                assert failed(checks, item.response)


def test_draws_follow_from_the_seed() -> None:
    assert response_controls(SEEDS, 6, 1) == response_controls(list(SEEDS), 6, 1)
    assert response_controls(SEEDS, 6, 1) != response_controls(SEEDS, 6, 2)


def test_instruction_faults_are_ill_posed() -> None:
    for item in instruction_controls(SEEDS, 8, 3):
        if item.kind is ControlKind.INCOMPLETE:
            assert BY_ID[item.seed].instruction.startswith(item.instruction)
            assert len(item.instruction) < len(BY_ID[item.seed].instruction)
        assert item.response == ""
        assert item.instruction.strip()


def test_time_of_day_is_no_passage() -> None:
    train = Seed("t", "math", "A train leaves at 14:35 and arrives at 17:10. How long does it take?", "155 minutes")
    found = instruction_controls([train, *SEEDS[:4]], 5, 0)
    assert not any(item.kind is ControlKind.INCOMPLETE and item.seed == "t" for item in found)


def test_halves_share_no_seed_sample() -> None:
    items = response_controls(SEEDS, 8, 0)
    one, two = halves(items, 0)
    assert len(one) + len(two) == len(items)
    assert not {item.seed for item in one} & {item.seed for item in two}


@pytest.mark.parametrize("seeds", [[], [Seed("a", "qa", "Say hello.", "Hello.")]])
def test_few_seeds_give_the_items_that_they_can(seeds: list[Seed]) -> None:
    kinds = {item.kind for item in response_controls(seeds, 4, 0)}
    assert kinds == ({ControlKind.GOOD} if seeds else set())
    assert {item.kind for item in instruction_controls(seeds, 4, 0)} >= {ControlKind.PERSONAL, ControlKind.IMPOSSIBLE}
