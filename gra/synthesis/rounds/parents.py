"""Choose a candidate's domain, and say which samples can be its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError
from gra.core.rng import rng
from gra.core.types import Seed

Pool = Mapping[str, Sequence[Seed]]


def domain_in_turn(recipe: SynthesisRecipe, parents: Pool, round_: int, index: int) -> str:
    """Return the domain whose turn it is; the domains' order is drawn anew for every cycle."""
    domains = tuple(domain for domain in recipe.domains if len(parents.get(domain, ())) >= 2)
    if not domains:
        raise DataError("every candidate needs two parents, and no domain has two seeds with keywords and a summary")
    cycle, place = divmod(index, len(domains))
    return _domain_order(recipe.seed, round_, cycle, domains)[place]


@lru_cache(maxsize=64)
def _domain_order(seed: int, round_: int, cycle: int, domains: tuple[str, ...]) -> list[str]:
    return rng(seed, round_, cycle, "domains").sample(domains, len(domains))


def eligible(pool: Pool, recipe: SynthesisRecipe) -> dict[str, list[Seed]]:
    """Return the samples of each domain that can be parents; the others only serve deduplication.

    SELF-GUIDE needs no keywords and no summaries.
    """
    whole = recipe.self_guide is not None
    return {domain: [sample for sample in samples if whole or sample.enriched] for domain, samples in pool.items()}
