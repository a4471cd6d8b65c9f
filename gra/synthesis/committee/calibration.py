"""Measure and calibrate each reviewer on control items, before its scores count.

A control item is a seed: with its own response it is good, with another seed's response it is bad. Every reviewer
scores the same items in the way it will be asked later. Its AUC goes to the report. Its calibration puts all reviewers
on one scale: 10 times the probability that a response belongs to its instruction. The seeds' own instructions
also set how low a check's probability must be before an instruction fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from gra.core.errors import ModelUnavailable
from gra.core.rng import rng
from gra.core.types import CHECKS, Seed
from gra.core.vocabulary import FailureCause
from gra.engines.broker import Broker
from gra.stats.reliability import Logistic, auc, calibrate
from gra.synthesis.call_names import ControlItemCall, control_item_name
from gra.synthesis.candidate import uncalibrated
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.reviewer import check_instruction, score_response

T = TypeVar("T")


@dataclass(frozen=True)
class ReviewerMeasurement:
    """How one reviewer judged the control items.

    Attributes:
        good: raw scores of seeds with their own response, by seed id, without unanswered ones.
        bad: raw scores of seeds with another seed's response.
        unanswered: how many responses got no usable score.
        calibration: maps raw to calibrated scores (0-10).
        thresholds: the probability below which each instruction check fails.
    """

    member: str
    auc: float
    good: dict[str, float]
    bad: dict[str, float]
    unanswered: int
    calibration: Logistic
    thresholds: dict[str, float]

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
    """Have one reviewer or adjudicator score every control item; a reviewer also checks the instructions.

    Raises:
        ModelUnavailable: when the reviewer answers nothing in the form it is asked in.
    """

    async def score(sample: Seed, response: str, kind: ControlItemCall) -> float:
        recorder = CallRecorder(broker, control_item_name(kind, sample.id))
        review = await score_response(
            recorder, member, sample.instruction, response, comment=False, calibrate=uncalibrated
        )
        return review.raw

    async def check(sample: Seed) -> dict[str, float]:
        recorder = CallRecorder(broker, control_item_name("check", sample.id))
        return (await check_instruction(recorder, member, sample.instruction, {})).values

    names = [sample.id for sample, _ in control_items]
    checked = control_items if "reviewer" in member.roles else ()  # an adjudicator checks no instructions
    left: list[Unanswered] = []
    good, bad, checks = await asyncio.gather(
        _answered(names, [score(sample, sample.response, "good") for sample, _ in control_items], left),
        _answered(names, [score(sample, wrong, "bad") for sample, wrong in control_items], left),
        _answered(names[: len(checked)], [check(sample) for sample, _ in checked], left),
    )
    if not (good and bad and (checks or not checked)):
        raise ModelUnavailable(_no_answers(member, left))
    # An instruction fails when its probability is below that of nearly all seeds' instructions.
    thresholds = {
        name: min(0.5, float(np.quantile([values[name] for values in checks.values()], 0.05)))
        for name in CHECKS
        if checks and all(name in values for values in checks.values())
    }
    raw = list(good.values()), list(bad.values())
    unanswered = 2 * len(control_items) - len(good) - len(bad)
    return ReviewerMeasurement(member.name, auc(*raw), good, bad, unanswered, calibrate(*raw), thresholds)


def _no_answers(member: Member, left: Sequence[Unanswered]) -> str:
    reviewer, last = f"the reviewer `{member.name}` ({member.model.name})", left[-1]
    if all(gap.cause is FailureCause.INFRASTRUCTURE for gap in left):
        return f"{reviewer} could not be asked about the control items ({last}); run the same command again to go on"
    return (
        f"{reviewer} gave no usable answer to any control item when asked by `{member.ask}` ({last}); give it another "
        "`ask`, or take it off the committee"
    )


async def _answered(names: Sequence[str], steps: Sequence[Awaitable[T]], left: list[Unanswered]) -> dict[str, T]:
    """Return the results by name; append what stayed unanswered to `left`."""
    found: dict[str, T] = {}
    for name, result in zip(names, await asyncio.gather(*steps, return_exceptions=True), strict=True):
        if isinstance(result, Unanswered):
            left.append(result)
        elif isinstance(result, BaseException):
            raise result
        else:
            found[name] = result
    return found


def committee_auc(measured: Sequence[ReviewerMeasurement]) -> float:
    """Return the AUC of the mean calibrated score of all reviewers that answered."""

    def means(kind: str) -> list[float]:
        scores: dict[str, list[float]] = {}
        for m in measured:
            for name, raw in getattr(m, kind).items():
                scores.setdefault(name, []).append(m.calibration(raw))
        return [fmean(given) for given in scores.values()]

    return auc(means("good"), means("bad"))
