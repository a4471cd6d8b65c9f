"""Route items through a chain of reviewers by confidence, and combine what the reached reviewers said.

Follows "LLM Chain Ensembles" (Farr et al. 2024, arXiv 2410.13006). N_i items reach link i of m. It
keeps its floor(N_i / (m - i)) most confident ones and forwards the others. Two things differ from the paper. A fixed
chain takes each threshold from calibration items, so that no item's fate depends on its neighbors. Equal confidences
are ordered by the digest of the item's id; the paper's code keeps all of them.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gra.stats.paired import paired_difference

Table = NDArray[np.float64]
Combine = Literal["rank", "log_odds"]
_DRAWS = 200


def tie_place(item: str) -> float:
    """Return an item's place (0 to 1) among items of equal confidence; it depends on the id alone."""
    return int.from_bytes(hashlib.sha256(item.encode()).digest()[:7], "big") / 2**56


def route(gaps: ArrayLike, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the last link that each item reaches, by the paper's rule on one batch.

    Args:
        gaps: links x items, the confidence of each link; NaN where a link gave no answer, which forwards the item.
        ids: of the items.
    """
    table = np.nan_to_num(np.asarray(gaps, float), nan=-math.inf)
    links, last = len(table), np.full(table.shape[1], len(table) - 1)
    waiting = sorted(range(table.shape[1]), key=lambda item: tie_place(ids[item]))
    for link in range(links - 1):
        ranked = sorted(waiting, key=lambda item: -table[link, item])  # stable: ties stay in the order of places
        kept = [item for item in ranked[: len(ranked) // (links - link)] if table[link, item] > -math.inf]
        last[kept] = link
        waiting = [item for item in waiting if last[item] > link]
    return last


@dataclass(frozen=True)
class Chain:
    """A chain with fixed thresholds.

    Attributes:
        order: the links, cheapest first.
        thresholds: by link but the last, the least confidence that keeps an item, with the greatest tie place of it.
        reached: by link, the sorted confidences of the calibration items that reached it.
        accept: log-odds from which an item counts as right.
        combine: `rank` takes the verdict of the link whose confidence ranks highest. `log_odds` adds all log-odds.
    """

    order: tuple[str, ...]
    thresholds: tuple[tuple[float, float], ...]
    reached: tuple[tuple[float, ...], ...]
    accept: float
    combine: Combine

    def confidence(self, odds: float) -> float:
        """Return how far log-odds are from the accepting ones: the gap between the two labels."""
        return abs(odds - self.accept)

    def keeps(self, link: int, odds: float, item: str) -> bool:
        """Return whether a link decides an item, so that no further link is asked."""
        if link >= len(self.thresholds):
            return True
        least, most_place = self.thresholds[link]
        gap = self.confidence(odds)
        return gap > least or (gap == least and tie_place(item) <= most_place)

    def combined(self, odds: Sequence[float]) -> float:
        """Return the log-odds of "right" from those of the links that saw an item, in the chain's order.

        NaN stands for a link without an answer. Log-odds are at even odds, so their sum counts no prior twice.
        """
        spoke = [(link, value) for link, value in enumerate(odds) if not math.isnan(value)]
        if not spoke:
            return 0.0
        if self.combine == "log_odds":
            return math.fsum(value for _, value in spoke)
        # Of equal ranks the later link counts: it is the stronger one.
        return max(spoke, key=lambda said: (self.rank(*said), said[0]))[1]

    def rank(self, link: int, odds: float) -> float:
        """Return the share of the calibration items at a link that it was at most as sure of."""
        known = self.reached[link]
        return bisect_right(known, self.confidence(odds)) / len(known) if known else 0.0


def fit_chain(
    order: Sequence[str],
    odds: Mapping[str, ArrayLike],
    ids: Sequence[str],
    *,
    accept: float,
    combine: Combine,
) -> Chain:
    """Fix a chain's thresholds and ranks on calibration items, without looking at their verdicts.

    Args:
        order: the links, cheapest first.
        odds: log-odds by link, one an item; NaN where a link gave none.
        ids: of the items.
        accept: log-odds from which an item counts as right.
        combine: how the links that saw an item become one score.
    """
    gaps = np.array([np.abs(np.asarray(odds[name], float) - accept) for name in order])
    last = route(gaps, ids)
    thresholds, reached = [], []
    for link in range(len(order)):
        seen = gaps[link, last >= link]
        reached.append(tuple(map(float, np.sort(seen[~np.isnan(seen)]))))
        kept = np.flatnonzero(last == link)
        least = float(gaps[link, kept].min()) if kept.size else math.inf
        tied = [tie_place(ids[item]) for item in kept if gaps[link, item] == least]
        forwarded_tie = bool((gaps[link, last > link] == least).any())
        # Where no tied item was forwarded, all items of that confidence are kept.
        thresholds.append((least, max(tied) if forwarded_tie else 1.0))
    return Chain(tuple(order), tuple(thresholds[:-1]), tuple(reached), accept, combine)


@dataclass(frozen=True)
class RoutedHalves:
    """Items of two halves; thresholds and ranks of each half's chain come from the other half.

    Attributes:
        last: the last link that each item reaches.
        found: log-odds by the chain.
        full: log-odds where all links are asked and their log-odds added.
        random: draws x items, log-odds where as many items at each link are drawn at random.
    """

    last: NDArray[np.int64]
    found: Table
    full: Table
    random: Table


def route_halves(
    order: Sequence[str],
    odds: Mapping[str, ArrayLike],
    ids: Sequence[str],
    *,
    accept: float,
    combine: Combine,
    groups: Sequence[str] | None = None,
) -> RoutedHalves:
    """Route each half of the items by a chain that the other half fixes; the arguments are those of `measure_chain`."""
    table = np.array([np.asarray(odds[name], float) for name in order])
    half = _first_half(ids if groups is None else groups)
    last = np.zeros(len(ids), np.int64)
    found, full = np.zeros((2, len(ids)))
    guessed = np.zeros((_DRAWS, len(ids)))
    for fitting in (half, ~half):
        held = np.flatnonzero(~fitting)
        fitted = _fitted(order, table, ids, np.flatnonzero(fitting), accept, combine)
        last[held] = [_last_link(fitted, table[:, item], ids[item]) for item in held]
        by_depth = _by_depth(fitted, table[:, held])
        columns = np.arange(held.size)
        found[held] = by_depth[last[held], columns]
        full[held] = _by_depth(replace(fitted, combine="log_odds"), table[:, held])[-1]
        random = np.random.default_rng(0)
        for draw in guessed:
            draw[held] = by_depth[random.permutation(last[held]), columns]
    return RoutedHalves(last, found, full, guessed)


def _first_half(groups: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([tie_place(f"half {group}") < 0.5 for group in groups])


@dataclass(frozen=True)
class ChainFigures:
    """What a chain is worth on items with known verdicts; shares between 0 and 1, intervals of 95 %.

    Attributes:
        accuracy: of the chain's verdicts.
        macro_f1: mean F1 of right and wrong.
        links: accuracy of each link alone.
        batch: accuracy where all items are one batch, as in the paper, which sets its own thresholds and ranks.
        full: accuracy where all links are asked and their log-odds added.
        random: accuracy of as many items at each link, drawn at random (200 draws).
        gain: accuracy less that of random routing, and its interval.
        shares: share of the items that each link decides.
        cost: as a share of the cost of asking all links.
    """

    accuracy: float
    macro_f1: float
    links: dict[str, float]
    batch: float
    full: float
    random: float
    gain: tuple[float, float, float]
    shares: dict[str, float]
    cost: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_chain(
    order: Sequence[str],
    odds: Mapping[str, ArrayLike],
    right: ArrayLike,
    ids: Sequence[str],
    costs: Mapping[str, float],
    *,
    accept: float,
    combine: Combine,
    groups: Sequence[str] | None = None,
) -> ChainFigures | None:
    """Measure a chain on items with known verdicts; one half fixes the thresholds that the other half is routed by.

    Random routing has the same shares and asks the same number of links.

    Args:
        order: the links, cheapest first.
        odds: log-odds by link, one an item; NaN where a link gave none.
        right: the known verdicts.
        ids: of the items.
        costs: of one review, by link.
        accept: log-odds from which an item counts as right.
        combine: how the links that saw an item become one score.
        groups: by item; items of one group go into one half, and the interval is over groups. By default one each.

    Returns:
        None where a half lacks one of the verdicts.
    """
    known = np.asarray(right, bool)
    groups = ids if groups is None else groups
    half = _first_half(groups)
    if any(known[part].all() or not known[part].any() for part in (half, ~half)):
        return None
    table = np.array([np.asarray(odds[name], float) for name in order])
    routed = route_halves(order, odds, ids, accept=accept, combine=combine, groups=groups)
    found, last = routed.found, routed.last
    chance = ((routed.random >= accept) == known).mean(axis=0)
    gain = paired_difference(((found >= accept) == known).astype(float), chance, groups)
    batch = _in_one_batch(order, table, ids, accept, combine)
    price = np.array([costs.get(name, 0.0) for name in order])
    asked = np.array([float((last >= link).mean()) for link in range(len(order))])
    return ChainFigures(
        accuracy=_accuracy(found, known, accept),
        macro_f1=macro_f1(found >= accept, known),
        links={name: _accuracy(row, known, accept) for name, row in zip(order, table, strict=True)},
        batch=_accuracy(batch, known, accept),
        full=_accuracy(routed.full, known, accept),
        random=float(chance.mean()),
        gain=(gain.value, *gain.interval()),
        shares={name: float((last == link).mean()) for link, name in enumerate(order)},
        cost=float(price @ asked / price.sum()) if price.sum() else 1.0,
    )


def _fitted(
    order: Sequence[str],
    table: Table,
    ids: Sequence[str],
    used: NDArray[np.int64],
    accept: float,
    combine: Combine,
) -> Chain:
    odds = {name: row[used] for name, row in zip(order, table, strict=True)}
    return fit_chain(order, odds, [ids[item] for item in used], accept=accept, combine=combine)


def _in_one_batch(order: Sequence[str], table: Table, ids: Sequence[str], accept: float, combine: Combine) -> Table:
    """Return the combined log-odds where the items themselves are the batch."""
    items = np.arange(table.shape[1])
    fitted = _fitted(order, table, ids, items, accept, combine)
    last = route(np.abs(table - accept), ids)
    return np.asarray(_by_depth(fitted, table)[last, items], float)


def _last_link(fitted: Chain, said: Table, item: str) -> int:
    """Return the link that decides an item; a link without an answer forwards it."""
    links = range(len(said) - 1)
    return next((k for k in links if not math.isnan(said[k]) and fitted.keeps(k, said[k], item)), len(said) - 1)


def _by_depth(fitted: Chain, table: Table) -> Table:
    """Return the combined log-odds of items after each link, shape [links, items]."""
    depths = range(1, len(table) + 1)
    return np.array([[fitted.combined(said[:depth]) for said in table.T.tolist()] for depth in depths])


def _accuracy(odds: Table, known: NDArray[np.bool_], accept: float) -> float:
    """Return the share of right verdicts among items with an answer; 0 without any."""
    spoke = ~np.isnan(odds)
    return float(((odds[spoke] >= accept) == known[spoke]).mean()) if spoke.any() else 0.0


def macro_f1(said: NDArray[np.bool_], known: NDArray[np.bool_]) -> float:
    """Return the mean of the F1 of "right" and the F1 of "wrong"."""

    def f1(given: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
        hits = float((given & true).sum())
        return 2 * hits / (float(given.sum()) + float(true.sum())) if hits else 0.0

    return (f1(said, known) + f1(~said, ~known)) / 2
