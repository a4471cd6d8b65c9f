"""Agreement figures against published examples, brute force and simulated panels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.stats.agreement import effective_votes, krippendorff_alpha, length_bias, severity

NAN = float("nan")
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section E: 4 observers, 12 units, missing data.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


def brute_force(table: np.ndarray) -> float:
    """Alpha by its definition: squared differences within units over those of all pairs."""
    units = [column[~np.isnan(column)] for column in table.T]
    units = [unit for unit in units if unit.size >= 2]
    values = np.concatenate(units)
    observed = sum(((u[:, None] - u[None, :]) ** 2).sum() / (u.size - 1) for u in units) / values.size
    expected = ((values[:, None] - values[None, :]) ** 2).sum() / (values.size * (values.size - 1))
    return 1 - observed / expected


def test_alpha_equals_published_example() -> None:
    assert krippendorff_alpha(PUBLISHED) == pytest.approx(0.849, abs=0.0005)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 12))
def test_alpha_equals_its_definition(seed: int, reviewers: int, samples: int) -> None:
    random = np.random.default_rng(seed)
    table = random.normal(size=(reviewers, samples))
    table[random.random(table.shape) < 0.2] = np.nan
    if ((~np.isnan(table)).sum(axis=0) >= 2).any():
        assert krippendorff_alpha(table) == pytest.approx(brute_force(table))


def test_alpha_is_one_for_equal_scores_and_undefined_without_spread() -> None:
    assert krippendorff_alpha([[1, 5, 9], [1, 5, 9]]) == 1
    assert math.isnan(krippendorff_alpha([[3, 3], [3, 3]]))
    assert math.isnan(krippendorff_alpha([[1, NAN], [NAN, 2]]))


@pytest.mark.parametrize(("shared", "low", "high"), [(0.0, 4.2, 5.0), (1.0, 1.6, 2.0), (10.0, 1.0, 1.1)])
def test_effective_votes_fall_with_shared_errors(shared: float, low: float, high: float) -> None:
    random = np.random.default_rng(0)
    common = random.normal(size=4000) * shared
    errors = random.normal(size=(5, 4000)) + common
    assert low <= effective_votes(errors) <= high


def test_effective_votes_of_clones_are_one() -> None:
    error = np.random.default_rng(1).normal(size=50)
    assert effective_votes([error, error, error]) == pytest.approx(1.0)
    assert math.isnan(effective_votes([error]))
    assert math.isnan(effective_votes([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]))


def test_severity_finds_the_shift_of_each_reviewer() -> None:
    random = np.random.default_rng(2)
    quality = random.normal(6, 2, size=2000)
    shifts = np.array([0.0, -1.0, 2.0])
    scores = quality + shifts[:, None] + random.normal(scale=0.5, size=(3, 2000))
    found = severity(scores)
    assert np.argmax(found) == 1
    assert found == pytest.approx([0.5, 2.0, -2.5], abs=0.1)
    assert np.isnan(severity([[1.0, NAN], [NAN, 2.0]])).all()


def test_length_bias_is_a_rank_correlation() -> None:
    assert length_bias([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1.0)
    assert length_bias([4, 3, 2, 1], [10, 20, 30, 1000]) == pytest.approx(-1.0)
    assert length_bias([1, 1, 2, NAN], [5, 5, 9, 3]) == pytest.approx(1.0)
    assert math.isnan(length_bias([1, 1, 1], [1, 2, 3]))
