"""Choose a candidate's domain and its parents, and say which samples can be parents."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError
from gra.core.rng import rng
from gra.core.types import Seed
from gra.data.dedup.nearest import BLOCK, Matrix

Pool = Mapping[str, Sequence[Seed]]
_NEIGHBORS = 5  # rows whose distance says how thin the embedding space is around a row


def domain_in_turn(recipe: SynthesisRecipe, parents: Pool, round_: int, index: int) -> str:
    """Return the domain whose turn it is; the domains' order is drawn anew for every cycle."""
    domains = _domains_with_parents(recipe, parents)
    cycle, place = divmod(index, len(domains))
    return _domain_order(recipe.seed, round_, cycle, domains)[place]


def first_sibling(recipe: SynthesisRecipe, parents: Pool, round_: int, index: int) -> int:
    """Return the index of the candidate whose parents a candidate shares; the first of its siblings has its own."""
    if recipe.rounds.siblings == 1:
        return index
    domains = _domains_with_parents(recipe, parents)  # they take turns, since siblings and quotas exclude each other
    cycle = index // len(domains)
    first = cycle - cycle % recipe.rounds.siblings
    domain = domain_in_turn(recipe, parents, round_, index)
    return first * len(domains) + _domain_order(recipe.seed, round_, first, domains).index(domain)


def _domains_with_parents(recipe: SynthesisRecipe, parents: Pool) -> tuple[str, ...]:
    domains = tuple(domain for domain in recipe.domains if len(parents.get(domain, ())) >= 2)
    if not domains:
        raise DataError("every candidate needs two parents, and no domain has two seeds with keywords and a summary")
    return domains


@lru_cache(maxsize=64)
def _domain_order(seed: int, round_: int, cycle: int, domains: tuple[str, ...]) -> list[str]:
    return rng(seed, round_, cycle, "domains").sample(domains, len(domains))


def eligible(pool: Pool, recipe: SynthesisRecipe) -> dict[str, list[Seed]]:
    """Return the samples of each domain that can be parents; the others only serve deduplication.

    SELF-GUIDE needs no keywords and no summaries.
    """
    whole = recipe.self_guide is not None
    return {domain: [sample for sample in samples if whole or sample.enriched] for domain, samples in pool.items()}


def draw_parents(
    recipe: SynthesisRecipe, samples: Sequence[Seed], round_: int, index: int, weights: Sequence[int] | None = None
) -> list[Seed]:
    """Draw a candidate's parents: as many as the recipe says, or all samples of a smaller domain.

    Args:
        recipe: the arm's recipe.
        samples: the samples of the candidate's domain that can be parents.
        round_: the round's number.
        index: the candidate's index within the round, or that of its first sibling.
        weights: of each sample (see `thin_weights`); None draws evenly.
    """
    random, count = rng(recipe.seed, round_, index, "parents"), min(recipe.rounds.parent_count, len(samples))
    if weights is None:
        return random.sample(samples, count)
    bounds, drawn = list(accumulate(weights)), dict[int, Seed]()
    while len(drawn) < count:
        place = bisect_right(bounds, random.randrange(bounds[-1]))
        drawn.setdefault(place, samples[place])
    return list(drawn.values())


def thin_weights(vectors: Matrix) -> list[int]:
    """Return how often each row is drawn: 1 to 100 times, by its mean distance from its nearest neighbors.

    Whole numbers keep the draws the same where products of vectors differ by rounding.

    Args:
        vectors: unit vectors, shape (rows, dimensions).
    """
    count = len(vectors)
    near = min(_NEIGHBORS, count - 1)
    found: list[int] = []
    for start in range(0, count if near else 0, BLOCK):
        block = vectors[start : start + BLOCK]
        cosines = block @ vectors.T
        cosines[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        nearest = np.partition(cosines, count - near, axis=1)[:, count - near :]
        found += np.clip(np.rint(100 * (1 - nearest.mean(axis=1))), 1, 100).astype(int).tolist()
    return found or [1] * count
