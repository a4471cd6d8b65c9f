"""Training seeds in the error of a difference: components by hand, what one seed adds, and bad shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.stats.paired import Estimate, paired_difference
from gra.stats.seeds import with_seed_variance


def test_one_seed_adds_nothing() -> None:
    base = Estimate(0.1, 0.03, 99)
    assert with_seed_variance(base, [[1.0, 0.0]], [[0.0, 1.0]]) is base


def test_seeds_that_shift_all_items_add_the_variance_of_their_means() -> None:
    base = Estimate(0.1, 0.03, 99)
    arm = np.linspace(0, 0.4, 5) + np.array([[0.0], [0.1], [0.2]])  # no interaction
    wide = with_seed_variance(base, arm, arm)
    seeds = 2 * 0.01 / 3
    assert wide.value == base.value
    assert wide.se == pytest.approx(math.sqrt(0.03**2 + seeds))
    assert wide.df == pytest.approx(1 / ((0.03**2 / wide.se**2) ** 2 / 99 + (seeds / wide.se**2) ** 2 / 4))


def test_interaction_is_not_counted_twice() -> None:
    # Every answer is its own coin: the error between items holds all there is.
    rng = np.random.default_rng(1)
    a, b = (rng.random((2, 5, 4000)) < 0.5).astype(float)
    base = paired_difference(a.mean(axis=0), b.mean(axis=0))
    truth = math.sqrt(2 * 0.25 / 5 / 4000)
    assert base.se == pytest.approx(truth, rel=0.05)
    errors = []
    for _ in range(200):
        a, b = (rng.random((2, 5, 100)) < 0.5).astype(float)
        errors.append(with_seed_variance(paired_difference(a.mean(axis=0), b.mean(axis=0)), a, b).se ** 2)
    assert np.mean(errors) == pytest.approx(2 * 0.25 / 5 / 100, rel=0.15)


def test_clusters_hold_the_interaction_together() -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(40), 5).tolist()
    found = []
    for names in (clusters, None):
        tables = [np.repeat(rng.normal(0, 0.3, (3, 40)), 5, axis=1) for _ in range(2)]
        base = paired_difference(tables[0].mean(axis=0), tables[1].mean(axis=0), clusters)
        found.append(with_seed_variance(base, *tables, clusters=names).se / base.se)
    assert found[0] < found[1]  # alike items taken for independent ones leave too much to the seeds


@given(st.integers(2, 5), st.integers(1, 5), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_error_is_positive_and_degrees_of_freedom_are_bounded(ours: int, theirs: int, items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 2, (count, items)).astype(float) for count in (ours, theirs))
    base = paired_difference(a.mean(axis=0), b.mean(axis=0), bounded=True)
    wide = with_seed_variance(base, a, b)
    assert wide.value == base.value
    assert 0.31 * base.se <= wide.se < math.inf
    assert min(1.0, ours - 1) <= wide.df + 1e-9
    assert 0.0 <= wide.p_value() <= 1.0


def test_arms_without_any_variance_stay_certain() -> None:
    base = Estimate(0.5, 0.0, 3)
    wide = with_seed_variance(base, np.ones((3, 4)), np.full((3, 4), 0.5))
    assert (wide.value, wide.se) == (0.5, 0.0)


@pytest.mark.parametrize("arm", [[0.5, 0.6], np.ones((2, 0)), [[[1.0]]]])
def test_other_shapes_are_refused(arm: object) -> None:
    with pytest.raises(ValueError, match=r"shape \[seeds, items\]"):
        with_seed_variance(Estimate(0.1, 0.03, 99), arm)
