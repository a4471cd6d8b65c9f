"""Measure a panel of reviewers on control items: by fault kind, as a panel, against its best member, and by cost.

Scores are calibrated log-odds of "right". Where a figure depends on fitted maps, they were fitted on other items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gra.stats.agreement import effective_votes, krippendorff_alpha, length_bias, severity
from gra.stats.reliability import Logistic, auc, calibrate, logistic

Table = NDArray[np.float64]
MOST_LOG_ODDS = 6.0  # no reviewer alone makes an item surer than 400 to 1
_DRAWS = 400
_FOLDS = 5
_BINS = 5
MOST_CHANGED = 0.0075  # share of items whose verdict early stopping may change at each reviewer
_FEWEST = 12  # items with which bounds of early stopping are fitted


@dataclass(frozen=True)
class KindAuc:
    """How well a reviewer separates items of one fault kind from good ones, with a 95 % interval over items."""

    auc: float
    low: float
    high: float
    good: int
    bad: int


def log_odds(probability: ArrayLike) -> Table:
    """Return the log-odds of probabilities (0-1), limited to +-MOST_LOG_ODDS."""
    p = np.asarray(probability, float)
    with np.errstate(divide="ignore"):
        odds = np.log(p) - np.log1p(-p)
    return np.asarray(np.clip(odds, -MOST_LOG_ODDS, MOST_LOG_ODDS), float)


def auc_with_interval(scores: ArrayLike, right: ArrayLike) -> KindAuc | None:
    """Compute the AUC of scores, with a bootstrap interval; None where one of the verdicts is missing.

    Args:
        scores: one number an item; NaN where there is none.
        right: the known verdict of each item.
    """
    values, known = np.asarray(scores, float), np.asarray(right, bool)
    spoke = ~np.isnan(values)
    good, bad = values[spoke & known], values[spoke & ~known]
    if not good.size or not bad.size:
        return None
    random = np.random.default_rng(0)
    draws = [auc(random.choice(good, good.size), random.choice(bad, bad.size)) for _ in range(_DRAWS)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return KindAuc(auc(good, bad), float(low), float(high), int(good.size), int(bad.size))


def _auc(values: Table, right: NDArray[np.bool_]) -> float:
    """Return the AUC of scores; 0.5 where one of the verdicts is missing."""
    spoke = ~np.isnan(values)
    good, bad = values[spoke & right], values[spoke & ~right]
    return auc(good, bad) if good.size and bad.size else 0.5


def crossed(raw: ArrayLike, right: ArrayLike, fit_on: ArrayLike, *, even_odds: bool = False) -> Table:
    """Calibrate raw scores to log-odds, each item by a map that was fitted without it.

    Args:
        raw: one score an item; NaN where there is none.
        right: the known verdicts.
        fit_on: whether an item may help to fit the map.
        even_odds: as for `calibrate`.
    """
    values, known, fitting = np.asarray(raw, float), np.asarray(right, bool), np.asarray(fit_on, bool)
    found = np.full(values.shape, np.nan)
    folds = np.arange(values.size) % _FOLDS
    usable = ~np.isnan(values)
    for fold in range(_FOLDS):
        train = usable & fitting & (folds != fold)
        good, bad = values[train & known], values[train & ~known]
        held = usable & (folds == fold)
        if good.size and bad.size:
            found[held] = to_log_odds(calibrate(good, bad, even_odds=even_odds), values[held])
        else:
            found[held] = 0.0
    return found


def to_log_odds(scale: Logistic, raw: ArrayLike) -> Table:
    """Return the calibrated log-odds of raw scores."""
    values = np.asarray(raw, float)
    logits = scale.slope * (values - scale.centre) / scale.scale + scale.intercept
    return np.asarray(np.clip(logits, -MOST_LOG_ODDS, MOST_LOG_ODDS), float)


@dataclass(frozen=True)
class PanelStatistics:
    """What control items say about a panel.

    Attributes:
        auc: of the panel's score on the target items.
        best: the best single reviewer, and its AUC.
        gain: the panel's AUC less that of its best member, with the 95 % interval of the difference.
        alpha: Krippendorff's alpha of the calibrated scores (0-10).
        votes: how many independent reviewers the panel is worth.
        severity: by reviewer, how far it scores below the others, in points.
        length_bias: by reviewer, the rank correlation of its scores with length among items of equal verdict.
        own_family: by reviewer, how far it prefers answers by its own family, in points; None without such answers.
        curve: for items in order of the panel's score, in bins: mean score (0-1), share right, items.
        clones: pairs of reviewers that give the same scores.
    """

    auc: KindAuc
    best: tuple[str, float]
    gain: tuple[float, float, float]
    alpha: float
    votes: float
    severity: dict[str, float]
    length_bias: dict[str, float]
    own_family: dict[str, float | None]
    curve: tuple[tuple[float, float, int], ...]
    clones: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; a figure that cannot be computed is null."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def panel_statistics(
    scores: Mapping[str, ArrayLike],
    panel: ArrayLike,
    right: ArrayLike,
    *,
    lengths: ArrayLike,
    authors: Sequence[str] = (),
    families: Mapping[str, str] | None = None,
    raw: Mapping[str, ArrayLike] | None = None,
) -> PanelStatistics | None:
    """Compare a panel with its members on the target items.

    Args:
        scores: log-odds of "right" by reviewer, one an item; NaN where a reviewer gave none.
        panel: the panel's log-odds.
        right: the known verdicts.
        lengths: of the responses.
        authors: the family of each response's author; empty where it is not known.
        families: each reviewer's family.
        raw: scores before calibration, which show clones; calibrated ones where it is not given.

    Returns:
        None where the items lack right or wrong responses.
    """
    known, together = np.asarray(right, bool), np.asarray(panel, float)
    table = {name: np.asarray(values, float) for name, values in scores.items()}
    whole = auc_with_interval(together, known)
    if whole is None or not table:
        return None
    single = {name: auc_with_interval(values, known) for name, values in table.items()}
    best = max((name for name in single), key=lambda name: single[name].auc if single[name] else 0.0)  # type: ignore[union-attr]
    found = single[best]
    points = np.array([10 * logistic(values) for values in table.values()])
    # What reviewers err in alike beside the verdict: their scores less their mean score of the same verdict.
    errors = points.copy()
    for row in errors:
        for group in (known & ~np.isnan(row), ~known & ~np.isnan(row)):
            row[group] -= row[group].mean() if group.any() else 0.0
    return PanelStatistics(
        whole,
        (best, found.auc if found else math.nan),
        _difference(together, table[best], known),
        krippendorff_alpha(points),
        effective_votes(errors),
        dict(zip(table, map(float, severity(points)), strict=True)),
        {name: _length_bias(values, lengths, known) for name, values in table.items()},
        {
            name: _own_family(row, authors, (families or {}).get(name, ""))
            for name, row in zip(table, errors, strict=True)
        },
        _curve(together + math.log(known.sum() / (~known).sum()), known),
        _clones({name: np.asarray(values, float) for name, values in (raw or table).items()}),
    )


def _difference(one: Table, two: Table, right: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return the difference of two AUCs on the same items, and its 95 % bootstrap interval."""
    spoke = ~np.isnan(one) & ~np.isnan(two)
    good, bad = np.flatnonzero(spoke & right), np.flatnonzero(spoke & ~right)
    if not good.size or not bad.size:
        return math.nan, math.nan, math.nan
    random, draws = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        g, b = random.choice(good, good.size), random.choice(bad, bad.size)
        draws.append(auc(one[g], one[b]) - auc(two[g], two[b]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return auc(one[good], one[bad]) - auc(two[good], two[bad]), float(low), float(high)


def _length_bias(values: Table, lengths: ArrayLike, right: NDArray[np.bool_]) -> float:
    """Return the mean rank correlation with length among right and among wrong items."""
    sizes = np.asarray(lengths, float)
    found = [length_bias(values[group], sizes[group]) for group in (right, ~right)]
    kept = [value for value in found if not math.isnan(value)]
    return float(np.mean(kept)) if kept else math.nan


def _own_family(errors: Table, authors: Sequence[str], family: str) -> float | None:
    """Return the mean error (points, of equal verdict) on answers by the own family, less that on other answers."""
    if not family or not authors:
        return None
    own = np.array([author == family for author in authors])
    other = np.array([bool(author) and author != family for author in authors])
    spoke = ~np.isnan(errors)
    if not (own & spoke).any() or not (other & spoke).any():
        return None
    return float(errors[own & spoke].mean() - errors[other & spoke].mean())


def _curve(panel: Table, right: NDArray[np.bool_]) -> tuple[tuple[float, float, int], ...]:
    spoke = ~np.isnan(panel)
    order = np.argsort(panel[spoke], kind="stable")
    shares, known = logistic(panel[spoke][order]), right[spoke][order]
    parts = np.array_split(np.arange(order.size), min(_BINS, order.size))
    return tuple((float(shares[at].mean()), float(known[at].mean()), int(at.size)) for at in parts)


def _clones(table: Mapping[str, Table]) -> tuple[tuple[str, str], ...]:
    """Return pairs of reviewers whose scores correlate at more than 0.98."""
    names, found = list(table), []
    for place, one in enumerate(names):
        for two in names[place + 1 :]:
            both = ~np.isnan(table[one]) & ~np.isnan(table[two])
            a, b = table[one][both], table[two][both]
            if a.size >= 8 and a.std() > 0 and b.std() > 0 and float(np.corrcoef(a, b)[0, 1]) > 0.98:
                found.append((one, two))
    return tuple(found)


@dataclass(frozen=True)
class EarlyStop:
    """When an adaptive review stops: the order of reviewers, and bounds of the panel's log-odds after each.

    After reviewer k the review stops below `low[k]` and above `high[k]`. At each reviewer, at most MOST_CHANGED of the
    items are expected to get another verdict than from all reviewers.

    Attributes:
        changed: the share of control items whose verdict differs from the full review's.
        cost: tokens x parameters of the adaptive review as a share of the full review's, on the control items.
    """

    order: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    changed: float
    cost: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; a bound that no item sets is null."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def early_stop(
    scores: Mapping[str, ArrayLike],
    costs: Mapping[str, float],
    score: Callable[[Mapping[str, float]], float],
    accept: float,
    *,
    informative: float = 0.55,
    right: ArrayLike,
    sharing: Mapping[str, str] | None = None,
) -> EarlyStop:
    """Choose the order of an adaptive review, and when it stops, on control items.

    Reviewers that separate right from wrong come first, the cheapest of them first.

    Args:
        scores: log-odds by reviewer, one an item.
        costs: of one review, by reviewer.
        score: maps the log-odds given so far to the panel's log-odds.
        accept: log-odds from which the panel accepts.
        informative: the AUC above which a reviewer counts as informative.
        right: the known verdicts.
        sharing: by reviewer, the group whose reviewers share answers. The dearest one asked pays for its group.
    """
    table = {name: np.asarray(values, float) for name, values in scores.items()}
    known = np.asarray(right, bool)
    measured = {name: _auc(values, known) for name, values in table.items()}
    order = tuple(sorted(table, key=lambda name: (measured[name] < informative, costs.get(name, 0.0), name)))
    items = next(iter(table.values())).size if table else 0
    prefix = np.array(
        [
            [
                score({name: float(table[name][i]) for name in order[: k + 1] if not np.isnan(table[name][i])})
                for i in range(items)
            ]
            for k in range(len(order))
        ]
    )
    last = prefix[-1] if len(order) else np.zeros(0)
    final = last >= accept
    low, high = [], []
    for row in prefix[:-1]:
        below, above = _bounds(row, last, accept)
        low.append(below)
        high.append(above)
    low.append(accept)
    high.append(accept)
    until, spent, changed = costs_until(order, costs, sharing or {}), 0.0, 0
    for i in range(items):
        for k in range(len(order)):
            if prefix[k, i] < low[k] or prefix[k, i] >= high[k]:
                changed += bool(prefix[k, i] >= high[k]) != bool(final[i])
                spent += until[k]
                break
    whole = items * until[-1] if until else 0.0
    return EarlyStop(order, tuple(low), tuple(high), changed / items if items else 0.0, spent / whole if whole else 1.0)


def costs_until(order: Sequence[str], costs: Mapping[str, float], sharing: Mapping[str, str]) -> list[float]:
    """Return what the first reviewers of an order cost together, after each of them."""
    most: dict[str, float] = {}
    found = []
    for name in order:
        group = sharing.get(name, name)
        most[group] = max(most.get(group, 0.0), costs.get(name, 0.0))
        found.append(sum(most.values()))
    return found


def _bounds(now: Table, last: Table, accept: float) -> tuple[float, float]:
    """Return the panel's log-odds below and above which a review can stop.

    The log-odds of all reviewers are taken as normal around a line in the log-odds so far. Items are stopped in the
    order of the probability that their verdict would change. Expected and seen changes stay rare.

    Args:
        now: log-odds of the items after the reviewers so far.
        last: log-odds of the items after all reviewers.
        accept: log-odds from which the panel accepts.
    """
    if now.size < _FEWEST or float(now.std()) == 0:
        return -math.inf, math.inf
    slope, intercept = (float(value) for value in np.polyfit(now, last, 1))
    if slope <= 0:
        return -math.inf, math.inf
    spread = max(float(np.sqrt(np.mean((last - slope * now - intercept) ** 2))), 1e-6)
    ahead = np.abs(slope * now + intercept - accept) / spread
    normal = NormalDist()
    # A prediction on the other side of the gate than the score so far is no reason to stop.
    agrees = (slope * now + intercept >= accept) == (now >= accept)
    changes = np.where(agrees, [normal.cdf(-float(z)) for z in ahead], 1.0)
    order = np.argsort(changes, kind="stable")
    seen = (now >= accept) != (last >= accept)
    allowed = MOST_CHANGED * now.size
    fine = (np.cumsum(changes[order]) <= allowed) & (np.cumsum(seen[order]) <= allowed)
    count = now.size if fine.all() else int(np.argmin(fine))
    if not count:
        return -math.inf, math.inf
    z = float(ahead[order[count - 1]])
    below, above = ((accept + sign * z * spread - intercept) / slope for sign in (-1, 1))
    return min(below, accept), max(above, accept)
