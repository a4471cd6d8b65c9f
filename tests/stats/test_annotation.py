"""Entity F1 by hand, votes that are weighted by labeled texts, and the case that they must win."""

from __future__ import annotations

import numpy as np
import pytest

from gra.stats.aggregation import label_model
from gra.stats.annotation import F1Gain, f1_gain, fit_votes, majority, micro_f1


def test_micro_f1_counts_exact_span_and_type_over_all_texts() -> None:
    gold = [{(0, 3, "person"), (8, 12, "city")}, {(0, 4, "city")}, set()]
    found = [{(0, 3, "person"), (8, 12, "person")}, {(0, 4, "city"), (6, 9, "city")}, {(1, 2, "city")}]
    score = micro_f1(gold, found)
    assert (score.precision, score.recall, score.f1) == pytest.approx((2 / 5, 2 / 3, 4 / 8))
    assert (score.found, score.gold) == (5, 3)
    assert micro_f1(gold, gold).f1 == 1
    assert micro_f1([set()], [set()]).f1 == 1
    assert micro_f1(gold, [set()] * 3).f1 == 0


def test_gain_is_paired_by_text() -> None:
    gold = [{i} for i in range(40)]
    worse = [{i} if i % 2 else {-1} for i in range(40)]
    found = f1_gain(gold, gold, worse)
    assert found.difference == pytest.approx(0.5)
    assert 0.3 < found.low < 0.5 < found.high < 0.7
    assert f1_gain(gold, worse, worse) == F1Gain(0.0, 0.0, 0.0)


def test_majority_leaves_abstentions_out() -> None:
    assert majority([[1, 1, np.nan], [0, 1, np.nan], [np.nan, 1, np.nan]]).tolist() == [0.5, 1.0, 0.0]


def test_voter_that_is_always_wrong_counts_against_and_one_class_is_no_error() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(60) < 0.5
    fitted = fit_votes([right, ~right, rng.random(60) < 0.5], right)
    assert fitted.weights[0] > 1 > -1 > fitted.weights[1]
    assert abs(fitted.weights[2]) < 0.5
    assert fitted([[1], [0], [np.nan]])[0] > 0.95
    all_right = fit_votes([[1, 1, 1]], [True] * 3)
    assert all_right([[1, 0]])[0] > 0.5 > all_right([[1, 0]])[1]


def world(texts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three true and four false candidates a text; three independent voters, and a bad one with two copies."""
    rng = np.random.default_rng(seed)
    right = np.tile([True] * 3 + [False] * 4, texts)
    rates = [(0.9, 0.1), (0.85, 0.1), (0.8, 0.15), (0.5, 0.3)]
    votes = np.array([np.where(right, rng.random(right.size) < hit, rng.random(right.size) < miss)
                      for hit, miss in rates], float)  # fmt: skip
    return right, np.vstack([votes, votes[3], votes[3]])


@pytest.mark.parametrize("seed", range(3))
def test_measured_votes_beat_best_voter_and_majority_where_copies_are_bad(seed: int) -> None:
    known, sample = world(15, seed)
    fitted = fit_votes(sample[:, sample.any(axis=0)], known[sample.any(axis=0)])
    right, votes = world(120, 100 + seed)
    named = votes.any(axis=0)  # only what a voter named is a candidate

    def f1(chosen: np.ndarray) -> float:
        return micro_f1([set(np.flatnonzero(right))], [set(np.flatnonzero(named)[chosen])]).f1

    measured = f1(fitted(votes[:, named]) > 0.5)
    assert measured > max(f1(votes[row, named] > 0.5) for row in range(6)) + 0.02
    assert measured > f1(majority(votes[:, named]) > 0.5) + 0.2
    assert fitted.weights[3] == pytest.approx(fitted.weights[5])  # copies share one weight
    assert f1(np.array(label_model(votes[:, named]).right) > 0.5) > f1(majority(votes[:, named]) > 0.5)
