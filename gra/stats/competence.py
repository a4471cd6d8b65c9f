"""Estimate which member is right on what, and choose the members to ask by that and by cost.

Follows "SelectLLM" (Maurya et al. 2024, arXiv 2408.08545). One ridge logistic regression a member predicts from
features of a question whether the member is right. All predictions that are measured are cross-fitted: no question is
routed by a regression that saw it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gra.stats.aggregation import ridge_logistic
from gra.stats.paired import paired_difference
from gra.stats.panel import crossed, to_log_odds
from gra.stats.reliability import Logistic, calibrate, logistic

Table = NDArray[np.float64]
_FOLDS = 5
_RIDGE = 2.0


@dataclass(frozen=True)
class MemberCompetence:
    """Predict from features whether one member is right.

    Attributes:
        weights: by feature.
        intercept: in log-odds.
        calibration: maps the regression's log-odds to ten times a probability; None where one verdict is missing.
    """

    weights: tuple[float, ...]
    intercept: float
    calibration: Logistic | None

    def __call__(self, features: ArrayLike) -> float:
        """Return the probability that the member is right."""
        logit = float(np.asarray(features, float) @ np.asarray(self.weights) + self.intercept)
        odds = logit if self.calibration is None else float(to_log_odds(self.calibration, logit))
        return float(logistic(odds))


@dataclass(frozen=True)
class FittedCompetence:
    """Predictions of members, and cross-fitted probabilities of the items they were fitted on (items x members)."""

    members: dict[str, MemberCompetence]
    crossed: Table


def fit_competence(
    names: Sequence[str], features: ArrayLike, right: ArrayLike, groups: Sequence[str]
) -> FittedCompetence:
    """Fit each member's competence.

    Args:
        names: of the members.
        features: items x features.
        right: items x members: 1 right, 0 wrong, NaN not asked.
        groups: by item; items of one group are never divided between fitting and measuring.
    """
    x, y = np.asarray(features, float), np.asarray(right, float)
    places = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    folds = np.array([places[name] % _FOLDS for name in groups])
    found, table = {}, np.full(y.shape, np.nan)
    for column, name in enumerate(names):
        asked = ~np.isnan(y[:, column])
        known = y[:, column] == 1
        raw = np.full(len(y), np.nan)
        for fold in range(_FOLDS):
            train, held = asked & (folds != fold), asked & (folds == fold)
            weights, intercept = _regression(x[train], known[train])
            raw[held] = x[held] @ weights + intercept
        weights, intercept = _regression(x[asked], known[asked])
        both = bool((asked & known).any() and (asked & ~known).any())
        scale = calibrate(raw[asked & known], raw[asked & ~known]) if both else None
        found[name] = MemberCompetence(tuple(map(float, weights)), intercept, scale)
        odds = crossed(raw, known, asked) if both else raw
        table[asked, column] = logistic(odds[asked])
    return FittedCompetence(found, table)


def _regression(x: Table, right: NDArray[np.bool_]) -> tuple[Table, float]:
    """Return weights and intercept; where one verdict is missing, only the smoothed share of right answers."""
    if right.all() or not right.any():
        share = (right.sum() + 1) / (len(right) + 2)
        return np.zeros(x.shape[1]), math.log(share / (1 - share))
    return ridge_logistic(x, right.astype(float), _RIDGE)


def select_best(probabilities: Mapping[str, float], costs: Mapping[str, float], price: float) -> str:
    """Return the member with the best probability less price x cost; of equals the cheapest, then by name.

    Args:
        probabilities: of being right, by member.
        costs: by member, as shares of the most expensive one.
        price: of the whole cost, in probability.
    """
    return min(
        probabilities,
        key=lambda name: (-(probabilities[name] - price * costs.get(name, 0.0)), costs.get(name, 0.0), name),
    )


def select_panel(probabilities: Mapping[str, float], costs: Mapping[str, float], price: float, most: int) -> list[str]:
    """Return the members whose votes raise the expected margin by more than they cost, best first.

    The expected margin of a vote is the sum of 2p - 1 over the voters. So each member is weighed alone. Where none is
    worth its cost, the best one votes.

    Args:
        probabilities: of being right, by member.
        costs: by member, as shares of the most expensive one.
        price: of the whole cost, in probability.
        most: the most voters.
    """
    worth = {name: 2 * (p - price * costs.get(name, 0.0)) - 1 for name, p in probabilities.items()}
    order = sorted(worth, key=lambda name: (-worth[name], costs.get(name, 0.0), name))
    return [name for name in order[:most] if worth[name] > 0] or order[: min(1, most)]


@dataclass(frozen=True)
class RoutingFigures:
    """What routing questions by competence is worth, on questions that every member answered.

    Attributes:
        questions: their number.
        router: share right of the member that is chosen for each question.
        best: the best single member on these questions, and its share right.
        random: share right of a member drawn at random.
        oracle: share of the questions on which at least one member is right.
        gain: router less best single member, and the 95 % interval of the paired difference.
        differs: share of the questions that do not go to the best single member.
        cost: mean cost of the chosen members, as a share of the most expensive one's.
    """

    questions: int
    router: float
    best: dict[str, float]
    random: float
    oracle: float
    gain: tuple[float, float, float]
    differs: float
    cost: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_routing(
    names: Sequence[str], fitted: FittedCompetence, right: ArrayLike, costs: Mapping[str, float], price: float
) -> RoutingFigures | None:
    """Measure the choice of one member a question; None with fewer than two questions that all members answered.

    Args:
        names: of the members.
        fitted: their competence, with cross-fitted probabilities.
        right: items x members: 1 right, 0 wrong, NaN not asked.
        costs: by member, as shares of the most expensive one.
        price: of the whole cost, in probability.
    """
    known = np.asarray(right, float)
    whole = np.flatnonzero(~np.isnan(known).any(axis=1))
    if whole.size < 2:
        return None
    table = known[whole]
    place = {name: column for column, name in enumerate(names)}
    chosen = [
        place[select_best(dict(zip(names, map(float, fitted.crossed[item]), strict=True)), costs, price)]
        for item in whole
    ]
    # The best member is chosen on the same questions. That flatters it, so the gain is rather too small.
    single = int(table.mean(axis=0).argmax())
    router, best = table[np.arange(len(table)), chosen], table[:, single]
    gain = paired_difference(router, best)
    return RoutingFigures(
        questions=len(table),
        router=float(router.mean()),
        best={names[single]: float(best.mean())},
        random=float(table.mean()),
        oracle=float(table.max(axis=1).mean()),
        gain=(gain.value, *gain.interval()),
        differs=float((np.array(chosen) != single).mean()),
        cost=float(np.mean([costs.get(names[column], 0.0) for column in chosen])),
    )
