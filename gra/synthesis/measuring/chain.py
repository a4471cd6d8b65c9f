"""Review candidates by a chain of reviewers: the cheapest first, each decides what it is surest of.

The links are the candidate's own reviewers, so a chain is fitted when a set of reviewers first comes up. It is fitted
on recorded answers to control items, and nothing more is asked.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.config.review import ReviewConfig
from gra.core.types import Review
from gra.stats.chain import Chain, fit_chain, measure_chain
from gra.stats.panel import log_odds
from gra.stats.reliability import logistic
from gra.synthesis.committee.members import Member
from gra.synthesis.measuring.controls import ControlItem


class ReviewChains:
    """The chains of a committee's reviewers, fitted on control items.

    Args:
        odds: log-odds at even odds by reviewer, one a control item, by the maps that candidates are scored with.
        crossed: the same, cross-fitted, for the figures; NaN where there is none in both.
        items: the control items, with both verdicts.
        costs: of one review, by reviewer; equal costs go by name.
        review: the recipe's section.
    """

    def __init__(
        self,
        odds: Mapping[str, NDArray[np.float64]],
        crossed: Mapping[str, NDArray[np.float64]],
        items: Sequence[ControlItem],
        costs: Mapping[str, float],
        review: ReviewConfig,
    ) -> None:
        self._odds, self._crossed, self._items, self._costs = odds, crossed, items, costs
        self._combine = review.chain.combine
        self._accept = float(log_odds(review.accept_mean / 10))
        self.order = tuple(sorted(odds, key=lambda name: (costs.get(name, 0.0), name)))
        self._of = cache(self._fitted)

    def of(self, reviewers: Sequence[str]) -> Chain:
        """Return the chain of a set of reviewers."""
        return self._of(tuple(name for name in self.order if name in reviewers))

    def _fitted(self, order: tuple[str, ...]) -> Chain:
        return fit_chain(
            order,
            {name: self._odds[name] for name in order},
            [item.name for item in self._items],
            accept=self._accept,
            combine=self._combine,
        )

    async def ask(
        self, reviewers: Sequence[Member], ask: Callable[[Member], Awaitable[Review]], candidate: str
    ) -> list[Review]:
        """Ask one reviewer after another until one of them is sure enough.

        Args:
            reviewers: of the candidate.
            ask: asks one of them.
            candidate: its id, which decides between equal confidences.
        """
        members = {member.name: member for member in reviewers}
        chain = self.of(list(members))
        reviews: list[Review] = []
        for link, name in enumerate(chain.order):
            reviews.append(await ask(members[name]))
            if chain.keeps(link, float(log_odds(reviews[-1].score / 10)), candidate):
                break
        return reviews

    def score(self, calibrated: Mapping[str, float], reviewers: Sequence[str]) -> float:
        """Return the chain's score (0-10).

        Args:
            calibrated: scores (0-10) of the reviewers that were asked.
            reviewers: all reviewers of the candidate; ranks are among the items that reached a link of their chain.
        """
        chain = self.of(reviewers)
        odds = [float(log_odds(calibrated[name] / 10)) if name in calibrated else math.nan for name in chain.order]
        return float(logistic(chain.combined(odds), 10))

    def facts(self) -> dict[str, Any] | None:
        """Return the manifest's facts of the chain of all reviewers; None where too few items have a verdict."""
        measured = measure_chain(
            self.order,
            self._crossed,
            [item.is_good for item in self._items],
            [item.name for item in self._items],
            self._costs,
            accept=self._accept,
            combine=self._combine,
            groups=[item.seed for item in self._items],
        )
        if measured is None:
            return None
        return {"order": list(self.order), "combine": self._combine} | measured.to_json()
