"""Panel statistics and early stopping, on planted reviewers whose worth is known."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.stats.panel import auc_with_interval, costs_until, crossed, early_stop, log_odds, panel_statistics
from gra.stats.reliability import logistic

RNG = np.random.default_rng(7)
RIGHT = np.arange(400) % 2 == 0


def reviewer(skill: float, noise: float = 1.0) -> np.ndarray:
    """Log-odds of a reviewer that shifts right items by `skill`."""
    return np.where(RIGHT, skill, -skill) + RNG.normal(0, noise, RIGHT.size)


def test_auc_has_an_interval_and_unanswered_items_do_not_count() -> None:
    scores = reviewer(0.8)
    scores[:50] = np.nan
    found = auc_with_interval(scores, RIGHT)
    assert found is not None
    assert (found.good, found.bad) == (175, 175)
    assert 0.75 < found.low < found.auc < found.high < 0.95
    assert auc_with_interval(scores, np.ones(400, bool)) is None


def test_calibration_of_an_item_does_not_use_the_item() -> None:
    """A reviewer that knows the verdict of exactly one item cannot be trusted on it."""
    raw = np.zeros(40)
    raw[0] = 10.0
    right = np.zeros(40, bool)
    right[::2] = True
    odds = crossed(raw, right, np.ones(40, bool))
    assert abs(odds[0]) < 0.3


def test_panel_of_independent_reviewers_beats_its_best_member() -> None:
    scores = {name: reviewer(0.5) for name in "abc"}
    found = panel_statistics(scores, sum(scores.values()), RIGHT, lengths=np.ones(400))
    assert found is not None
    assert found.gain[1] > 0
    assert 2.5 < found.votes <= 3
    assert found.clones == ()
    assert json.loads(json.dumps(found.to_json()))["auc"]["auc"] == pytest.approx(found.auc.auc)


def test_clones_severity_length_bias_and_own_family_are_found() -> None:
    base, lengths = reviewer(0.5), RNG.integers(10, 500, 400)
    authors = ["qwen" if i % 4 < 2 else "llama" for i in range(400)]
    own = np.array([author == "qwen" for author in authors])
    scores = {
        "base": base,
        "clone": base * 1.1 + 0.1,
        "strict": reviewer(0.5) - 2.0,
        "wordy": reviewer(0.2) + (lengths - 255) / 100,
        "loyal": reviewer(0.5) + np.where(own, 1.5, -1.5),
    }
    found = panel_statistics(
        scores, base, RIGHT, lengths=lengths, authors=authors, families={"loyal": "qwen", "base": "qwen"}
    )
    assert found is not None
    assert found.clones == (("base", "clone"),)
    assert max(found.severity, key=lambda name: found.severity[name]) == "strict"
    assert found.length_bias["wordy"] > 0.5 > abs(found.length_bias["base"])
    assert found.own_family["loyal"] is not None
    assert found.own_family["loyal"] > 2
    assert abs(found.own_family["base"] or 0.0) < 1
    assert found.own_family["strict"] is None
    shares = [share for _, share, _ in found.curve]
    assert shares == sorted(shares)


def mean(odds: dict[str, float]) -> float:
    return float(log_odds(np.mean([logistic(value) for value in odds.values()]))) if odds else 0.0


def test_early_stop_asks_the_cheap_informative_reviewer_first_and_keeps_the_verdicts() -> None:
    scores = {"dear": reviewer(2.0), "cheap": reviewer(2.0), "coin": RNG.normal(0, 0.1, 400)}
    found = early_stop(scores, {"dear": 10.0, "cheap": 1.0, "coin": 0.1}, mean, 0.0, right=RIGHT)
    assert found.order == ("cheap", "dear", "coin")
    assert found.changed <= 0.01
    assert found.cost < 0.7


def test_reviewers_that_share_answers_cost_what_the_dearest_of_them_does() -> None:
    costs = {"one": 4.0, "two": 8.0, "first": 2.0}

    def cost(sharing: dict[str, str]) -> list[float]:
        return costs_until(("first", "one", "two"), costs, sharing)

    assert cost({"one": "g", "two": "g"}) == [2.0, 6.0, 10.0]
    assert cost({}) == [2.0, 6.0, 14.0]
    # Bounds that no item passes: every reviewer is asked, and that is the whole cost.
    odds = {name: np.zeros(20) for name in costs}
    assert early_stop(odds, costs, mean, 1.0, right=np.arange(20) < 9, sharing={"one": "g", "two": "g"}).cost == 1.0


@given(st.floats(-4, 4))
def test_early_stop_never_waits_after_the_last_reviewer(accept: float) -> None:
    scores = {"a": reviewer(1.0), "b": reviewer(1.0)}
    found = early_stop(scores, {"a": 1.0, "b": 1.0}, mean, accept, right=RIGHT)
    assert found.low[-1] == found.high[-1] == accept
    assert 0 < found.cost <= 1
    assert not any(map(math.isnan, (*found.low, *found.high)))


@given(st.floats(0, 1))
def test_log_odds_are_finite_and_undo_the_logistic(p: float) -> None:
    odds = float(log_odds(p))
    assert math.isfinite(odds)
    if 0.01 < p < 0.99:
        assert float(logistic(odds)) == pytest.approx(p)


def test_reviewer_that_answered_only_some_items_raises_no_warning() -> None:
    half = reviewer(1.0)
    half[~RIGHT] = np.nan
    silent = np.full(RIGHT.size, np.nan)
    whole = reviewer(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = panel_statistics({"half": half, "whole": whole, "silent": silent}, whole, RIGHT, lengths=np.ones(400))
    assert found is not None
    assert found.best[0] == "whole"
    json.dumps(found.to_json(), allow_nan=False)
