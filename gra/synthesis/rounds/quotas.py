"""Split the rows of a round over the domains, and plan the domain of each candidate.

Without quotas, the domains take turns and each gets as many rows as are accepted. With quotas, candidates are
planned in batches, and each batch asks most for the domains that lack most rows. The plan looks only at candidates
before the batch that still runs. So it depends on the candidates' order alone, and two batches keep the engines busy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from gra.config.synthesis import SynthesisRecipe
from gra.core.rng import rng
from gra.stats.apportion import apportion
from gra.synthesis.records import FinishedCandidate

ROUND_FULL = "accepted after the round was full"  # the reason of a candidate that finds no place left
# Batches grow with the round, because each one deduplicates all candidates before it.
_LEAST_BATCH = 32
_GROWTH = 8


def rows_by_domain(recipe: SynthesisRecipe) -> dict[str, int] | None:
    """Return the rows that a round wants of each domain, `rounds.accept` in all; None without quotas."""
    quotas = recipe.rounds.quotas
    if quotas is None:
        return None
    return apportion(dict.fromkeys(recipe.domains, 1.0) if quotas == "even" else quotas, recipe.rounds.accept)


class Quotas:
    """Track the rows that one round wants, in all and of each domain."""

    def __init__(self, recipe: SynthesisRecipe, number: int) -> None:
        self.rows = rows_by_domain(recipe)
        self._accept = recipe.rounds.accept
        self._seed = recipe.seed
        self._number = number
        self._plan: list[str] = []  # the domains of the candidates planned so far
        self._needs = 0  # candidates before the last batch

    def missing(self, kept: Counter[str]) -> int:
        """Return how many rows the round still lacks, given the kept rows by domain."""
        return sum(self._lacking(kept).values())

    def surplus(self, kept: Iterable[FinishedCandidate]) -> dict[int, str]:
        """Return accepted rows beyond the quota, as {candidate index: reason}.

        Args:
            kept: the rows that deduplication kept, in candidate order.
        """
        left = Counter(self.rows if self.rows is not None else {"": self._accept})
        over = {}
        for candidate in kept:
            place = candidate.domain if self.rows is not None else ""
            if left[place] > 0:
                left[place] -= 1
            else:
                domain_full = place and sum(left.values())
                over[candidate.index] = f"accepted after the quota of {place} was full" if domain_full else ROUND_FULL
        return over

    def _lacking(self, have: Counter[str]) -> dict[str, int]:
        if self.rows is None:
            return {"": max(0, self._accept - have.total())}
        return {domain: max(0, rows - have[domain]) for domain, rows in self.rows.items()}

    def planned(self, index: int) -> bool:
        """Return whether the candidate's domain is known yet."""
        return self.rows is None or index < len(self._plan)

    def domain(self, index: int) -> str | None:
        """Return the domain of a planned candidate; None where domains take turns."""
        return None if self.rows is None else self._plan[index]

    @property
    def needs(self) -> int:
        """How many candidates must have ended before more can be planned."""
        return self._needs

    def plan(self, have: Counter[str]) -> None:
        """Plan another batch of candidates.

        Args:
            have: the rows among the first `needs` candidates, by domain.
        """
        assert self.rows is not None
        tried = Counter(self._plan[: self._needs])
        rate = {domain: (have[domain] + 1) / (tried[domain] + 2) for domain in self.rows}
        underway = Counter(self._plan[self._needs :])
        lacking = self._lacking(have)
        wanted = {d: max(0.0, lack / rate[d] - underway[d]) if lack else 0.0 for d, lack in lacking.items()}
        if not any(wanted.values()):  # running candidates may be enough; a few more in case they are not
            wanted = {domain: float(lack) for domain, lack in lacking.items()}
        if not any(wanted.values()):
            wanted = {domain: float(rows) for domain, rows in self.rows.items()}
        most = max(_LEAST_BATCH, len(self._plan) // _GROWTH)
        counts = apportion(wanted, max(_LEAST_BATCH // 4, min(most, math.ceil(sum(wanted.values())))))
        batch = [domain for domain, count in counts.items() for _ in range(count)]
        rng(self._seed, self._number, len(self._plan), "quotas").shuffle(batch)
        self._needs = len(self._plan)
        self._plan += batch
