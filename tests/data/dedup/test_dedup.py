"""Greedy deduplication equals the plain definition, in every order of arrival, and keeps its promises."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.data.dedup import greedy as dedup
from gra.data.dedup import nearest
from gra.data.dedup.greedy import Decision, DedupTexts, greedy_dedup
from gra.data.dedup.incremental import IncrementalDedup
from gra.data.dedup.minhash import MinHashText
from gra.data.dedup.nearest import Matrix, QuantizedPrefilter, cosine
from gra.data.embedder import Embedder


def unit(rows: list[list[float]], dimensions: int = 3) -> Matrix:
    found = np.array(rows, np.float32).reshape(-1, dimensions)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def kept_after(arrivals: IncrementalDedup, rows: Matrix, scores: Sequence[float], texts: Sequence[str]) -> list[int]:
    """How many rows are kept after each of these."""
    return [int(kept.sum()) for kept in arrivals.arrive(rows, scores, texts)]


def brute_force(
    embeddings: Matrix, scores: Sequence[float], pool: Matrix, threshold: float, texts: DedupTexts | None = None
) -> list[bool]:
    """The definition: in descending score, keep what is the same as nothing pooled and nothing kept so far."""
    rows, pooled = (texts.rows, texts.pool) if texts else ([""] * len(embeddings), [""] * len(pool))
    kept: list[int] = []

    def same(i: int, other: Matrix, text: str) -> bool:
        told = texts is not None and (
            rows[i].casefold() == text.casefold()
            or (texts.minhash is not None and jaccard(rows[i], text) >= texts.minhash)
        )
        return told or float(cosine(embeddings[i][None], other[None])[0]) >= threshold

    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not any(same(i, other, text) for other, text in zip(pool, pooled, strict=True)) and not any(
            same(i, embeddings[j], rows[j]) for j in kept
        ):
            kept.append(i)
    return [i in kept for i in range(len(scores))]


def jaccard(one: str, other: str) -> float:
    first, second = ({t[i : i + 5] for i in range(max(1, len(t) - 4))} for t in (one.casefold(), other.casefold()))
    return len(first & second) / len(first | second)


# Directions on a coarse grid repeat often; some of their cosines are thresholds themselves, up to rounding.
vectors = st.lists(st.lists(st.integers(-2, 2).map(float), min_size=3, max_size=3).filter(any), max_size=14)
thresholds = st.sampled_from([0.897, 0.9, 1.0, 0.8, 0.5, float(np.sqrt(0.8)), float(np.sqrt(2 / 3)), 1 / 3])
THRESHOLD = 0.897
SENTENCES = ["Name a river in France.", "name a river in france.", "Name a river in Spain.",
             "Name one river in France.", "Add two and two.", "Add two and two!", "Ode"]  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Matrix, list[float], Matrix, DedupTexts]:
    candidates, pooled = draw(vectors), draw(vectors)
    scores = st.lists(st.sampled_from([7.5, 8.0, 9.0, 10.0]), min_size=len(candidates), max_size=len(candidates))
    said, held = (st.lists(st.sampled_from(SENTENCES), min_size=len(v), max_size=len(v)) for v in (candidates, pooled))
    likeness = draw(st.sampled_from([None, 0.6, 0.9]))
    return unit(candidates), draw(scores), unit(pooled), DedupTexts(draw(said), draw(held), likeness)


@given(worlds(), thresholds, st.booleans(), st.booleans(), st.integers(1, 6))
def test_equals_brute_force(world, threshold: float, neighbours: bool, told: bool, block: int) -> None:
    embeddings, scores, pool, texts = world
    said = texts if told else None
    with pytest.MonkeyPatch.context() as patch:  # many small blocks and tiles
        patch.setattr(dedup, "BLOCK", block)
        patch.setattr(nearest, "_TILE", 2)
        decisions = greedy_dedup(embeddings, scores, pool, threshold, texts=said, neighbours=neighbours)
    assert [d.kept for d in decisions] == brute_force(embeddings, scores, pool, threshold, said)


@given(worlds(), thresholds, st.data())
def test_arrivals_keep_what_greedy_dedup_would_keep_of_all_so_far(world, threshold: float, data: st.DataObject) -> None:
    embeddings, scores, pool, texts = world
    arrivals = IncrementalDedup(pool, texts.pool, threshold, texts.minhash)
    counts: list[int] = []
    while len(counts) < len(scores):
        upto = data.draw(st.integers(len(counts) + 1, len(scores)))
        part = slice(len(counts), upto)
        counts += kept_after(arrivals, embeddings[:upto], scores[part], texts.rows[part])
    for count in range(1, len(scores) + 1):
        so_far = DedupTexts(texts.rows[:count], texts.pool, texts.minhash)
        assert counts[count - 1] == sum(brute_force(embeddings[:count], scores[:count], pool, threshold, so_far))


@given(st.integers(0, 10**6), st.sampled_from([8, 40, 64]), st.floats(0.5, 0.95))
def test_the_screen_changes_no_decision(seed: int, dimensions: int, threshold: float) -> None:
    """Vectors in clusters, in more dimensions and blocks than the small examples have."""
    luck = np.random.default_rng(seed)
    centres = luck.standard_normal((6, dimensions)) * np.linspace(2, 0.1, dimensions)
    rows = centres[luck.integers(6, size=90)] + luck.standard_normal((90, dimensions)) * luck.choice(
        [0.05, 0.5], (90, 1)
    )
    rows = unit(rows.tolist(), dimensions)
    scores, pool = luck.integers(0, 4, 70).tolist(), rows[70:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "BLOCK", 16)
        patch.setattr(nearest, "_TILE", 8)
        patch.setattr(nearest, "_cost", lambda width, passing: width)  # a screen whatever it costs
        assert (QuantizedPrefilter.fit(rows, threshold) is None) == (dimensions == 8)
        screened = greedy_dedup(rows[:70], scores, pool, threshold, neighbours=False)
        full = greedy_dedup(rows[:70], scores, pool, threshold)
    assert [d.kept for d in screened] == brute_force(rows[:70], scores, pool, threshold)
    # A duplicate's neighbour is the nearest, however it was found; that of a kept row was not asked for.
    assert [d if not d.kept else None for d in screened] == [d if not d.kept else None for d in full]
    assert {d.neighbour for d in screened if d.kept} <= {None}


@given(st.integers(0, 10**6), st.sampled_from([17, 64]))
def test_a_screen_is_an_upper_bound(seed: int, dimensions: int) -> None:
    luck = np.random.default_rng(seed)
    rows = unit((luck.standard_normal((40, dimensions)) * np.linspace(3, 0.01, dimensions)).tolist(), dimensions)
    screen = QuantizedPrefilter(np.linalg.qr(luck.standard_normal((dimensions, 9)))[0])
    codes = screen.codes(rows)
    assert codes.shape == (40, screen.width)
    assert ((codes @ codes.T) >= rows.astype(np.float64) @ rows.T - nearest.slack(dimensions)).all()


@given(worlds(), thresholds)
def test_invariants(world, threshold: float) -> None:
    embeddings, scores, pool, texts = world
    decisions = greedy_dedup(embeddings, scores, pool, threshold, texts=texts)
    kept = [i for i, decision in enumerate(decisions) if decision.kept]
    for place, i in enumerate(kept):
        assert all(float(embeddings[i] @ embeddings[j]) < threshold + 1e-6 for j in kept[:place])
        assert not len(pool) or float((pool @ embeddings[i]).max()) < threshold + 1e-6
    for i, decision in enumerate(decisions):
        assert (decision.stage is None) == decision.kept
        if decision.neighbour is None:
            assert decision.kept
            assert not len(pool)
            continue
        near = decision.neighbour
        other, said = (pool[-1 - near], texts.pool[-1 - near]) if near < 0 else (embeddings[near], texts.rows[near])
        assert decision.similarity == cosine(other[None], embeddings[i][None])[0]
        match decision.stage:
            case "text":
                assert said.casefold() == texts.rows[i].casefold()
            case "wording":
                assert texts.minhash is not None
                assert jaccard(said, texts.rows[i]) >= texts.minhash
            case "embedding":
                assert decision.similarity >= threshold
            case None:
                assert decision.similarity < threshold
        if near >= 0:
            assert decisions[near].kept
            assert (scores[near], -near) > (scores[i], -i)  # a duplicate of something better, or as good and earlier


def test_the_better_of_two_twins_stays_and_the_other_knows_it() -> None:
    twins = unit([[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    first, second, third = greedy_dedup(twins, [8.0, 9.0, 8.0], unit([]), 0.9)
    assert second == Decision(True, None, None)
    assert (first.kept, first.neighbour, first.stage) == (False, 1, "embedding")
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


def test_each_stage_says_what_it_found() -> None:
    said = [
        "Name a river in France.",
        "NAME  a river in France.",
        "Name a river in France!",
        "Ode to a kettle.",
        "Odes?",
    ]
    rows = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1.1, 0]])
    found = greedy_dedup(rows, [8.0] * 5, unit([]), 0.9, texts=DedupTexts(said, [], 0.8))
    assert [(d.stage, d.neighbour) for d in found] == [
        (None, None),
        ("text", 0),
        ("wording", 0),
        (None, 0),
        ("embedding", 3),
    ]
    assert found[1].similarity == 0.0  # the cosine to the neighbour, whichever stage found it
    without = greedy_dedup(rows, [8.0] * 5, unit([]), 0.9, texts=DedupTexts(said, []))
    assert without[2].kept


def test_a_row_that_pushes_out_another_may_let_a_third_back_in() -> None:
    chain = unit([[1, 0, 0], [0.8, 0.6, 0], [0.28, 0.96, 0]])  # each is near the next only
    arrivals = IncrementalDedup(unit([]), [], 0.79)
    come = chain[[1, 2, 0]]
    assert kept_after(arrivals, come[:1], [8.0], ["b"]) == [1]
    assert kept_after(arrivals, come[:2], [7.0], ["c"]) == [1]
    assert kept_after(arrivals, come, [9.0], ["a"]) == [2]  # a and c


def test_a_committee_that_repeats_itself_costs_no_more() -> None:
    """A thousand copies whose scores rise: each pushes out the one before."""
    arrivals = IncrementalDedup(unit([]), [], 0.9, 0.8)
    counts = kept_after(arrivals, unit([[1, 0, 0]] * 1000), [i / 1000 for i in range(1000)], ["the same again"] * 1000)
    assert counts == [1] * 1000


def test_minhash_finds_what_is_alike_and_nothing_else() -> None:
    luck = np.random.default_rng(0)
    words = [f"w{n}" for n in range(300)]
    base = [" ".join(luck.choice(words, 12)) for _ in range(300)]
    changed = [f"{text[:-1]}?" for text in base]
    wording = MinHashText(0.8)
    first, second = [wording.key(text) for text in base], [wording.key(text) for text in changed]
    found = {(a, b) for a in first for b in wording.alike(a)}
    near = {(a, b) for a, b, s, t in zip(first, second, base, changed, strict=True) if jaccard(s, t) >= 0.8}
    assert len(near) > 250
    assert near <= found
    texts = dict(zip([*first, *second], [*base, *changed], strict=True))
    assert all(jaccard(texts[a], texts[b]) >= 0.8 for a, b in found)
    assert all(a in wording.alike(b) for a, b in found)


def test_an_embedder_whose_gpu_is_full_goes_on_without_it(tmp_path: Path) -> None:
    import torch

    class Model:
        asked: ClassVar[list[str]] = []

        def to(self, device: str) -> Model:
            self.asked.append(device)
            if device == "cuda":
                raise torch.OutOfMemoryError("taken")
            return self

        def encode(self, texts: list[str], **_: Any) -> Any:
            return np.ones((len(texts), 2))

    embedder = Embedder(tmp_path, gpu=True)
    embedder._model = Model()
    assert embedder.encode(["a", "b"]).shape == (2, 2)
    assert embedder.encode(["c"]).dtype == np.float32
    assert Model.asked == ["cuda", "cpu", "cpu"]


HOSTILE = ["\ud83d", "a\udc00b", "\0" * 50, "a" + "\u0301\u0316" * 40_000, "~" * 100_000, "", "\u0301"]


def test_hostile_texts_are_compared_soon() -> None:
    begun = time.process_time()
    kinds = MinHashText(0.8)
    keys = [kinds.key(text) for text in [*HOSTILE, *HOSTILE]]
    assert keys == list(range(len(HOSTILE))) * 2
    decisions = greedy_dedup(
        np.eye(14, dtype=np.float32), [1.0] * 14, np.zeros((0, 14), np.float32), 0.9,
        texts=DedupTexts([*HOSTILE, *HOSTILE], [], 0.8),
    )  # fmt: skip
    assert [decision.kept for decision in decisions] == [True] * 7 + [False] * 7
    assert time.process_time() - begun < 3.0


def test_embedder_takes_half_of_a_surrogate_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Model:
        def to(self, device: str) -> Model:
            return self

        def encode(self, texts: list[str], **options: object) -> list[list[float]]:
            return [[float(len(text.encode()))] for text in texts]  # as a tokenizer, raises on what is no text

    embedder = Embedder(tmp_path)
    embedder._model = Model()
    assert embedder.encode(["a\ud83d", "\0"]).tolist() == [[4.0], [1.0]]
