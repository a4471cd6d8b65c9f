"""Simulate what a recipe will ask for: draw the costs of observed candidates until its rounds are full.

A forecast's point is the mean over simulations at the observed rates. Its range (5 % to 95 %) also varies the rates.
The share of candidates that pass is drawn from its posterior under Jeffreys' prior. Costs are drawn by the
Bayesian bootstrap (Rubin 1981).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gra.core.vocabulary import WorkKind
from gra.forecast.observed_costs import COLUMNS, Floats, Key, ObservedCosts
from gra.synthesis.rounds.round import admission

Bools = npt.NDArray[np.bool_]

_DRAWS = 400
_RANGE = (0.05, 0.95)
_ASSUMED = 4.0  # assumed rates count like this many observed candidates
_ASSUMED_TOKENS, _ASSUMED_TIME = 0.4, 0.8  # standard deviations of the logarithm
_LARGE = 600  # larger rounds are not simulated candidate by candidate
_SPREAD = 0.6  # standard deviation of the logarithm of a candidate's duration
_SECONDS, _FULL_SECONDS = COLUMNS.index("seconds"), COLUMNS.index("full_seconds")


@dataclass(frozen=True)
class Work:
    """The work that a recipe asks for.

    Attributes:
        seeds: seeds that lack keywords, a summary or a domain.
        control_items: seeds that measure the reviewers.
        answers: seeds answered one by one.
        rounds: the number of rounds.
        accept: rows a round.
        most: candidates a round at most.
        in_flight: candidates at once.
        own: whether the observed costs are this run's own beginning, which is paid for.
    """

    seeds: int = 0
    control_items: int = 0
    answers: int = 0
    rounds: int = 0
    accept: int = 0
    most: int = 0
    in_flight: int = 1
    own: bool = False


@dataclass(frozen=True)
class CostRange:
    """A forecast number: its expected value, and the range in which it is expected."""

    point: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return plain values for `--json`."""
        return {"point": self.point, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Forecast:
    """What a run will cost.

    Attributes:
        keys: pairs of purpose and model.
        expected: of shape (keys, `COLUMNS`).
        drawn: of shape (draws, keys, `COLUMNS`).
    """

    keys: tuple[Key, ...]
    expected: Floats
    drawn: Floats
    candidates: CostRange
    rows: CostRange

    def column(self, name: str, role: str | None = None, model: str | None = None) -> CostRange:
        """Return calls or tokens, in all or of one purpose or model."""
        chosen = [
            place
            for place, key in enumerate(self.keys)
            if (role is None or key[0] == role) and (model is None or key[1] == model)
        ]
        column = COLUMNS.index(name)
        return summarize(self.expected[chosen, column].sum(), self.drawn[:, chosen, column].sum(axis=1))

    def seconds(self) -> CostRange:
        """Return the time with the engines as busy as observed; the low end assumes that they are always full."""
        observed = summarize(self.expected[:, _SECONDS].sum(), self.drawn[:, :, _SECONDS].sum(axis=1))
        at_best = summarize(self.expected[:, _FULL_SECONDS].sum(), self.drawn[:, :, _FULL_SECONDS].sum(axis=1))
        return CostRange(observed.point, min(observed.low, at_best.low), observed.high)


def summarize(point: float, drawn: Floats) -> CostRange:
    """Return a point with the range of its draws; the range always includes the point."""
    low, high = np.quantile(drawn, _RANGE)
    return CostRange(float(point), float(min(low, point)), float(max(high, point)))


def together(forecasts: Sequence[Forecast]) -> Forecast:
    """Add the forecasts of several arms, which must have the same keys."""
    first = forecasts[0]
    assert all(forecast.keys == first.keys for forecast in forecasts)

    def total(ranges: Sequence[CostRange]) -> CostRange:
        return CostRange(*(sum(values) for values in zip(*((r.point, r.low, r.high) for r in ranges), strict=True)))

    return Forecast(
        first.keys,
        np.sum([forecast.expected for forecast in forecasts], axis=0),
        np.sum([forecast.drawn for forecast in forecasts], axis=0),
        total([forecast.candidates for forecast in forecasts]),
        total([forecast.rows for forecast in forecasts]),
    )


def forecast(observed: ObservedCosts, work: Work, seed: int = 0) -> Forecast:
    """Forecast what `work` costs when its candidates are like the observed ones."""
    expected = [_Draw(observed, work, np.random.default_rng([seed, 0, i]), vary=False) for i in range(_DRAWS)]
    drawn = [_Draw(observed, work, np.random.default_rng([seed, 1, i]), vary=True) for i in range(_DRAWS)]

    def counted(name: str) -> CostRange:
        return summarize(
            float(np.mean([getattr(draw, name) for draw in expected])),
            np.array([getattr(draw, name) for draw in drawn]),
        )

    return Forecast(
        observed.keys,
        np.mean([draw.costs for draw in expected], axis=0),
        np.stack([draw.costs for draw in drawn]),
        counted("candidates"),
        counted("rows"),
    )


class _Draw:
    """Simulate a run once; with `vary`, also draw the rates that it follows."""

    def __init__(self, observed: ObservedCosts, work: Work, random: np.random.Generator, *, vary: bool) -> None:
        self._observed, self._work, self._random, self._vary = observed, work, random, vary
        self.candidates = self.rows = 0
        self._rate = self._draw_rate()
        self.costs = np.zeros((len(observed.keys), len(COLUMNS)))
        wanted = {WorkKind.SEED: work.seeds, WorkKind.CONTROL_ITEM: work.control_items, WorkKind.ANSWER: work.answers}
        for kind, count in wanted.items():
            self._add_work(kind, count)
        if work.rounds:
            self._rounds()
        if vary and not observed.measured:
            spread = random.normal(0.0, [_ASSUMED_TOKENS, _ASSUMED_TIME])
            self.costs[:, 1:_SECONDS] *= np.exp(spread[0])
            self.costs[:, _SECONDS:] *= np.exp(spread.sum())

    def _add_work(self, kind: WorkKind, wanted: int) -> None:
        """Add the costs of `wanted` items of work: finished ones as observed, others like them."""
        costs = self._observed.of(kind)
        known = len(costs) if self._work.own else 0
        if known:
            self.costs += costs.sum(axis=0)
        self._add(costs, wanted - known)

    def _add(self, costs: Floats, count: int) -> None:
        """Add the costs of `count` items drawn from the observed ones."""
        if count <= 0 or not len(costs):
            return
        size = len(costs)
        weights = self._random.dirichlet(np.ones(size)) if self._vary else np.full(size, 1 / size)
        self.costs += np.tensordot(self._random.multinomial(count, weights), costs, axes=1)

    def _rounds(self) -> None:
        observed, work = self._observed, self._work
        costs, ended = observed.of(WorkKind.CANDIDATE), observed.candidates
        enrichment = observed.of(WorkKind.ROW)
        enriched = len(enrichment) if work.own else 0
        if work.own:
            self.costs += costs.sum(axis=0) + enrichment.sum(axis=0) + observed.rest
        for number in range(1, work.rounds + 1):
            here = ended.round == number if work.own else np.zeros(len(ended.round), bool)
            have, begun = int(ended.passed[here].sum()), int(here.sum())
            passes, fails, left = simulate_round(work, have, begun, self._rate, self._random)
            for count, which in ((passes, ended.passed), (fails, ~ended.passed)):
                self._add(costs[which] if which.any() else costs, count)
            if len(costs):
                self.costs += left * costs.mean(axis=0)
            rows = min(work.accept, have + passes)
            self.candidates += begun + passes + fails
            self.rows += rows
            if number < work.rounds:
                self._add(enrichment if len(enrichment) else observed.of(WorkKind.SEED), rows - enriched)
                enriched = max(0, enriched - rows)

    def _draw_rate(self) -> float:
        """Return the share of candidates that pass."""
        passed, count = float(self._observed.candidates.passed.sum()), float(len(self._observed.candidates.passed))
        if not self._observed.measured and count:
            passed, count = passed * _ASSUMED / count, _ASSUMED
        if self._vary:
            return float(np.clip(self._random.beta(passed + 0.5, count - passed + 0.5), 1e-3, 1.0))
        return float(np.clip(passed / count if count else 0.5, 1e-3, 1.0))


def simulate_round(
    work: Work, have: int, begun: int, rate: float, random: np.random.Generator
) -> tuple[int, int, float]:
    """Simulate the rest of one round.

    A small round is simulated candidate by candidate with `admission`, because many candidates still run when it is
    full. In a large round these are few, about as many as one more row takes.

    Args:
        work: the recipe's work.
        have: rows of the round so far.
        begun: candidates of the round so far.
        rate: the share of candidates that pass.
        random: random numbers.

    Returns:
        How many more candidates pass, how many do not, and the unfinished work when the round is full, in candidates.
    """
    wanted, room = max(0, work.accept - have), max(0, work.most - begun)
    if not wanted or not room:
        return 0, 0, 0.0
    needed = wanted + int(random.negative_binomial(wanted, rate))
    if needed > room:  # the round ends short, with all candidates that it may have
        passes = min(wanted - 1, int(random.binomial(room, rate)))
        return passes, room - passes, 0.0
    if needed > _LARGE:
        return wanted, needed - wanted, 0.5 * min(float(work.in_flight), 1 / rate)
    passing = np.zeros(min(room, needed + work.in_flight), bool)
    passing[random.permutation(needed - 1)[: wanted - 1]] = True
    passing[needed - 1] = True  # the row that fills the round
    passing[needed:] = random.random(len(passing) - needed) < rate
    durations = random.lognormal(0.0, _SPREAD, len(passing))
    ended, left = _simulate_candidates(work, have, begun, passing, needed, durations)
    passes = int(passing[ended].sum())
    return passes, len(ended) - passes, left


def _simulate_candidates(
    work: Work, have: int, begun: int, passing: Bools, needed: int, durations: Floats
) -> tuple[list[int], float]:
    """Return the candidates that end before the first `needed` have ended, and the work on others, in candidates."""
    running: list[tuple[float, int]] = []
    ended: list[int] = []
    done = np.zeros(len(passing), bool)
    now, admitted, prefix = 0.0, 0, 0
    while prefix < needed:
        missing = max(0, work.accept - have - int(passing[ended].sum()))
        passed = have + int(passing[:prefix].sum())
        most = min(work.in_flight, admission(missing, passed, begun + prefix, begun + len(ended)))
        while admitted < len(passing) and len(running) < most:
            heapq.heappush(running, (now + durations[admitted], admitted))
            admitted += 1
        now, index = heapq.heappop(running)
        ended.append(index)
        done[index] = True
        while prefix < len(done) and done[prefix]:
            prefix += 1
    return ended, sum(1 - (end - now) / durations[index] for end, index in running)
