"""How the rows of a round split over the domains, and for which domain each candidate is told.

Without quotas, domains take turns over the candidates and rows come as they come. With quotas, candidates are
planned a stretch at a time, and a stretch asks most for the domains that lack most. What they lack is read off
the candidates before the stretch that is still being told, so the plan depends on the candidates' order and
never on who finished first, and two stretches keep the engines busy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction

from gra.config.synthesis import SynthesisRecipe
from gra.core.rng import rng
from gra.synthesis.records import FinishedCandidate

# Two stretches are in flight at once. They grow with the round, so that a large one is not counted too often.
_LEAST_STRETCH = 32
_GROWTH = 8


def rows_by_domain(recipe: SynthesisRecipe) -> dict[str, int] | None:
    """The rows of a round that each domain gets, `rounds.accept` together; None without quotas."""
    quotas = recipe.rounds.quotas
    if quotas is None:
        return None
    return apportion(dict.fromkeys(recipe.domains, 1.0) if quotas == "even" else quotas, recipe.rounds.accept)


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` in whole parts by shares (largest remainder; ties in given order)."""
    exact = {name: Fraction(share) for name, share in shares.items()}
    whole = sum(exact.values())
    parts = {name: math.floor(total * share / whole) for name, share in exact.items()}
    left = sorted(exact, key=lambda name: parts[name] - total * exact[name] / whole)
    for name in left[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


class Quotas:
    """The rows that one round wants, in all and of each domain."""

    def __init__(self, recipe: SynthesisRecipe, number: int) -> None:
        self.rows = rows_by_domain(recipe)
        self._accept = recipe.rounds.accept
        self._seed = recipe.seed
        self._number = number
        self._plan: list[str] = []  # the domains of the candidates planned so far
        self._settled = 0  # candidates before the last stretch

    def missing(self, kept: Counter[str]) -> int:
        """How many rows the round still lacks, when of those kept (rows by domain) it has what fits."""
        return sum(self._lacking(kept).values())

    def surplus(self, kept: Iterable[FinishedCandidate]) -> dict[int, str]:
        """The rows that find their place taken, of `kept` in candidate order: index and reason."""
        left = Counter(self.rows if self.rows is not None else {"": self._accept})
        over = {}
        for candidate in kept:
            place = candidate.domain if self.rows is not None else ""
            if left[place] > 0:
                left[place] -= 1
            else:
                full = f"the quota of {place}" if place and sum(left.values()) else "the round"
                over[candidate.index] = f"accepted after {full} was full"
        return over

    def _lacking(self, have: Counter[str]) -> dict[str, int]:
        if self.rows is None:
            return {"": max(0, self._accept - have.total())}
        return {domain: max(0, rows - have[domain]) for domain, rows in self.rows.items()}

    def planned(self, index: int) -> bool:
        """Whether the candidate's domain is known yet."""
        return self.rows is None or index < len(self._plan)

    def domain(self, index: int) -> str | None:
        """The domain of a planned candidate; None where domains take turns."""
        return None if self.rows is None else self._plan[index]

    @property
    def needs(self) -> int:
        """How many candidates must have ended before more can be planned."""
        return self._settled

    def plan(self, have: Counter[str]) -> None:
        """Plan another stretch; of the first `needs` candidates so many, by domain, are rows of the dataset."""
        assert self.rows is not None
        tried = Counter(self._plan[: self._settled])
        rate = {domain: (have[domain] + 1) / (tried[domain] + 2) for domain in self.rows}
        underway = Counter(self._plan[self._settled :])
        lacking = self._lacking(have)
        wanted = {d: max(0.0, lack / rate[d] - underway[d]) if lack else 0.0 for d, lack in lacking.items()}
        if not any(wanted.values()):  # what is underway may be enough; a few more in case it is not
            wanted = {domain: float(lack) for domain, lack in lacking.items()}
        if not any(wanted.values()):
            wanted = {domain: float(rows) for domain, rows in self.rows.items()}
        most = max(_LEAST_STRETCH, len(self._plan) // _GROWTH)
        counts = apportion(wanted, max(_LEAST_STRETCH // 4, min(most, math.ceil(sum(wanted.values())))))
        stretch = [domain for domain, count in counts.items() for _ in range(count)]
        rng(self._seed, self._number, len(self._plan), "quotas").shuffle(stretch)
        self._settled = len(self._plan)
        self._plan += stretch
