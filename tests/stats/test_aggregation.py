"""Weights beat the mean only where the gain is shown; the label model finds accuracies and survives clones."""

from __future__ import annotations

import numpy as np
import pytest

from gra.stats.aggregation import fit_weights, label_model
from gra.stats.reliability import auc


def log_odds(random: np.random.Generator, right: np.ndarray, strength: float) -> np.ndarray:
    """Scores of a reviewer that sees the verdict with some strength."""
    return strength * (2 * right - 1) + random.normal(size=len(right))


def voters(random: np.random.Generator, right: np.ndarray, accuracies: list[float], abstain: float) -> np.ndarray:
    """Votes of independent voters."""
    votes = np.array([np.where(random.random(len(right)) < a, right, 1 - right) for a in accuracies], float)
    votes[random.random(votes.shape) < abstain] = np.nan
    return votes


def test_weights_replace_the_mean_where_one_reviewer_sees_and_two_do_not() -> None:
    random = np.random.default_rng(0)
    right = random.random(300) < 0.5
    scores = np.column_stack([log_odds(random, right, s) for s in (1.5, 0.0, 0.0)])
    fitted = fit_weights(["a", "b", "c"], scores, right)
    assert fitted.used
    assert fitted.auc > fitted.mean_auc + 0.05
    assert fitted.weights[0] > 3 * abs(fitted.weights[1])
    fresh = random.random(2000) < 0.5
    table = np.column_stack([log_odds(random, fresh, s) for s in (1.5, 0.0, 0.0)])
    weighted = np.array([fitted(row) for row in table])
    assert auc(weighted[fresh], weighted[~fresh]) > auc(table.mean(axis=1)[fresh], table.mean(axis=1)[~fresh]) + 0.05


def test_weights_fall_back_to_the_mean_without_a_shown_gain() -> None:
    used = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        right = random.random(60) < 0.5
        fitted = fit_weights("abc", np.column_stack([log_odds(random, right, 0.7) for _ in range(3)]), right)
        used += fitted.used
        if not fitted.used:
            assert fitted([1.0, 2.0, 3.0]) == 2.0
    assert used <= 2


def test_weights_survive_separable_and_huge_scores() -> None:
    right = np.array([True, False] * 10)
    fitted = fit_weights(["a"], np.where(right, 1e6, -1e6)[:, None], right)
    assert np.isfinite(fitted.weights).all()
    assert fitted.auc == 1
    with pytest.raises(ValueError, match="both right and wrong"):
        fit_weights(["a"], np.ones((3, 1)), [True, True, True])


def test_label_model_estimates_accuracies_of_independent_voters() -> None:
    random = np.random.default_rng(1)
    right = (random.random(4000) < 0.5).astype(float)
    votes = voters(random, right, [0.9, 0.7, 0.6, 0.55], 0.3)
    found = label_model(votes)
    assert found.accuracy == pytest.approx([0.9, 0.7, 0.6, 0.55], abs=0.05)
    decided = np.array(found.right) > 0.5
    majority = np.nanmean(np.where(np.isnan(votes), 0.5, votes), axis=0) > 0.5
    assert (decided == right).mean() > (majority == right).mean() + 0.03


def test_clone_of_a_bad_voter_does_not_win() -> None:
    random = np.random.default_rng(2)
    right = (random.random(2000) < 0.5).astype(float)
    votes = voters(random, right, [0.9, 0.7, 0.6, 0.55], 0.0)
    cloned = np.vstack([votes, votes[3]])
    found = label_model(cloned)
    assert found.groups == ((0,), (1,), (2,), (3, 4))
    accuracy = ((np.array(found.right) > 0.5) == right).mean()
    assert accuracy > 0.85
    assert max(found.accuracy) == found.accuracy[0]


def test_label_model_takes_items_without_votes() -> None:
    found = label_model([[np.nan, 1.0], [np.nan, 1.0]])
    assert found.right[0] == 0.5
    assert found.right[1] > 0.5
