"""Chains of reviewers: who keeps which item, how verdicts combine, and what a chain is worth."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra.stats.chain import Chain, ChainFigures, Combine, fit_chain, measure_chain, route

COSTS = {"link0": 1.0, "link1": 2.0, "link2": 3.0}


def names(count: int) -> list[str]:
    return [f"item-{i}" for i in range(count)]


def peers(accuracies: tuple[float, ...], count: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return verdicts, and calibrated log-odds of independent links with these accuracies."""
    random = np.random.default_rng(seed)
    right = random.random(count) < 0.5
    odds = {}
    for place, accuracy in enumerate(accuracies):
        d = 2 * NormalDist().inv_cdf(accuracy)
        odds[f"link{place}"] = np.where(right, 1, -1) * d * d / 2 + random.normal(0, d, count)
    return right, odds


def measured(accuracies: tuple[float, ...], combine: Combine, seed: int = 0, count: int = 800) -> ChainFigures:
    right, odds = peers(accuracies, count, seed)
    found = measure_chain(list(odds), odds, right, names(count), COSTS, accept=0.0, combine=combine)
    assert found is not None
    return found


@given(
    st.integers(1, 5).flatmap(
        lambda links: st.lists(st.lists(st.integers(0, 4), min_size=links, max_size=links), min_size=1, max_size=40)
    )
)
def test_each_link_keeps_the_papers_share_of_its_most_confident_items(rows: list[list[int]]) -> None:
    gaps = np.array(rows, float).T
    last = route(gaps, names(len(rows)))
    waiting = np.ones(len(rows), bool)
    for link in range(len(gaps)):
        kept = waiting & (last == link)
        assert kept.sum() == waiting.sum() // (len(gaps) - link)
        forwarded = waiting & ~kept
        if kept.any() and forwarded.any():
            assert gaps[link, kept].min() >= gaps[link, forwarded].max()
        waiting = forwarded
    assert not waiting.any()


@given(st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=3, max_size=40))
def test_fixed_thresholds_give_calibration_items_the_links_that_the_batch_gave_them(rows: list[list[int]]) -> None:
    """Ties are many here: confidences are whole numbers."""
    odds = {f"link{k}": np.array(rows, float)[:, k] for k in range(3)}
    ids = names(len(rows))
    chain = fit_chain(list(odds), odds, ids, accept=0.0, combine="rank")
    last = route(np.abs(np.array(rows, float).T), ids)
    for item, row in enumerate(rows):
        assert next(k for k in range(3) if chain.keeps(k, row[k], ids[item])) == last[item]


def test_ties_are_broken_by_id_and_not_by_place() -> None:
    ids = names(30)
    forward = route(np.ones((3, 30)), ids)
    backward = route(np.ones((3, 30)), ids[::-1])
    assert dict(zip(ids, forward, strict=True)) == dict(zip(ids[::-1], backward, strict=True))
    assert sorted(forward) == [0] * 10 + [1] * 10 + [2] * 10
    assert list(forward) != sorted(forward)


def test_item_without_an_answer_is_forwarded() -> None:
    gaps = np.array([[math.nan] * 4 + [1.0] * 2, [1.0] * 6])
    assert list(route(gaps, names(6))[:4]) == [1, 1, 1, 1]


def chain(combine: Combine) -> Chain:
    return Chain(("a", "b"), ((2.0, 1.0),), ((0.5, 1.0, 2.0, 3.0), (0.1, 0.2, 0.2, 4.0)), 0.0, combine)


def test_rank_takes_the_verdict_of_the_link_that_is_surest_for_itself() -> None:
    """0.2 ranks at 3 of 4 among what b saw (ties: max); -0.6 at 1 of 4 among what a saw."""
    assert chain("rank").rank(1, 0.2) == 0.75
    assert chain("rank").rank(0, -0.6) == 0.25
    assert chain("rank").combined([-0.6, 0.2]) == 0.2
    assert chain("rank").combined([-2.5, 0.15]) == -2.5
    assert chain("rank").combined([-0.6, math.nan]) == -0.6


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=2))
def test_log_odds_of_independent_links_multiply(odds: list[float]) -> None:
    """Bayes' rule at even odds: the posterior odds are the product of the links' likelihood ratios."""
    expected = math.prod(map(math.exp, odds))
    assert chain("log_odds").combined(odds) == pytest.approx(math.log(expected), abs=1e-9)
    assert chain("log_odds").combined([math.nan]) == 0.0


@pytest.mark.parametrize("combine", ["rank", "log_odds"])
def test_chain_of_peers_beats_its_best_link_and_random_routing(combine: Combine) -> None:
    """Reach the known outcome: links of 0.81 give about 0.92 for two thirds of the cost."""
    found = [measured((0.81, 0.81, 0.81), combine, seed) for seed in range(3)]
    assert np.mean([f.accuracy for f in found]) > 0.90
    assert all(f.accuracy > max(f.links.values()) + 0.06 for f in found)
    assert all(f.gain[1] > 0 for f in found)
    assert all(0.5 < f.cost < 0.7 for f in found)
    assert np.mean([f.macro_f1 for f in found]) > 0.90
    assert all(abs(f.batch - f.accuracy) < 0.03 for f in found)
    assert all(abs(share - 1 / 3) < 0.1 for f in found for share in f.shares.values())


def test_adding_log_odds_is_better_than_ranks_where_links_are_unequal() -> None:
    gains = [
        measured((0.66, 0.77, 0.87), "log_odds", s).accuracy - measured((0.66, 0.77, 0.87), "rank", s).accuracy
        for s in range(3)
    ]
    assert np.mean(gains) > 0


def test_chain_with_confidence_that_means_nothing_is_no_better_than_random_routing() -> None:
    random = np.random.default_rng(5)
    right = random.random(600) < 0.5
    odds = {
        f"link{k}": np.where(right ^ (random.random(600) < 0.25), 1, -1) * random.exponential(1, 600) for k in range(3)
    }
    found = measure_chain(list(odds), odds, right, names(600), COSTS, accept=0.0, combine="rank")
    assert found is not None
    assert found.gain[1] < 0.02


def test_items_of_one_verdict_measure_nothing() -> None:
    odds = {"a": np.ones(8), "b": np.ones(8)}
    assert measure_chain(["a", "b"], odds, np.ones(8, bool), names(8), {}, accept=0.0, combine="rank") is None


def test_figures_are_plain_json() -> None:
    json.loads(json.dumps(measured((0.8, 0.8), "log_odds", count=60).to_json(), allow_nan=False))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-6, 6), min_size=4, max_size=30), st.floats(0.1, 0.9))
def test_later_items_change_no_items_fate(values: list[float], accept: float) -> None:
    odds = {"a": np.array(values), "b": np.array(values[::-1])}
    fitted = fit_chain(["a", "b"], odds, names(len(values)), accept=accept, combine="log_odds")
    kept = [fitted.keeps(0, value, f"new-{i}") for i, value in enumerate(values)]
    assert kept[:2] == [fitted.keeps(0, value, f"new-{i}") for i, value in enumerate(values[:2])]
    assert all(fitted.keeps(1, value, "new") for value in values)
