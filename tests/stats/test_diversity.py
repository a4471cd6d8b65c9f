"""Figures of embedded texts: known values, and what must hold for any rows."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gra.stats.diversity import coverage, find_regions, nearest_cosines, rarer, vendi_score

ROWS = arrays.arrays(
    np.float64, st.tuples(st.integers(2, 12), st.integers(2, 6)), elements=st.floats(-1, 1, width=32)
).map(lambda rows: rows + 1e-3)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)).astype(np.float32)


def test_vendi_score_counts_different_rows() -> None:
    axes = np.eye(4, dtype=np.float32)
    assert vendi_score(axes) == pytest.approx(4)
    assert vendi_score(axes[[0, 0, 0]]) == pytest.approx(1)
    assert vendi_score(axes[[0, 0, 1, 1]]) == pytest.approx(2)
    # Shares of 3/4 and 1/4: the exponential of their entropy.
    assert vendi_score(axes[[0, 0, 0, 1]]) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_vendi_score_needs_a_row() -> None:
    with pytest.raises(ValueError, match="no rows"):
        vendi_score(np.empty((0, 3), np.float32))


@given(ROWS)
def test_vendi_score_lies_between_one_and_the_number_of_rows(rows: np.ndarray) -> None:
    found = unit(rows)
    assert 1 - 1e-6 <= vendi_score(found) <= len(found) + 1e-6
    assert vendi_score(np.concatenate([found, found])) == pytest.approx(vendi_score(found), rel=1e-4)


@given(ROWS)
def test_nearest_cosine_is_the_largest_to_another_row(rows: np.ndarray) -> None:
    found = unit(rows)
    expected = [max(float(found[i] @ found[j]) for j in range(len(found)) if j != i) for i in range(len(found))]
    assert nearest_cosines(found) == pytest.approx(expected, abs=1e-6)
    assert len(nearest_cosines(found[:1])) == 0


def test_coverage_is_the_share_of_rows_that_are_reached() -> None:
    angles = np.array([0, 0.01, 0.02, 1.5, 1.51, 1.52])  # two groups of three on a circle
    real = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert coverage(real, real[:1], neighbors=2) == pytest.approx(0.5)
    assert coverage(real, real, neighbors=2) == 1
    assert coverage(real, real[:0], neighbors=2) == 0
    assert coverage(real[:2], real, neighbors=2) is None


@given(ROWS, st.integers(1, 5))
def test_regions_divide_all_rows(rows: np.ndarray, count: int) -> None:
    found = unit(rows)
    regions = find_regions(found, count)
    assert 1 <= len(regions.centers) <= count
    assert set(regions.members) == set(range(len(regions.centers)))
    assert [regions.members[row] for row in regions.typical] == list(range(len(regions.centers)))
    assert len(regions.assign(found[:0])) == 0


def test_regions_find_groups_that_are_far_apart() -> None:
    rows = unit(np.repeat(np.eye(3), 5, axis=0) + np.random.default_rng(0).normal(0, 0.02, (15, 3)))
    members = find_regions(rows, 3).members
    assert [len(set(members[start : start + 5])) for start in (0, 5, 10)] == [1, 1, 1]
    assert len(set(members)) == 3


def test_rarer_is_fishers_exact_test() -> None:
    expected = sum(comb(10, k) * comb(76, 16 - k) for k in range(2)) / comb(86, 16)
    assert rarer(1, 16, 9, 70) == pytest.approx(expected)
    assert rarer(0, 16, 0, 70) == pytest.approx(1)
    assert rarer(5, 5, 5, 5) == pytest.approx(1)


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 40), st.integers(1, 40))
def test_rarer_is_a_probability_that_grows_with_the_count(count: int, total: int, other: int, other_total: int) -> None:
    count, other = min(count, total), min(other, other_total)
    found = rarer(count, total, other, other_total)
    assert 0 < found <= 1
    if count < total and other:  # one of the kind moved from the other set into this one
        assert rarer(count + 1, total, other - 1, other_total) >= found - 1e-12
