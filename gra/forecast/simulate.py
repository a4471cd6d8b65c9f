"""How much a recipe will ask for: evidence about single candidates, drawn again and again until its rounds are full.

The point of a forecast is the mean over draws at the rates that were seen. Its range (5 % to 95 %) also draws the
rates: the share of candidates that pass from its posterior under Jeffreys' prior, and what things cost by the Bayesian
bootstrap (Rubin 1981).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gra.forecast.observed_costs import COLUMNS, Floats, Key, ObservedCosts
from gra.synthesis.rounds import admission

Bools = npt.NDArray[np.bool_]

_DRAWS = 400
_RANGE = (0.05, 0.95)
_ASSUMED = 4.0  # candidates' worth of trust in rates that are only assumed
_ASSUMED_TOKENS, _ASSUMED_TIME = 0.4, 0.8  # standard deviations of the logarithm
_LARGE = 600  # candidates from which on a round is not played story by story
_SPREAD = 0.6  # of the logarithm of how long stories take
_SECONDS, _FULL_SECONDS = COLUMNS.index("seconds"), COLUMNS.index("full_seconds")


@dataclass(frozen=True)
class Work:
    """What a recipe asks for; `own` says that the evidence is this run's own beginning, paid for already."""

    seeds: int = 0  # to be given keywords, a summary or a domain
    pairs: int = 0  # planted, to measure reviewers by
    answers: int = 0  # seeds answered one by one
    rounds: int = 0
    accept: int = 0
    most: int = 0
    in_flight: int = 1
    own: bool = False


@dataclass(frozen=True)
class CostRange:
    """A forecast number: the expected value and the range it is expected in."""

    point: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """For `--json`."""
        return {"point": self.point, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Forecast:
    """What a run will cost: the expected costs, and draws of them (draws x keys x `COLUMNS`)."""

    keys: tuple[Key, ...]
    expected: Floats
    drawn: Floats
    candidates: CostRange
    rows: CostRange

    def column(self, name: str, role: str | None = None, model: str | None = None) -> CostRange:
        """Calls or tokens, in all or of one role or model."""
        chosen = [
            place
            for place, key in enumerate(self.keys)
            if (role is None or key[0] == role) and (model is None or key[1] == model)
        ]
        column = COLUMNS.index(name)
        return summarise(self.expected[chosen, column].sum(), self.drawn[:, chosen, column].sum(axis=1))

    def seconds(self) -> CostRange:
        """Time with the engines as busy as they were in the evidence; at best as if they were full all the time."""
        as_seen = summarise(self.expected[:, _SECONDS].sum(), self.drawn[:, :, _SECONDS].sum(axis=1))
        at_best = summarise(self.expected[:, _FULL_SECONDS].sum(), self.drawn[:, :, _FULL_SECONDS].sum(axis=1))
        return CostRange(as_seen.point, min(as_seen.low, at_best.low), as_seen.high)


def summarise(point: float, drawn: Floats) -> CostRange:
    """A point with the range of its draws, which always holds the point."""
    low, high = np.quantile(drawn, _RANGE)
    return CostRange(float(point), float(min(low, point)), float(max(high, point)))


def together(forecasts: Sequence[Forecast]) -> Forecast:
    """Several arms as one; all must be on the same keys."""
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


def forecast(evidence: ObservedCosts, work: Work, seed: int = 0) -> Forecast:
    """What `work` costs when everything in it goes as in the evidence."""
    expected = [_Draw(evidence, work, np.random.default_rng([seed, 0, i]), vary=False) for i in range(_DRAWS)]
    drawn = [_Draw(evidence, work, np.random.default_rng([seed, 1, i]), vary=True) for i in range(_DRAWS)]

    def counted(name: str) -> CostRange:
        return summarise(
            float(np.mean([getattr(draw, name) for draw in expected])),
            np.array([getattr(draw, name) for draw in drawn]),
        )

    return Forecast(
        evidence.keys,
        np.mean([draw.costs for draw in expected], axis=0),
        np.stack([draw.costs for draw in drawn]),
        counted("candidates"),
        counted("rows"),
    )


class _Draw:
    """One way in which a run may go; `vary` also draws the rates it goes by."""

    def __init__(self, evidence: ObservedCosts, work: Work, random: np.random.Generator, *, vary: bool) -> None:
        self._evidence, self._work, self._random, self._vary = evidence, work, random, vary
        self.candidates = self.rows = 0
        self._rate = self._draw_rate()
        self.costs = np.zeros((len(evidence.keys), len(COLUMNS)))
        for kind, wanted in (("seed", work.seeds), ("pair", work.pairs), ("answer", work.answers)):
            self._things(kind, wanted)
        if work.rounds:
            self._rounds()
        if vary and not evidence.sure:
            spread = random.normal(0.0, [_ASSUMED_TOKENS, _ASSUMED_TIME])
            self.costs[:, 1:_SECONDS] *= np.exp(spread[0])
            self.costs[:, _SECONDS:] *= np.exp(spread.sum())

    def _things(self, kind: str, wanted: int) -> None:
        """So many things of a kind: those that were worked on as they were, others like them."""
        costs = self._evidence.of(kind)
        known = len(costs) if self._work.own else 0
        if known:
            self.costs += costs.sum(axis=0)
        self._add(costs, wanted - known)

    def _add(self, costs: Floats, count: int) -> None:
        """The costs of `count` things drawn from those that are known."""
        if count <= 0 or not len(costs):
            return
        size = len(costs)
        weights = self._random.dirichlet(np.ones(size)) if self._vary else np.full(size, 1 / size)
        self.costs += np.tensordot(self._random.multinomial(count, weights), costs, axes=1)

    def _rounds(self) -> None:
        evidence, work = self._evidence, self._work
        costs, told = evidence.of("candidate"), evidence.candidates
        grown = evidence.of("row")
        enriched = len(grown) if work.own else 0
        if work.own:
            self.costs += costs.sum(axis=0) + grown.sum(axis=0) + evidence.rest
        for number in range(1, work.rounds + 1):
            here = told.round == number if work.own else np.zeros(len(told.round), bool)
            have, begun = int(told.passed[here].sum()), int(here.sum())
            passes, fails, left = play(work, have, begun, self._rate, self._random)
            for count, which in ((passes, told.passed), (fails, ~told.passed)):
                self._add(costs[which] if which.any() else costs, count)
            if len(costs):
                self.costs += left * costs.mean(axis=0)
            rows = min(work.accept, have + passes)
            self.candidates += begun + passes + fails
            self.rows += rows
            if number < work.rounds:
                self._add(grown if len(grown) else evidence.of("seed"), rows - enriched)
                enriched = max(0, enriched - rows)

    def _draw_rate(self) -> float:
        """The share of candidates that pass."""
        passed, count = float(self._evidence.candidates.passed.sum()), float(len(self._evidence.candidates.passed))
        if not self._evidence.sure and count:
            passed, count = passed * _ASSUMED / count, _ASSUMED
        if self._vary:
            return float(np.clip(self._random.beta(passed + 0.5, count - passed + 0.5), 1e-3, 1.0))
        return float(np.clip(passed / count if count else 0.5, 1e-3, 1.0))


def play(work: Work, have: int, begun: int, rate: float, random: np.random.Generator) -> tuple[int, int, float]:
    """One round from where it stands: how many more pass, how many do not, and what is left half told.

    A small round is played story by story by the rule of `gra.synthesis.rounds`, for many of its stories are under way
    when it is full. In a large one they are few, about as many as one more row takes.
    """
    wanted, room = max(0, work.accept - have), max(0, work.most - begun)
    if not wanted or not room:
        return 0, 0, 0.0
    needed = wanted + int(random.negative_binomial(wanted, rate))
    if needed > room:  # the round ends short: all that may be begun are told
        passes = min(wanted - 1, int(random.binomial(room, rate)))
        return passes, room - passes, 0.0
    if needed > _LARGE:
        return wanted, needed - wanted, 0.5 * min(float(work.in_flight), 1 / rate)
    fates = np.zeros(room if room < needed + work.in_flight else needed + work.in_flight, bool)
    fates[random.permutation(needed - 1)[: wanted - 1]] = True  # of those before the row that fills the round
    fates[needed - 1] = True
    fates[needed:] = random.random(len(fates) - needed) < rate
    ended, left = _played(work, have, begun, fates, needed, random.lognormal(0.0, _SPREAD, len(fates)))
    passes = int(fates[ended].sum())
    return passes, len(ended) - passes, left


def _played(work: Work, have: int, begun: int, fates: Bools, needed: int, lengths: Floats) -> tuple[list[int], float]:
    """The stories that end before the first `needed` have ended, and the work done on the others, in stories."""
    running: list[tuple[float, int]] = []
    ended: list[int] = []
    done = np.zeros(len(fates), bool)
    now, admitted, prefix = 0.0, 0, 0
    while prefix < needed:
        missing = max(0, work.accept - have - int(fates[ended].sum()))
        passed = have + int(fates[:prefix].sum())
        most = min(work.in_flight, admission(missing, passed, begun + prefix, begun + len(ended)))
        while admitted < len(fates) and len(running) < most:
            heapq.heappush(running, (now + lengths[admitted], admitted))
            admitted += 1
        now, index = heapq.heappop(running)
        ended.append(index)
        done[index] = True
        while prefix < len(done) and done[prefix]:
            prefix += 1
    return ended, sum(1 - (end - now) / lengths[index] for end, index in running)
