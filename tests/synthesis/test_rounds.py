"""Whole rounds on scripted models: concurrency never changes the dataset, and every candidate ends exactly once."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scripted_rounds import check_ended_once, make_setting, run, run_one, run_round, small
from scripted_run import (
    JitteryEngine,
    answer_by_content,
    make_recipe,
    make_seeds,
    open_ledger,
    said,
)

from gra.core.errors import DataError, EngineUnavailable
from gra.core.types import CHECKS, Candidate, Seed, State
from gra.data.dedup.greedy import greedy_dedup
from gra.data.export import TRAIN_SCHEMA, lineage_row, training_row
from gra.engines.broker import Broker, EnginePool
from gra.engines.types import Call, Completion, Fault
from gra.synthesis.candidate import candidate_id, generate_candidate
from gra.synthesis.rounds import dedup as round_dedup
from gra.synthesis.rounds.round import Round, grow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rounds")


# --- concurrency ----------------------------------------------------------------------------------------------------


@settings(max_examples=6, phases=[Phase.reuse, Phase.generate])  # a smaller seed is no simpler example
@given(seed=st.integers(0, 10**6), comments=st.sampled_from(["always", "disputed", "never"]))
def test_rows_are_the_same_with_1_and_256_candidates_in_flight(folder, seed: int, comments: str) -> None:
    recipe = small(seed=seed, review={"comments": comments})
    one, many = run(folder, recipe, 1, up_to_s=0.0), run(folder, recipe, 256)
    for result in (one, many):
        check_ended_once(result)
        assert result.stopped == "enough accepted"
        assert len(result.accepted) == 8
    assert [training_row(c) for c in one.accepted] == [training_row(c) for c in many.accepted]
    # Alone, nothing is begun after the round is full; what is begun beside it is counted and changes nothing.
    assert [lineage_row(c) for c in one.candidates] == [lineage_row(c) for c in many.candidates]
    assert one.beyond == 0


@pytest.mark.parametrize(
    ("ask", "accept_mean", "dispute_std"), [("yes_no", 4.8, 0.6), ("expected", 4.95, 0.13), ("likelihood", -2.0, 12.0)]
)
def test_every_way_of_asking_is_the_same_alone_and_in_a_crowd(folder, ask: str, accept_mean, dispute_std) -> None:
    """Opinions here are noise around the middle of each scale; thresholds so that all three gates fire."""
    models = {n: {"model": n, "ask": ask, "roles": ["reviewer"]} for n in "abc"}
    models |= {n: {"model": n, "ask": "yes_no", "roles": ["generator", "adjudicator"]} for n in "de"}
    setting = make_setting(make_recipe(committee={"models": models}, review={"control_items": 1}))
    review = setting.recipe.review.model_copy(update={"accept_mean": accept_mean, "dispute_std": dispute_std})
    rounds = setting.recipe.rounds.model_copy(update={"count": 1, "accept": 60, "max_candidates": 60})
    recipe = setting.recipe.model_copy(update={"review": review, "rounds": rounds})
    lenient = {n: dict.fromkeys(CHECKS, 0.1) for n in "abc"}
    one = run(folder, recipe, 1, up_to_s=0.0, thresholds=lenient)
    many = run(folder, recipe, 64, thresholds=lenient)
    assert [lineage_row(c) for c in one.candidates] == [lineage_row(c) for c in many.candidates]
    scored = [c for c in many.candidates if c.mean is not None]
    assert any(c.disputed for c in scored)
    assert {c.state for c in scored if not c.disputed} >= {State.ACCEPTED, State.REJECTED}


# --- how rounds end -------------------------------------------------------------------------------------------------


def test_a_round_ends_with_the_candidate_that_filled_it_and_counts_what_was_begun_beyond(folder: Path) -> None:
    found = [run(folder, small(seed=seed), 64, up_to_s=0.01) for seed in range(5)]
    assert all(result.candidates[-1].state is State.ACCEPTED for result in found)
    assert sum(result.beyond for result in found) > 0


def test_admission_narrows_so_that_little_is_left_over(folder: Path) -> None:
    results = [run(folder, small(seed=seed), 64) for seed in range(5)]
    needed, beyond = [len(r.candidates) for r in results], [r.beyond for r in results]
    assert sum(beyond) < 0.7 * sum(needed), (beyond, needed)


def test_a_round_full_of_copies_keeps_many_candidates_in_flight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[tuple[int, int]] = []
    room_of = Round._room

    def noting(self: Round) -> int:
        rooms.append((self._accepted.total(), room_of(self)))
        return rooms[-1][1]

    monkeypatch.setattr(Round, "_room", noting)
    rounds = {"count": 1, "accept": 20, "max_candidates": 90}
    result = run(folder, make_recipe(rounds=rounds, dedup={"threshold": 0.5}), 64)
    assert sum(c.state is State.DUPLICATE for c in result.candidates) > 20
    assert max(room for accepted, room in rooms if accepted >= 20) > 10


def test_the_candidate_limit_ends_a_round_that_cannot_be_filled(folder: Path) -> None:
    recipe = make_recipe(rounds={"count": 1, "accept": 30, "max_candidates": 30})
    one, many = run(folder, recipe, 1, up_to_s=0.0), run(folder, recipe, 64)
    assert one.stopped == many.stopped == "candidate limit"
    assert len(one.candidates) == 30
    assert [lineage_row(c) for c in one.candidates] == [lineage_row(c) for c in many.candidates]
    assert len({c.state for c in one.candidates}) >= 3


def test_a_large_round_decides_the_same_and_names_the_neighbours_of_duplicates_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_, limit = run(folder, small(), 8).candidates, "_NEIGHBOURS_UP_TO"
    monkeypatch.setattr(round_dedup, limit, 0)
    large = run(folder, small(), 8).candidates
    assert [(c.id, c.state, c.reason) for c in large] == [(c.id, c.state, c.reason) for c in small_]
    kept = [(a.neighbour, b.neighbour) for a, b in zip(small_, large, strict=True) if a.state is State.ACCEPTED]
    assert any(named for named, _ in kept)
    assert not any(named for _, named in kept)
    assert {c.neighbour for c in large if c.state is State.DUPLICATE} - {""}


def test_duplicates_know_their_neighbour(folder: Path) -> None:
    recipe = make_recipe(rounds={"count": 1, "accept": 60, "max_candidates": 60}, dedup={"threshold": 0.8})
    result = run(folder, recipe, 64)
    by_id = {c.id: c for c in result.candidates}
    duplicates = [c for c in result.candidates if c.state is State.DUPLICATE]
    assert len(duplicates) > 3
    for c in duplicates:
        assert c.similarity is not None
        assert c.similarity >= 0.8
        assert c.neighbour in c.reason
        if c.neighbour in by_id:
            twin = by_id[c.neighbour]
            assert twin.state is State.ACCEPTED
            assert (twin.mean, -twin.index) > (c.mean, -c.index)
        else:
            assert c.neighbour in {seed.id for seed in make_seeds()}
    for c in result.accepted:
        assert c.similarity is not None
        assert c.similarity < 0.8


def test_a_row_like_a_seed_is_a_duplicate_of_the_seed_even_when_the_seed_can_be_no_parent(folder: Path) -> None:
    lonely = Seed("twin", "qa", "Write about tides, owls, bread (0).", "r")
    assert not lonely.enriched

    def script(call: Call) -> Completion | Fault:
        if "of this kind about" in call.messages[-1][1]:
            return said('{"exercise": "Write about tides, owls, bread (0)."}')
        return answer_by_content(call)

    recipe = make_recipe(rounds={"count": 1, "accept": 5, "max_candidates": 12})
    result = run(folder, recipe, 8, script, seeds=[*make_seeds(), lonely])
    assert result.accepted == []
    passed = [c for c in result.candidates if c.state is State.DUPLICATE]
    assert passed
    assert {c.neighbour for c in passed} == {"twin"}
    assert all("twin" not in c.parents for c in result.candidates)


def test_a_round_is_never_fuller_than_asked(folder: Path) -> None:
    """`top` pushes out `middle`, which had kept out both of its sides: one candidate more, two rows more."""
    twenty, sine = math.cos(math.radians(20)), math.sin(math.radians(20))
    given = {
        "middle": ((1, 0, 0), 9.0), "left": ((twenty, sine, 0), 8.1), "right": ((twenty, -sine, 0), 8.2),
        "top": ((twenty, 0, sine), 10.0),
    }  # fmt: skip

    class Angles:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array([given[text][0] for text in texts], np.float32).reshape(-1, 3)

    class GivenRound(Round):
        def _domain(self, index: int) -> str:
            return "qa"

        async def _generate(self, index: int, domain: str) -> Candidate:
            name, (_, mean) = list(given.items())[index]
            ended = Candidate(
                candidate_id(1, index), 1, index, "qa", State.ACCEPTED, "told", instruction=name, mean=mean
            )
            await ledger.conclude(ended.id, ended.to_json(), self._scope)
            return ended

    ledger = open_ledger(folder / "told.sqlite")
    recipe = make_recipe(rounds={"count": 1, "accept": 2, "max_candidates": 4})
    broker = Broker(ledger, EnginePool({}, 1.0))
    result = asyncio.run(run_round(GivenRound(make_setting(recipe), broker, ledger, {}, Angles(), 1, 1)))  # type: ignore[arg-type]
    ledger.close()
    assert {c.instruction: c.state.value for c in result.candidates} == {
        "middle": "duplicate", "left": "accepted", "right": "accepted", "top": "surplus"
    }  # fmt: skip
    assert result.stopped == "enough accepted"


def test_a_round_is_deduplicated_row_by_row_and_as_a_whole_only_once(folder: Path, monkeypatch) -> None:
    calls: list[int] = []

    def counted(vectors: np.ndarray, *args: Any, **options: Any) -> Any:
        calls.append(len(vectors))
        return greedy_dedup(vectors, *args, **options)

    monkeypatch.setattr(round_dedup, "greedy_dedup", counted)
    recipe = make_recipe(rounds={"count": 1, "accept": 20, "max_candidates": 300}, dedup={"threshold": 0.85})
    result = run(folder, recipe, 16)
    assert result.stopped == "enough accepted"
    states = Counter(c.state for c in result.candidates)
    assert states[State.DUPLICATE] > 3  # so that the round was nearly full more than once
    assert calls == [states[State.ACCEPTED] + states[State.DUPLICATE]]


def test_a_duplicate_says_which_stage_found_it(folder: Path) -> None:
    recipe = make_recipe(
        rounds={"count": 1, "accept": 300, "max_candidates": 300}, dedup={"threshold": 0.8, "minhash": 0.6}
    )
    result = run(folder, recipe, 16)
    found = Counter(c.reason.removesuffix(f" {c.neighbour}") for c in result.candidates if c.state is State.DUPLICATE)
    assert set(found) == {"same text as", "nearly the wording of", "too similar to"}


def test_without_two_parents_there_is_one_clear_sentence(folder: Path) -> None:
    lonely = [Seed("a", "qa", "i", "r", ("x", "y", "z"), "s"), Seed("b", "qa", "i", "r")]
    with pytest.raises(DataError, match="needs two parents"):
        run(folder, small(), 4, seeds=lonely)


def test_domains_take_turns(folder: Path) -> None:
    recipe = make_recipe(rounds={"count": 1, "accept": 40, "max_candidates": 40})
    counts = Counter(c.domain for c in run(folder, recipe, 64).candidates)
    assert counts == {"qa": 20, "math": 20}


# --- budget ---------------------------------------------------------------------------------------------------------


def test_a_spent_budget_stops_admission_finishes_what_is_paid_and_leaves_a_valid_dataset(folder: Path) -> None:
    recipe = make_recipe(rounds={"count": 1, "accept": 200, "max_candidates": 200})
    result = run(folder, recipe, 8, token_budget=20_000)
    assert result.stopped == "budget"
    check_ended_once(result)
    assert 0 < len(result.accepted) < len(result.candidates) < 200
    table = pa.Table.from_pylist([training_row(c) for c in result.accepted], schema=TRAIN_SCHEMA)
    assert table.num_rows == len(result.accepted)


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_third_of_all_calls_failing_in_every_way_leaves_every_candidate_with_one_end(folder: Path) -> None:
    luck = random.Random(3)
    refused = said("I cannot help with that", "refusal")

    def script(call: Call) -> Completion | Fault:
        if luck.random() < 0.3:
            return luck.choice([
                refused, said('{"corr', "length"), said("{}"), Fault("died", "killed"), Fault("timeout", "slow"),
                Fault("error", "odd"), Fault("error", "too long", permanent=True),
            ])  # fmt: skip
        return answer_by_content(call)

    recipe = make_recipe(rounds={"count": 1, "accept": 60, "max_candidates": 60})
    result = run(folder, recipe, 16, script)
    check_ended_once(result)
    assert len(result.candidates) == 60
    failed = [c for c in result.candidates if c.state is State.FAILED]
    assert len(failed) > 5
    assert len({c.reason for c in failed}) > 2
    for c in result.candidates:
        # A score exists only where every reviewer gave all six, and never came from a failure.
        assert (c.mean is not None) == (len(c.reviews) == 3)
        assert all(len(review.values) == 6 for review in c.reviews)
        assert c.state not in (State.ACCEPTED, State.DUPLICATE) or c.mean is not None
        assert c.state is not State.ACCEPTED or (c.instruction and c.response)


def test_an_engine_lost_for_good_stops_the_round_at_once_and_nothing_goes_on_spending(folder: Path) -> None:
    asked = 0

    def script(call: Call) -> Completion:
        nonlocal asked
        asked += 1
        if asked >= 40:
            raise EngineUnavailable("lost")
        return answer_by_content(call)

    async def scenario() -> None:
        with pytest.raises(EngineUnavailable, match="lost"):
            await run_one(folder / "lost.sqlite", small(), 16, script)
        at_the_end = asked
        await asyncio.sleep(0.05)
        assert asked <= at_the_end + 16 * 3  # calls on their way to an engine, and no new candidate
        assert not [t for t in asyncio.all_tasks() if "_generate" in repr(t)]

    asyncio.run(scenario())


def test_order_of_reviewers_answers_does_not_change_the_candidate(folder: Path) -> None:
    """Reasons, calls and costs must not depend on who was fastest, not even when several reviewers fail."""

    def script(call: Call) -> Completion | Fault:
        if call.role == "reviewer" and call.member in "abc":
            return said(f"{call.member} never answers in JSON")
        return answer_by_content(call)

    recipe = small()
    setting = make_setting(recipe)
    outcomes = set()
    for attempt in range(6):
        names = {member.model.name for member in setting.members.values()}
        engines = {n: JitteryEngine(n, script, up_to_s=0.003) for n in names}
        ledger = open_ledger(folder / f"first-{attempt}.sqlite")
        broker = Broker(ledger, EnginePool(engines, 100.0), backoff_s=0.0)
        ended = asyncio.run(generate_candidate(setting, broker, grow({}, make_seeds()), 1, 3))
        outcomes.add(repr(ended))
        assert ended.state is State.FAILED
        ledger.close()
    assert len(outcomes) == 1
