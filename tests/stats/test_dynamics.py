"""Confidence and uncertainty over checkpoints, and what curation by them does to a table with wrong labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.stats.dynamics import (
    LearningDynamics,
    confidence_threshold,
    discarded,
    learning_dynamics,
    uncertainty_threshold,
)
from gra.stats.paired import paired_difference


def test_formulas() -> None:
    found = learning_dynamics([[0.2, 1.0, math.nan], [0.6, 1.0, 0.5]])
    assert found.confidence[:2] == pytest.approx([0.4, 1.0])
    assert found.uncertainty[:2] == pytest.approx([(0.16 + 0.24) / 2, 0.0])
    assert math.isnan(found.confidence[2])
    assert uncertainty_threshold(found.uncertainty) == pytest.approx(0.75 * 0.2)
    assert uncertainty_threshold([0.1, 0.2]) == pytest.approx(0.175)
    assert uncertainty_threshold([math.nan]) == 0.0
    assert confidence_threshold([0.0, 0.5, 1.0, math.nan], 0.5) == 0.5


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=12))
def test_uncertainty_is_bounded_by_confidence(rows: list[list[float]]) -> None:
    """Jensen's inequality: the mean of p (1 - p) is at most C (1 - C), and never above a quarter."""
    found = learning_dynamics(rows)
    assert (found.uncertainty <= found.confidence * (1 - found.confidence) + 1e-12).all()
    assert (found.uncertainty <= 0.25).all()


def test_only_rows_that_are_surely_wrong_are_discarded() -> None:
    found = LearningDynamics(np.array([0.05, 0.05, 0.95, 0.5, math.nan]), np.array([0.02, 0.24, 0.02, 0.24, math.nan]))
    assert list(discarded(found, 0.2, 0.1)) == [True, False, False, False, False]


def test_dynamics_without_checkpoints_or_trusted_rows_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one checkpoint"):
        learning_dynamics(np.zeros((0, 4)))
    with pytest.raises(ValueError, match="did not learn from"):
        confidence_threshold([])


def curated_table(seed: int) -> tuple[float, float, float, float, float]:
    """Curate 300 rows, 30 % of them with flipped labels, by a student of 40 trusted rows.

    Returns:
        The share of flipped rows that is discarded, the share of good rows that is lost, and the test AUC of a model
        of all rows, of the kept rows, and of the rows with right labels.
    """
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    from gra.stats.reliability import auc

    x, y = load_breast_cancer(return_X_y=True)
    random = np.random.default_rng(seed)
    order = random.permutation(len(y))
    trusted, made, test = order[:40], order[40:340], order[340:]
    flipped = random.random(300) < 0.3
    labels = np.where(flipped, 1 - y[made], y[made])
    boosted = {"n_estimators": 40, "max_features": "sqrt", "random_state": seed}
    student = GradientBoostingClassifier(**boosted).fit(x[trusted], y[trusted])
    stages = np.array(list(student.staged_predict_proba(x[made])))
    found = learning_dynamics(stages[:, np.arange(300), labels])
    out = discarded(found, 0.2, uncertainty_threshold(found.uncertainty))

    def score(rows: np.ndarray, given: np.ndarray) -> float:
        fitted = GradientBoostingClassifier(**boosted).fit(x[rows], given)
        said = fitted.predict_proba(x[test])[:, 1]
        return auc(said[y[test] == 1], said[y[test] == 0])

    return (
        float(out[flipped].mean()),
        float(out[~flipped].mean()),
        score(made, labels),
        score(made[~out], labels[~out]),
        score(made[~flipped], labels[~flipped]),
    )


def check_curation(seeds: range) -> None:
    caught, lost, without, kept, oracle = np.array([curated_table(seed) for seed in seeds]).T
    gain = paired_difference(kept, without)
    assert gain.interval()[0] > 0
    assert caught.mean() > 0.5
    assert lost.mean() < 0.12
    assert oracle.mean() > kept.mean() > without.mean()


def test_curation_beats_a_table_with_wrong_labels() -> None:
    check_curation(range(6))


@pytest.mark.slow
def test_curation_beats_a_table_with_wrong_labels_over_thirty_draws() -> None:
    check_curation(range(30))
