"""Quotas: exact rows per domain, decided in candidate order, at any concurrency."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_rounds import check_ended_once, run
from scripted_run import answer_by_content, make_recipe, make_seeds, said

from gra.core.types import Candidate, State
from gra.data.export import lineage_row, training_row
from gra.engines.types import Call, Completion, Fault
from gra.stats.apportion import apportion
from gra.synthesis.rounds.quotas import Quotas, rows_by_domain

shares = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.floats(0, 1000), min_size=1).filter(
    lambda given: sum(given.values()) > 0
)


@given(shares, st.integers(0, 10_000))
def test_shares_become_whole_rows_that_add_up(given, total: int) -> None:
    rows = apportion(given, total)
    assert sum(rows.values()) == total
    whole = sum(given.values())
    assert all(abs(rows[name] - total * share / whole) <= 1.001 for name, share in given.items())
    assert all(rows[name] == 0 for name, share in given.items() if share == 0)


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [(None, None), ("even", {"qa": 6, "math": 5}), ({"qa": 1, "math": 10}, {"qa": 1, "math": 10}),
     ({"qa": 0, "math": 0.3}, {"qa": 0, "math": 11})],
)  # fmt: skip
def test_what_a_recipe_may_say(quotas, expected) -> None:
    recipe = make_recipe(rounds={"accept": 11, "quotas": quotas})
    assert rows_by_domain(recipe) == expected


@pytest.mark.parametrize(
    ("quotas", "problem"),
    [
        ({"qa": 1}, "one share for each of `domains`, and no other \\(see math\\)"),
        ({"qa": 1, "math": 1, "maths": 1}, "see maths"),
        ({"qa": 0, "math": 0}, "leaves no rows to any domain"),
        ({"qa": -1, "math": 1}, "greater than or equal to 0"),
        ("uneven", "even"),
    ],
)
def test_what_it_may_not(quotas, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make_recipe(rounds={"quotas": quotas})


def row(index: int, domain: str) -> Candidate:
    return Candidate(f"r1-{index:06d}", 1, index, domain, State.ACCEPTED, "reviewers agree")


@given(st.lists(st.sampled_from(["qa", "math"]), max_size=40), st.sampled_from([None, "even", {"qa": 3, "math": 1}]))
def test_rows_beyond_their_place_are_surplus_and_the_first_ones_stay(domains, quotas) -> None:
    wanted = Quotas(make_recipe(rounds={"accept": 8, "quotas": quotas}), 1)
    kept = [row(i, domain) for i, domain in enumerate(domains)]
    over = wanted.surplus(kept)
    stays = [c for c in kept if c.index not in over]
    assert len(stays) + wanted.missing(Counter(c.domain for c in kept)) == 8
    assert all(reason.startswith("accepted after ") for reason in over.values())
    for domain, rows in (wanted.rows or {}).items():
        mine = [c for c in kept if c.domain == domain]
        assert [c for c in stays if c.domain == domain] == mine[:rows]
    if wanted.rows is None:
        assert stays == kept[:8]


def stubborn(call: Call) -> Completion | Fault:
    """Math is hard: two of three of its exercises are thought unclear."""
    prompt = call.messages[-1][1]
    if (
        call.role == "generator"
        and "must be about" in prompt
        and '"math"' in prompt
        and zlib.crc32(prompt.encode()) % 3
    ):
        return said('{"exercise": "Unclear exercise of no use."}')
    if call.role == "reviewer" and "Unclear exercise" in prompt:
        return said('{"reasonable": false, "complete": false, "clear": false}')
    return answer_by_content(call)


@pytest.mark.parametrize("quotas", ["even", {"qa": 1, "math": 3}])
def test_a_round_with_quotas_is_exact_and_the_same_alone_and_in_a_crowd(tmp_path: Path, quotas) -> None:
    recipe = make_recipe(rounds={"count": 1, "accept": 24, "max_candidates": 400, "quotas": quotas})
    one = run(tmp_path, recipe, 1, stubborn, up_to_s=0.0, seeds=make_seeds(6))
    many = run(tmp_path, recipe, 64, stubborn, seeds=make_seeds(6))
    for result in (one, many):
        check_ended_once(result)
        assert result.stopped == "enough accepted"
        assert Counter(c.domain for c in result.accepted) == rows_by_domain(recipe)
    assert [training_row(c) for c in one.accepted] == [training_row(c) for c in many.accepted]
    shared = min(len(one.candidates), len(many.candidates))
    last = max(c.index for c in one.accepted) + 1
    assert last <= shared
    assert [lineage_row(c) for c in one.candidates[:last]] == [lineage_row(c) for c in many.candidates[:last]]


def test_what_lacks_most_is_asked_for_most(tmp_path: Path) -> None:
    rounds = {"count": 1, "accept": 36, "max_candidates": 800, "quotas": "even"}
    recipe = make_recipe(rounds=rounds, dedup={"threshold": 0.999})
    result = run(tmp_path, recipe, 64, stubborn, seeds=make_seeds(6))
    tried = Counter(c.domain for c in result.candidates)
    assert Counter(c.domain for c in result.accepted) == {"qa": 18, "math": 18}
    passed = Counter(c.domain for c in result.candidates if c.state in (State.ACCEPTED, State.SURPLUS))
    hard, easy = sorted(tried, key=lambda domain: passed[domain] / tried[domain])
    assert tried[hard] > 1.3 * tried[easy]
    reasons = {c.reason for c in result.candidates if c.state is State.SURPLUS}
    assert reasons <= {"accepted after the quota of qa was full", "accepted after the round was full",
                       "accepted after the quota of math was full"}  # fmt: skip


def test_a_verdict_reached_for_another_domain_is_not_used(tmp_path: Path) -> None:
    """Quotas decide a candidate's domain; verdicts recorded without quotas have other domains."""
    path = tmp_path / "shared.sqlite"
    plain = make_recipe(rounds={"count": 1, "accept": 20, "max_candidates": 20})
    run(tmp_path, plain, 8, path=path)
    math = make_recipe(rounds={"count": 1, "accept": 20, "max_candidates": 20, "quotas": {"qa": 0, "math": 1}})
    result = run(tmp_path, math, 8, path=path)
    assert {c.domain for c in result.candidates} == {"math"}
    again = run(tmp_path, plain, 8, path=path)
    assert Counter(c.domain for c in again.candidates) == {"qa": 10, "math": 10}


def test_a_quota_that_cannot_be_filled_ends_at_the_candidate_limit(tmp_path: Path) -> None:
    def never_math(call: Call) -> Completion | Fault:
        prompt = call.messages[-1][1]
        if call.role == "generator" and "of this kind about" in prompt and "domain math" in prompt:
            return said("not JSON at all")
        return answer_by_content(call)

    recipe = make_recipe(rounds={"count": 1, "accept": 12, "max_candidates": 120, "quotas": "even"})
    result = run(tmp_path, recipe, 16, never_math, seeds=make_seeds(6))
    assert result.stopped == "candidate limit"
    assert len(result.candidates) == 120
    assert Counter(c.domain for c in result.accepted) == {"qa": 6}


def test_share_that_gives_no_row_is_refused_before_anything_is_spent() -> None:
    rounds = {"count": 1, "accept": 10, "max_candidates": 40}
    with pytest.raises(ValueError, match=r"leaves no row of 10 to math; raise `rounds\.accept` or the share"):
        make_recipe(rounds=rounds | {"quotas": {"qa": 0.99, "math": 0.01}})
    assert rows_by_domain(make_recipe(rounds=rounds | {"quotas": {"qa": 1, "math": 0}})) == {"qa": 10, "math": 0}
