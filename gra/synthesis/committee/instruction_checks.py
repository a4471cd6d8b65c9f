"""Combine a reviewer's checks of an instruction into one score, with weights fitted on control instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gra.stats.panel import log_odds

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class CombinedChecks:
    """Weigh the checks of one reviewer.

    Attributes:
        usual: the log-odds of each check of a good instruction, on average.
        weights: of the checks, a unit of log-odds.
        least: the score below which an instruction fails.
    """

    usual: Mapping[str, float]
    weights: Mapping[str, float]
    least: float = 0.0

    def parts(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return what each check adds to the score, beside a usual good instruction."""
        return {name: w * (float(log_odds(values[name])) - self.usual[name]) for name, w in self.weights.items()}

    def score(self, values: Mapping[str, float]) -> float:
        """Return the score of an instruction; a usual good one has 0."""
        return sum(self.parts(values).values())

    def failed(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Return the check that lowers the score most, where the instruction fails."""
        parts = self.parts(values)
        # Scores of weights that did not see an item set the threshold, so equal instructions differ by rounding.
        return (min(parts, key=lambda name: parts[name]),) if sum(parts.values()) < self.least - _ROUNDING else ()
