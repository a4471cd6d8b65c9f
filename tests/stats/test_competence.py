"""Competence: who is right on what, who is chosen, and what choosing is worth."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.stats.competence import fit_competence, measure_routing, select_best, select_panel

NAMES = ["a", "b"]


def specialists(count: int, seed: int, accuracy: float = 1.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features, who is right, and names of questions: a knows the first domain only, b the second only."""
    random = np.random.default_rng(seed)
    domain = random.integers(0, 2, count)
    features = np.column_stack([domain == 0, domain == 1, random.normal(0, 1, count)]).astype(float)
    knows = random.random((count, 2)) < accuracy
    right = np.column_stack([(domain == 0) & knows[:, 0], (domain == 1) & knows[:, 1]]).astype(float)
    return features, right, [f"q{i}" for i in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_router_reaches_the_oracle_where_each_member_knows_one_domain(seed: int) -> None:
    features, right, ids = specialists(120, seed)
    fitted = fit_competence(NAMES, features, right, ids)
    found = measure_routing(NAMES, fitted, right, {"a": 1.0, "b": 1.0}, 0.1)
    assert found is not None
    assert found.oracle == 1.0
    assert found.router >= 0.95 * found.oracle
    assert found.gain[1] > 0.2
    assert 0.3 < found.differs < 0.7


def test_router_still_wins_where_specialists_err() -> None:
    features, right, ids = specialists(240, 7, accuracy=0.8)
    found = measure_routing(NAMES, fit_competence(NAMES, features, right, ids), right, {}, 0.0)
    assert found is not None
    assert found.gain[1] > 0
    assert found.router >= 0.9 * found.oracle


def test_identical_members_give_way_to_the_cheapest() -> None:
    random = np.random.default_rng(2)
    right = np.repeat(random.random((100, 1)) < 0.6, 2, axis=1).astype(float)
    features = random.normal(0, 1, (100, 2))
    fitted = fit_competence(NAMES, features, right, [f"q{i}" for i in range(100)])
    found = measure_routing(NAMES, fitted, right, {"a": 1.0, "b": 0.2}, 0.1)
    assert found is not None
    assert found.cost == pytest.approx(0.2)
    assert found.gain[0] == 0.0


def test_member_that_dominates_is_always_chosen_and_the_figures_say_so() -> None:
    random = np.random.default_rng(3)
    right = np.column_stack([random.random(100) < 0.9, random.random(100) < 0.3]).astype(float)
    fitted = fit_competence(NAMES, random.normal(0, 1, (100, 2)), right, [f"q{i}" for i in range(100)])
    found = measure_routing(NAMES, fitted, right, {}, 0.0)
    assert found is not None
    assert found.differs < 0.05
    assert list(found.best) == ["a"]


def test_random_verdicts_give_no_gain() -> None:
    """Cross-fitting: a regression that had seen its own questions would seem to gain here."""
    gains = []
    for seed in range(5):
        random = np.random.default_rng(seed)
        right = (random.random((60, 2)) < 0.5).astype(float)
        fitted = fit_competence(NAMES, random.normal(0, 1, (60, 8)), right, [f"q{i}" for i in range(60)])
        found = measure_routing(NAMES, fitted, right, {}, 0.0)
        assert found is not None
        gains.append(found.router - found.random)
    assert abs(np.mean(gains)) < 0.1


def test_probabilities_are_calibrated() -> None:
    features, right, ids = specialists(400, 1, accuracy=0.8)
    fitted = fit_competence(NAMES, features, right, ids)
    assert fitted.members["a"]([1.0, 0.0, 0.0]) == pytest.approx(0.8, abs=0.08)
    assert fitted.members["a"]([0.0, 1.0, 0.0]) < 0.1


def test_member_that_is_always_right_or_was_not_asked_has_a_probability() -> None:
    right = np.array([[1.0, math.nan]] * 10)
    fitted = fit_competence(NAMES, np.zeros((10, 1)), right, [f"q{i}" for i in range(10)])
    assert fitted.members["a"]([0.0]) == pytest.approx(11 / 12)
    assert fitted.members["b"]([0.0]) == pytest.approx(0.5)
    assert np.isnan(fitted.crossed[:, 1]).all()
    assert measure_routing(NAMES, fitted, right, {}, 0.1) is None


@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(0, 1), min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.floats(0, 1)),
    st.floats(0, 1),
    st.integers(1, 5),
)
def test_chosen_panel_has_the_largest_expected_margin_less_its_cost(
    p: dict[str, float], costs: dict[str, float], price: float, most: int
) -> None:
    def worth(panel: tuple[str, ...]) -> float:
        return math.fsum(2 * (p[name] - price * costs.get(name, 0.0)) - 1 for name in panel)

    chosen = select_panel(p, costs, price, most)
    sizes = range(1, min(most, len(p)) + 1)
    assert 1 <= len(chosen) <= most
    assert worth(tuple(chosen)) == pytest.approx(max(worth(panel) for n in sizes for panel in combinations(p, n)))


def test_members_no_better_than_a_coin_leaves_the_best_one() -> None:
    assert select_panel({"a": 0.3, "b": 0.4}, {}, 0.0, 3) == ["b"]
    assert select_panel({}, {}, 0.0, 3) == []
    assert select_best({"b": 0.5, "a": 0.5}, {}, 0.1) == "a"
    assert select_best({"b": 0.5, "a": 0.5}, {"a": 1.0}, 0.0) == "b"


def test_figures_are_plain_json() -> None:
    features, right, ids = specialists(20, 0)
    found = measure_routing(NAMES, fit_competence(NAMES, features, right, ids), right, {}, 0.1)
    assert found is not None
    json.loads(json.dumps(found.to_json(), allow_nan=False))
