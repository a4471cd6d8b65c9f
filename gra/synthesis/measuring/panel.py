"""Fit a panel of reviewers on control items: calibrations, aggregation, early stopping, and what they are worth.

The target items are the natural ones where there are enough of both verdicts: candidates are written by members, too.
Otherwise all kinds count. What fits a map never measures it: figures come from cross-fitted scores.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.config.committee import ANSWER_ASKS, DomainKind, is_asked
from gra.config.review import ReviewConfig
from gra.core.processes.concurrency import together
from gra.core.types import Review
from gra.stats.aggregation import LabelModel, Weights, fit_weights, label_model
from gra.stats.panel import (
    EarlyStop,
    PanelStatistics,
    auc_with_interval,
    crossed,
    early_stop,
    log_odds,
    panel_statistics,
)
from gra.stats.reliability import Logistic, calibrate, logistic
from gra.synthesis.committee.members import Member
from gra.synthesis.measuring.chain import ReviewChains
from gra.synthesis.measuring.controls import MIN_PER_KIND, ControlItem, ControlKind

Table = NDArray[np.float64]
Flags = NDArray[np.bool_]
NATURAL = (ControlKind.RIGHT_ANSWER, ControlKind.WRONG_ANSWER)
_ENOUGH = 2 * MIN_PER_KIND  # right answers, and wrong ones, with which natural items alone are the target


@dataclass(frozen=True)
class Panel:
    """A fitted panel: it turns calibrated scores into one score (0-10), and says when enough reviewers were asked.

    Attributes:
        aggregate: the recipe's `review.aggregate`.
        weights: of a weighted panel.
        accuracy: by reviewer, of a label model.
        stop: of an adaptive review.
        chains: of a chain of reviewers.
    """

    aggregate: str = "mean"
    weights: Weights | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    stop: EarlyStop | None = None
    chains: ReviewChains | None = None

    def score(self, calibrated: Mapping[str, float]) -> float:
        """Return the panel's score (0-10) of calibrated scores (0-10) by reviewer."""
        return float(logistic(self.log_odds({name: float(log_odds(s / 10)) for name, s in calibrated.items()}), 10))

    def log_odds(self, odds: Mapping[str, float]) -> float:
        """Return the panel's log-odds of "right" from the log-odds that reviewers gave."""
        if self.aggregate == "label_model":
            votes = [(odds[name] > 0, a) for name, a in self.accuracy.items() if name in odds]
            return math.fsum(math.log(a / (1 - a)) * (1 if yes else -1) for yes, a in votes)
        if self.weights is not None and self.weights.used:
            return self.weights([odds.get(name, math.nan) for name in self.weights.names])
        return float(log_odds(fmean(map(float, logistic(np.array(list(odds.values()))))))) if odds else 0.0

    def decided(self, calibrated: Mapping[str, float]) -> bool:
        """Return whether an adaptive review can stop after these reviewers.

        The bounds hold for the first reviewers of the order, all of them. With others the review goes on.
        """
        asked = len(calibrated)
        if self.stop is None or not calibrated or set(calibrated) != set(self.stop.order[:asked]):
            return False
        now = self.log_odds({name: float(log_odds(score / 10)) for name, score in calibrated.items()})
        return now < self.stop.low[asked - 1] or now >= self.stop.high[asked - 1]


@dataclass(frozen=True)
class OpenPanel:
    """The panel of open domains, with calibrations of its own; `domains` are those of the recipe."""

    domains: frozenset[str]
    panel: Panel
    calibrations: Mapping[str, Logistic]


def asked_in(open_domains: Collection[str], domain: str, reviewers: Sequence[Member]) -> list[Member]:
    """Return the reviewers that are asked in a domain, where the recipe names open ones."""
    if not open_domains:
        return list(reviewers)
    kind: DomainKind = "open" if domain in open_domains else "closed"
    return [member for member in reviewers if is_asked(member.ask, member.asked_in, kind)]


def items_for(
    reviewer: Member, items: Sequence[ControlItem], open_domains: Collection[str], *, natural: bool
) -> list[ControlItem]:
    """Return the control items that a reviewer is asked about: all of them, where the recipe names no open domains.

    Else they are those of the domains that it is asked in. One that looks for the right answer needs only natural
    items, which calibrate it.

    Args:
        reviewer: the member.
        items: control items for responses.
        open_domains: of the recipe.
        natural: whether members answer control questions.
    """
    if open_domains and natural and reviewer.ask in ANSWER_ASKS and reviewer.asked_in != "open":
        return [item for item in items if item.kind in NATURAL]
    return [item for item in items if asked_in(open_domains, item.domain, [reviewer])]


async def ask_panel(
    panel: Panel | None, reviewers: Sequence[Member], ask: Callable[[Member], Awaitable[Review]], candidate: str = ""
) -> list[Review]:
    """Ask the reviewers of one candidate: all at once, or one after another until the verdict is decided.

    Args:
        panel: the fitted panel; None asks all reviewers.
        reviewers: of the candidate.
        ask: asks one of them.
        candidate: the candidate's id, which decides between equal confidences.
    """
    if panel is not None and panel.chains is not None:
        return await panel.chains.ask(reviewers, ask, candidate)
    if panel is None or panel.stop is None:
        return await together(*map(ask, reviewers))
    place = {name: at for at, name in enumerate(panel.stop.order)}
    reviews: list[Review] = []
    for reviewer in sorted(reviewers, key=lambda member: place[member.name]):
        reviews.append(await ask(reviewer))
        if panel.decided({review.reviewer: review.score for review in reviews}):
            break
    return reviews


def panel_score(
    panel: Panel | None, reviews: Sequence[Review], verified: Sequence[Review], reviewers: Sequence[Member] = ()
) -> float | None:
    """Return the panel's score with those of scoring verifiers; None where the plain mean counts.

    Args:
        panel: the fitted panel.
        reviews: of the reviewers that were asked.
        verified: verdicts of scoring verifiers.
        reviewers: all reviewers of the candidate, whether asked or not.
    """
    if panel is None or not reviews or (panel.aggregate == "mean" and panel.chains is None):
        return None
    given = {review.reviewer: review.score for review in reviews}
    names = [reviewer.name for reviewer in reviewers] or list(given)
    score = panel.score(given) if panel.chains is None else panel.chains.score(given, names)
    # A verifier counts like one reviewer.
    return fmean([*[score] * len(reviews), *(review.score for review in verified)])


@dataclass(frozen=True)
class FittedPanel:
    """A panel with its reviewers' calibrations, and the manifest's facts of it.

    Attributes:
        notes: what a user should know before the first candidate.
        crossed: cross-fitted log-odds by reviewer, one a control item; NaN where there is none.
    """

    panel: Panel
    calibrations: dict[str, Logistic]
    facts: dict[str, Any]
    notes: list[str]
    crossed: dict[str, Table] = field(default_factory=dict)


def fit_panel(
    items: Sequence[ControlItem],
    raw: Mapping[str, Mapping[str, float]],
    review: ReviewConfig,
    *,
    costs: Mapping[str, float],
    families: Mapping[str, str],
    authors: Mapping[str, str],
    sharing: Mapping[str, str] | None = None,
) -> FittedPanel:
    """Fit a panel on control items, and measure it.

    Args:
        items: control items for responses.
        raw: by reviewer, raw scores by item name, without unanswered ones.
        review: the recipe's section.
        costs: tokens x billions of parameters of one review, by reviewer.
        families: by reviewer; empty where it is not known.
        authors: the family of members, by name.
        sharing: by reviewer, the group that shares its answers: a review costs what the group did not draw before.
    """
    right = np.array([item.is_good for item in items], bool)
    target = _targets(items)
    table = {name: np.array([given.get(item.name, math.nan) for item in items]) for name, given in raw.items()}
    calibrations = {name: calibrated_on(items, given) for name, given in raw.items()}
    odds = {name: crossed(values, right, target, even_odds=True) for name, values in table.items()}
    aimed = {name: values[target] for name, values in odds.items()}
    panel, crossed_panel = _aggregate(review, aimed, right[target], costs, sharing or {})
    chain = None
    if review.strategy == "chain" and right[target].any() and not right[target].all():
        # Thresholds hold for the scores that candidates get, so they come from the same maps.
        given = {
            name: np.array([float(log_odds(calibrations[name](score) / 10)) for score in values[target]])
            for name, values in table.items()
        }
        chains = ReviewChains(given, aimed, [items[i] for i in np.flatnonzero(target)], costs, review)
        panel, chain = replace(panel, chains=chains), chains.facts()
    statistics = panel_statistics(
        aimed,
        crossed_panel,
        right[target],
        lengths=[len(item.response) for item, used in zip(items, target, strict=True) if used],
        authors=[authors.get(item.author, "") for item, used in zip(items, target, strict=True) if used],
        families=families,
        raw={name: values[target] for name, values in table.items()},
    )
    kinds = {name: _by_kind(items, values) for name, values in table.items()}
    facts = {
        "aggregate": review.aggregate,
        "strategy": review.strategy,
        "target": "natural" if all(items[i].kind in NATURAL for i in np.flatnonzero(target)) else "mixed",
        "items": {str(kind): sum(item.kind is kind for item in items) for kind in dict.fromkeys(i.kind for i in items)},
        "kinds": kinds,
        "costs": dict(costs),
        "statistics": statistics.to_json() if statistics else None,
        "weights": _weights(panel.weights) if panel.weights else None,
        "accuracy": dict(panel.accuracy),
        "stop": panel.stop.to_json() if panel.stop else None,
        **({"chain": chain} if chain else {}),
    }
    return FittedPanel(panel, calibrations, facts, _notes(facts, statistics, kinds), odds)


def _weights(fitted: Weights) -> dict[str, Any]:
    return {
        "used": fitted.used,
        "weights": dict(zip(fitted.names, fitted.weights, strict=True)),
        "intercept": fitted.intercept,
        "auc": fitted.auc,
        "mean_auc": fitted.mean_auc,
        "gain": [fitted.gain, fitted.low],
    }


def _targets(items: Sequence[ControlItem]) -> Flags:
    natural = np.array([item.kind in NATURAL for item in items], bool)
    right = sum(item.kind is ControlKind.RIGHT_ANSWER for item in items)
    wrong = sum(item.kind is ControlKind.WRONG_ANSWER for item in items)
    return natural if min(right, wrong) >= _ENOUGH else np.ones(len(items), bool)


def calibrating(items: Sequence[ControlItem]) -> list[ControlItem]:
    """Return the items that calibrate reviewers: natural ones where there are enough of both verdicts, else all."""
    return [item for item, used in zip(items, _targets(items), strict=True) if used]


def calibrated_on(items: Sequence[ControlItem], raw: Mapping[str, float]) -> Logistic:
    """Fit one reviewer's map on the target items; without both verdicts, no score says anything.

    Args:
        items: control items for responses.
        raw: the reviewer's raw scores by item name, without unanswered ones.
    """
    used = [item for item in calibrating(items) if item.name in raw]
    good, bad = ([raw[item.name] for item in used if item.is_good is verdict] for verdict in (True, False))
    # How many control items are right depends on the questions. At even odds a gate means the same in every run.
    return calibrate(good, bad, even_odds=True) if good and bad else Logistic(0.0, 1.0, 0.0, 0.0)


def _aggregate(
    review: ReviewConfig,
    odds: Mapping[str, Table],
    right: Flags,
    costs: Mapping[str, float],
    sharing: Mapping[str, str],
) -> tuple[Panel, Table]:
    """Return the panel, and the cross-fitted panel log-odds of the items."""
    names = tuple(odds)
    table = np.column_stack([odds[name] for name in names]) if names else np.zeros((len(right), 0))
    weights, accuracy = None, {}
    both = bool(right.any() and not right.all())
    if review.aggregate == "weighted" and both:
        weights = fit_weights(names, table, right)
    elif review.aggregate == "label_model" and names:
        accuracy = _accuracies(names, label_model(np.where(np.isnan(table.T), np.nan, table.T > 0)))
    panel = Panel(review.aggregate, weights, accuracy)
    scored = np.array([panel.log_odds(_given(names, row)) for row in table])
    if review.strategy == "adaptive" and both:
        accept = float(log_odds(review.accept_mean / 10))
        stop = early_stop(odds, costs, panel.log_odds, accept, right=right, sharing=sharing)
        panel = replace(panel, stop=stop)
    return panel, weights.crossed if weights is not None and weights.used else scored


def _given(names: Sequence[str], row: Table) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, row, strict=True) if not math.isnan(value)}


def _accuracies(names: Sequence[str], found: LabelModel) -> dict[str, float]:
    """Return a reviewer's accuracy, where clones share one vote: only the first of a group counts."""
    first = {group[0] for group in found.groups}
    return {
        name: min(0.99, max(0.01, accuracy))
        for place, (name, accuracy) in enumerate(zip(names, found.accuracy, strict=True))
        if place in first
    }


def _by_kind(items: Sequence[ControlItem], raw: Table) -> dict[str, dict[str, float]]:
    """Return a reviewer's AUC of each fault kind against good items of the same origin."""
    found = {}
    for kind in dict.fromkeys(item.kind for item in items if not item.is_good):
        good = ControlKind.RIGHT_ANSWER if kind is ControlKind.WRONG_ANSWER else ControlKind.GOOD
        chosen = np.array([item.kind in (kind, good) for item in items])
        right = np.array([item.kind is good for item in items])
        if measured := auc_with_interval(raw[chosen], right[chosen]):
            found[str(kind)] = asdict(measured)
    return found


def _notes(
    facts: Mapping[str, Any], statistics: PanelStatistics | None, kinds: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[str]:
    """Say what is wrong with the control items or the panel, and what to do."""
    notes = []
    counts = facts["items"]
    if thin := [f"{n} {kind}" for kind, n in counts.items() if n < MIN_PER_KIND]:
        notes.append(
            f"! too few control items to calibrate on: {', '.join(thin)}; raise `review.control_items`, or give more "
            "seeds or control questions"
        )
    if "right_answer" in counts or "wrong_answer" in counts:
        right, wrong = counts.get("right_answer", 0), counts.get("wrong_answer", 0)
        if facts["target"] != "natural":
            notes.append(
                f"! members answered the control questions {right} times right and {wrong} times wrong; {_ENOUGH} of "
                "each are needed, so all control items calibrate. Use easier or harder questions, or more of them"
            )
    for name, measured in kinds.items():
        if worse := [kind for kind, auc in measured.items() if auc["high"] < 0.5]:
            notes.append(
                f"! reviewer {name} is worse than a coin on {', '.join(worse)}: its scores prefer the faulty ones; "
                "ask it in another way, or take the role `reviewer` from it"
            )
    if statistics is not None:
        notes += [
            f"! reviewers {one} and {two} give the same scores; they count as one opinion"
            for one, two in statistics.clones
        ]
    return notes
