"""Measure each reviewer on control items, before its scores count.

Every reviewer scores the same items in the way it will be asked later. By default an item is a seed: with its own
response it is good, with another seed's response it is bad. A calibration then puts all reviewers on one scale: 10
times the probability that a response is good. Items of several kinds (controls.py, natural.py) are fitted in panel.py.
Control instructions set how low a check's value must be before an instruction fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from gra.config.committee import NUMBER_ASKS
from gra.core.errors import ModelUnavailable
from gra.core.processes.concurrency import at_once
from gra.core.rng import rng
from gra.core.types import Seed
from gra.core.vocabulary import FailureCause
from gra.engines.broker import Broker
from gra.stats.reliability import Logistic, auc, calibrate
from gra.synthesis.call_names import ControlItemCall, control_item_name
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.instruction_checks import CombinedChecks
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.reviewer import check_instruction, score_response, uncalibrated
from gra.synthesis.measuring.controls import ControlItem, ControlKind

T = TypeVar("T")


@dataclass(frozen=True)
class ControlAnswers:
    """What one reviewer said of all control items.

    Attributes:
        raw: raw scores of responses by item name, without unanswered ones.
        checks: the values of instruction checks by item name.
        unanswered: how many responses got no usable score.
        tokens: read and written for one review, on average.
    """

    raw: dict[str, float]
    checks: dict[str, dict[str, float]]
    unanswered: int
    tokens: float


@dataclass(frozen=True)
class ReviewerMeasurement:
    """How one reviewer judged the control items.

    Attributes:
        good: raw scores of good responses by item name, without unanswered ones.
        bad: raw scores of faulty and wrong responses.
        unanswered: how many responses got no usable score.
        calibration: maps raw to calibrated scores (0-10).
        thresholds: the probability below which each instruction check fails.
        combined: decides in place of the thresholds, where the recipe has checks combined.
    """

    member: str
    auc: float
    good: dict[str, float]
    bad: dict[str, float]
    unanswered: int
    calibration: Logistic
    thresholds: dict[str, float]
    combined: CombinedChecks | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for the manifest and the report."""
        c = self.calibration
        return {
            "auc": self.auc,
            "good": list(self.good.values()),
            "bad": list(self.bad.values()),
            "unanswered": self.unanswered,
            "calibration": {"centre": c.centre, "scale": c.scale, "slope": c.slope, "intercept": c.intercept},
            "thresholds": self.thresholds,
            **({"combined_checks": asdict(self.combined)} if self.combined else {}),
        }


def make_control_items(seeds: Sequence[Seed], count: int, seed: int) -> list[tuple[Seed, str]]:
    """Draw `count` seeds, domains in turn, each with another seed's response, of the same domain where possible."""
    # kept: the name decides the random stream, and recorded runs depend on it
    random = rng(seed, "probes")
    domains: dict[str, list[Seed]] = {}
    for sample in random.sample(list(seeds), len(seeds)):
        domains.setdefault(sample.domain, []).append(sample)
    turns = [group[i] for i in range(max(map(len, domains.values()))) for group in domains.values() if i < len(group)]
    control_items = []
    for sample in turns[:count]:
        others = [o for o in domains[sample.domain] if o.response != sample.response]
        others = others or [o for o in seeds if o.response != sample.response]
        control_items.append((sample, random.choice(others).response))
    return control_items


async def measure_reviewer(
    broker: Broker, member: Member, control_items: Sequence[tuple[Seed, str]]
) -> ReviewerMeasurement:
    """Have one reviewer or adjudicator score every pair; a reviewer also checks the instructions.

    Args:
        broker: answers the calls.
        member: the reviewer or adjudicator.
        control_items: seeds, each with another seed's response.

    Raises:
        ModelUnavailable: when the reviewer answers nothing in the form it is asked in, or infrastructure failed.
    """
    good = [ControlItem(ControlKind.GOOD, s.id, s.instruction, s.response) for s, _ in control_items]
    bad = [ControlItem(ControlKind.MISMATCHED, s.id, s.instruction, wrong) for s, wrong in control_items]
    answers = await ask_control_items(broker, member, [*good, *bad], good)
    # An instruction fails when its probability is below that of nearly all seeds' instructions.
    thresholds = {
        name: min(0.5, float(np.quantile([values[name] for values in answers.checks.values()], 0.05)))
        for name in member.checks
        if answers.checks
    }
    raw = [[answers.raw[item.name] for item in items if item.name in answers.raw] for items in (good, bad)]
    return measured_on(member, [*good, *bad], answers, calibrate(*raw), thresholds)


_CALL_NAMES: dict[ControlKind, ControlItemCall] = {
    ControlKind.GOOD: "good",
    ControlKind.MISMATCHED: "bad",
    ControlKind.TRUNCATED: "truncated",
    ControlKind.CONTRADICTED: "contradicted",
    ControlKind.OFF_FORMAT: "off_format",
    ControlKind.RIGHT_ANSWER: "right_answer",
    ControlKind.WRONG_ANSWER: "wrong_answer",
}


async def ask_control_items(
    broker: Broker,
    member: Member,
    items: Sequence[ControlItem],
    instructions: Sequence[ControlItem],
    later: Callable[[], Awaitable[Sequence[ControlItem]]] | None = None,
) -> ControlAnswers:
    """Have one member score the responses of control items; a reviewer also checks the instructions of others.

    Args:
        broker: answers the calls.
        member: the reviewer or adjudicator.
        items: to be scored at once.
        instructions: whose instructions are checked at once.
        later: waits for further items, which members still write.

    Raises:
        ModelUnavailable: when the member answers nothing in the form it is asked in, or infrastructure failed.
    """
    recorders: list[CallRecorder] = []

    async def score(item: ControlItem) -> float:
        recorder = CallRecorder(broker, control_item_name(_CALL_NAMES[item.kind], item.seed))
        recorders.append(recorder)
        review = await score_response(
            recorder, member, item.instruction, item.response, comment=False, calibrate=uncalibrated
        )
        return review.raw

    async def check(item: ControlItem) -> dict[str, float]:
        recorder = CallRecorder(broker, control_item_name("check", item.seed))
        return (await check_instruction(recorder, member, item.instruction, {})).values

    asks = "reviewer" in member.roles and member.ask not in NUMBER_ASKS
    checked = instructions if asks else ()
    left: list[Unanswered] = []

    async def scores(asked: Sequence[ControlItem]) -> dict[str, float]:
        return await answered([item.name for item in asked], [partial(score, item) for item in asked], left)

    async def scores_later() -> tuple[Sequence[ControlItem], dict[str, float]]:
        further = await later() if later is not None else ()
        return further, await scores(further)

    first, second = asyncio.ensure_future(scores(items)), asyncio.ensure_future(scores_later())
    checking = asyncio.ensure_future(
        answered([item.name for item in checked], [partial(check, item) for item in checked], left)
    )
    await at_once(first, second, checking)
    further, found = second.result()
    raw, checks, items = first.result() | found, checking.result(), [*items, *further]
    verdicts = {item.is_good for item in items if item.name in raw}
    complete = verdicts == {item.is_good for item in items} and bool(checks or not checked)
    _check_answered(member, left, complete=complete)
    tokens = sum(u.prompt_tokens + u.completion_tokens for each in recorders for u in each.usage.values())
    return ControlAnswers(raw, checks, len(items) - len(raw), tokens / max(1, len(raw)))


def measured_on(
    member: Member,
    items: Sequence[ControlItem],
    answers: ControlAnswers,
    calibration: Logistic,
    thresholds: dict[str, float],
    combined: CombinedChecks | None = None,
) -> ReviewerMeasurement:
    """Return a reviewer's measurement on control items of many kinds."""
    groups: tuple[dict[str, float], dict[str, float]] = {}, {}
    for item in items:
        if item.name in answers.raw:
            groups[0 if item.is_good else 1][item.name] = answers.raw[item.name]
    good, bad = groups
    found = auc(list(good.values()), list(bad.values())) if good and bad else 0.5
    return ReviewerMeasurement(member.name, found, good, bad, answers.unanswered, calibration, thresholds, combined)


def _check_answered(member: Member, left: Sequence[Unanswered], *, complete: bool) -> None:
    """Check that what is missing is missing for good; another start would otherwise calibrate on other items.

    Raises:
        ModelUnavailable: when infrastructure left items unanswered, or there is no usable answer to any.
    """
    reviewer = f"the reviewer `{member.name}` ({member.model.name})"
    if lost := [gap for gap in left if gap.cause is FailureCause.INFRASTRUCTURE]:
        raise ModelUnavailable(
            f"{reviewer} could not be asked about {len(lost):,} of the control items ({lost[-1]}); run the same "
            "command again to go on"
        )
    if not complete:
        raise ModelUnavailable(
            f"{reviewer} gave no usable answer to any control item when asked by `{member.ask}` ({left[-1]}); give it "
            "another `ask`, or take it off the committee"
        )


async def answered(
    names: Sequence[str], steps: Sequence[Callable[[], Awaitable[T]]], left: list[Unanswered]
) -> dict[str, T]:
    """Return the results by name; append what stayed unanswered to `left`. What infrastructure lost is tried twice."""
    found: dict[str, T] = {}
    waiting = list(zip(names, steps, strict=True))
    for last in (False, True):
        results = await asyncio.gather(*(step() for _, step in waiting), return_exceptions=True)
        again = []
        for (name, step), result in zip(waiting, results, strict=True):
            if isinstance(result, Unanswered):
                if result.cause is FailureCause.INFRASTRUCTURE and not last:
                    again.append((name, step))
                else:
                    left.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                found[name] = result
        waiting = again
    return {name: found[name] for name in names if name in found}


def committee_auc(measured: Sequence[ReviewerMeasurement]) -> float:
    """Return the AUC of the mean calibrated score of all reviewers that answered the pairs."""

    def means(kind: str) -> list[float]:
        scores: dict[str, list[float]] = {}
        for m in measured:
            for name, raw in getattr(m, kind).items():
                scores.setdefault(name, []).append(m.calibration(raw))
        return [fmean(given) for given in scores.values()]

    return auc(means("good"), means("bad"))
