"""Greedy deduplication equals the plain definition and keeps its promises."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.data import dedup
from gra.data.dedup import Decision, Matrix, greedy_dedup


def unit(rows: list[list[float]], dimensions: int = 3) -> Matrix:
    found = np.array(rows, np.float32).reshape(-1, dimensions)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def brute_force(embeddings: Matrix, scores: list[float], pool: Matrix, threshold: float) -> list[bool]:
    """The definition: in descending score, keep what is below the threshold with the pool and all kept so far."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        others = [*pool, *(embeddings[j] for j in kept)]
        if all(float(np.dot(embeddings[i], other)) < threshold for other in others):
            kept.append(i)
    return [i in kept for i in range(len(scores))]


# Directions on a coarse grid repeat often, and the threshold lies between their possible cosines.
vectors = st.lists(st.lists(st.integers(-2, 2).map(float), min_size=3, max_size=3).filter(any), max_size=14)
THRESHOLD = 0.897


@given(vectors, vectors, st.data())
def test_equals_brute_force(candidates: list[list[float]], pooled: list[list[float]], data: st.DataObject) -> None:
    scores = data.draw(
        st.lists(st.sampled_from([7.5, 8.0, 9.0, 10.0]), min_size=len(candidates), max_size=len(candidates))
    )
    embeddings, pool = unit(candidates), unit(pooled)
    decisions = greedy_dedup(embeddings, scores, pool, THRESHOLD)
    assert [d.kept for d in decisions] == brute_force(embeddings, scores, pool, THRESHOLD)


@given(vectors, vectors, st.data())
def test_invariants(candidates: list[list[float]], pooled: list[list[float]], data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.floats(0, 10), min_size=len(candidates), max_size=len(candidates)))
    embeddings, pool = unit(candidates), unit(pooled)
    decisions = greedy_dedup(embeddings, scores, pool, THRESHOLD)
    kept = [i for i, decision in enumerate(decisions) if decision.kept]
    for place, i in enumerate(kept):
        assert all(float(embeddings[i] @ embeddings[j]) < THRESHOLD for j in kept[:place])
        assert not len(pool) or float((pool @ embeddings[i]).max()) < THRESHOLD
    for i, decision in enumerate(decisions):
        if decision.neighbour is None:
            assert decision.kept
            assert not len(pool)
            continue
        assert decision.similarity is not None
        near = decision.neighbour
        other = pool[-1 - near] if near < 0 else embeddings[near]
        assert decision.similarity == pytest.approx(float(other @ embeddings[i]), abs=1e-5)
        assert decision.kept == (decision.similarity < THRESHOLD)
        if near >= 0:
            assert decisions[near].kept
            assert (scores[near], -near) > (scores[i], -i)  # a duplicate of something better, or as good and earlier


@given(vectors.filter(len), st.integers(1, 5))
def test_blocks_do_not_matter(pooled: list[list[float]], block: int) -> None:
    pool, row = unit(pooled), unit([[1.0, 2.0, -1.0]])
    whole = greedy_dedup(row, [9.0], pool, THRESHOLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "_BLOCK", block)
        (decision,) = greedy_dedup(row, [9.0], pool, THRESHOLD)
    assert decision.neighbour is not None
    assert decision.similarity == pytest.approx(whole[0].similarity, abs=1e-6)
    assert decision.similarity == pytest.approx(float(pool[-1 - decision.neighbour] @ row[0]), abs=1e-6)


def test_the_better_of_two_twins_stays_and_the_other_knows_it() -> None:
    twins = unit([[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    first, second, third = greedy_dedup(twins, [8.0, 9.0, 8.0], unit([]), 0.9)
    assert second == Decision(True, None, None)
    assert (first.kept, first.neighbour) == (False, 1)
    assert first.similarity == pytest.approx(1.0)
    assert (third.kept, third.neighbour) == (True, 1)


def test_the_pool_counts_and_is_told_apart_from_candidates() -> None:
    pool = unit([[0, 0, 1], [0, 1, 0]])
    near, far = greedy_dedup(unit([[0, 1, 0], [1, 0, 0]]), [10.0, 5.0], pool, 0.9)
    assert (near.kept, near.neighbour) == (False, -2)
    assert far.kept
    assert greedy_dedup(unit([]), [], pool, 0.9) == []


def test_ties_keep_the_earlier() -> None:
    decisions = greedy_dedup(unit([[1, 1, 0]] * 4), [8.0] * 4, unit([]), 0.9)
    assert [d.kept for d in decisions] == [True, False, False, False]
    assert all(a.kept or not b.kept for a, b in pairwise(decisions))
