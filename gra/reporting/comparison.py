"""The comparison as the page shows it: scores per task, paired differences, and the verdicts per arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gra.reporting import figures
from gra.reporting.evidence import Evidence


@dataclass(frozen=True)
class Score:
    """One student on one task; `opens` marks the first line of a task. Shares of 1, tokens per answer."""

    task: str
    arm: str
    mean: float
    low: float
    high: float
    n: int
    stopped: float | None
    tokens: float | None
    opens: bool


@dataclass(frozen=True)
class Difference:
    """One paired difference on one task, ours minus reference, as shares of 1."""

    task: str
    ours: str
    reference: str
    difference: float
    low: float
    high: float
    p: float | None
    p_holm: float | None
    verdict: str
    mde: float | None
    wins: int | None
    losses: int | None
    ties: int | None
    opens: bool


@dataclass(frozen=True)
class Verdicts:
    """One arm's line at the top of the page: what it found against each reference."""

    arm: str
    remark: str
    cells: list[list[Difference]]


@dataclass(frozen=True)
class Comparison:
    """Everything compare.json says that the page shows."""

    baseline: str
    untuned: str
    margin: float | None
    scores: list[Score]
    differences: list[Difference]
    verdicts: list[Verdicts]
    references: list[str]
    one_seed: bool

    def forest(self) -> list[figures.Difference]:
        """The lines of the forest plot."""
        return [
            figures.Difference(f"against {d.reference}", d.task, d.ours, d.difference, d.low, d.high, d.verdict)
            for d in self.differences
        ]


def read_comparison(evidence: Evidence) -> Comparison | None:
    """The comparison of a run, or None when there is none."""
    found: dict[str, Any] = evidence.comparison
    if not found:
        return None
    return None
