"""Fit the checks of instructions on control instructions, and measure what they reject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from gra.stats.aggregation import ridge_logistic, stratified_folds
from gra.stats.panel import log_odds
from gra.stats.reliability import even_counts
from gra.synthesis.committee.instruction_checks import CombinedChecks
from gra.synthesis.measuring.controls import ControlItem, halves

MOST_GOOD_REJECTED = 0.06  # share of good control instructions that the checks may reject
_RIDGE = 4.0
_SCORE = "score"
Checks = Mapping[str, Mapping[str, Mapping[str, float]]]  # by reviewer and item name, the values of the checks


@dataclass(frozen=True)
class InstructionGates:
    """Hold what decides about instructions, by reviewer: thresholds of single checks, or combined checks."""

    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    combined: dict[str, CombinedChecks] = field(default_factory=dict)

    def fails(self, checks: Checks, item: str) -> bool:
        """Return whether any reviewer fails an instruction."""
        given = {name: values[item] for name, values in checks.items() if item in values}
        return any(one.failed(given[name]) for name, one in self.combined.items() if name in given) or any(
            given[name][check] < least
            for name, limits in self.thresholds.items()
            if name in given
            for check, least in limits.items()
        )


def fit_gates(checks: Checks, instructions: Sequence[ControlItem], *, combine: bool) -> InstructionGates:
    """Fit what decides about instructions, so that it rejects few good ones.

    Args:
        checks: by reviewer and item name, the values of the checks.
        instructions: control items for instruction checks, with good ones.
        combine: whether the checks of a reviewer become one score. Each check decides alone for a reviewer that did
            not answer about both good and faulty instructions.
    """
    verdicts = {item.name: item.is_good for item in instructions}
    fitted: dict[str, CombinedChecks] = {}
    crossed: dict[str, dict[str, dict[str, float]]] = {}
    for name, given in checks.items() if combine else ():
        items = [item for item in given if item in verdicts]
        good = np.array([verdicts[item] for item in items], bool)
        if good.any() and not good.all():
            fitted[name], scores = _combine([given[item] for item in items], good)
            crossed[name] = {item: {_SCORE: score} for item, score in zip(items, scores, strict=True)}
    limits = check_thresholds(crossed, instructions)
    alone = {name: given for name, given in checks.items() if name not in fitted}
    return InstructionGates(
        check_thresholds(alone, instructions),
        {name: replace(one, least=limits[name][_SCORE]) for name, one in fitted.items()},
    )


def _combine(values: Sequence[Mapping[str, float]], good: NDArray[np.bool_]) -> tuple[CombinedChecks, list[float]]:
    """Fit one reviewer's weights; the scores that are returned come from weights that did not see the item."""
    names = list(values[0])
    table = np.array([[float(log_odds(row[name])) for name in names] for row in values])
    spread = np.where(table.std(axis=0) > 1e-9, table.std(axis=0), 1.0)

    def fit(chosen: NDArray[np.bool_]) -> CombinedChecks:
        usual = table[chosen & good].mean(axis=0)
        scaled = (table[chosen] - usual) / spread
        weights, _ = ridge_logistic(scaled, good[chosen].astype(float), _RIDGE, even_counts(good[chosen]))
        return CombinedChecks(
            dict(zip(names, map(float, usual), strict=True)),
            dict(zip(names, map(float, weights / spread), strict=True)),
        )

    everything = fit(np.ones(len(good), bool))
    scores = [everything.score(row) for row in values]
    folds = stratified_folds(good)
    for fold in np.unique(folds):
        others = folds != fold
        if good[others].any() and not good[others].all():
            one = fit(others)
            for place in np.flatnonzero(~others):
                scores[place] = one.score(values[place])
    return everything, scores


def check_thresholds(checks: Checks, instructions: Sequence[ControlItem]) -> dict[str, dict[str, float]]:
    """Choose below which value a check fails, so that together they reject few good instructions.

    All reviewers' checks use one quantile of the good instructions' values. It is the largest with which at most
    MOST_GOOD_REJECTED of the good control instructions fail any check of any reviewer.

    Args:
        checks: by reviewer and item name, the values of the checks, or one score.
        instructions: control items for instruction checks, with good ones.
    """
    good = [item.name for item in instructions if item.is_good]
    known = {name: [given[item] for item in good if item in given] for name, given in checks.items()}
    chosen: dict[str, dict[str, float]] = {name: {} for name in checks}
    for quantile in np.linspace(0.0, 0.3, 31):
        trial = {
            name: {check: float(np.quantile([v[check] for v in values], quantile)) for check in values[0]}
            for name, values in known.items()
            if values
        }
        gates = InstructionGates(trial)
        if good and fmean(float(gates.fails(checks, item)) for item in good) > MOST_GOOD_REJECTED:
            break
        chosen |= trial
    return chosen


def check_rates(
    checks: Checks, instructions: Sequence[ControlItem], seed: int, *, combine: bool
) -> dict[str, dict[str, float]]:
    """Return the share of control instructions that checks reject, by kind; what decides comes from the other half."""
    halves_ = halves(instructions, seed)
    rejected: dict[str, list[float]] = {}
    for fitted, held in (halves_, halves_[::-1]):
        gates = fit_gates(checks, fitted, combine=combine)
        for kind in dict.fromkeys(item.kind for item in held):
            rejected.setdefault(str(kind), []).extend(
                float(gates.fails(checks, item.name)) for item in held if item.kind is kind
            )
    return {kind: {"rejected": fmean(found), "items": len(found)} for kind, found in rejected.items()}
