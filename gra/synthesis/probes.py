"""Planted pairs: what each reviewer is worth, before it is trusted.

Seeds give pairs whose verdict is known: a seed with its own response is good; with another seed's
response it is bad. Every reviewer answers the same pairs in the way it will be asked later. From that
come its AUC, which the report shows, and its calibration, which puts all reviewers on one scale:
10 times the probability that a response belongs to its instruction. Hand-written instructions also set
how sure a reviewer must be before an instruction fails a check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gra.core.records import CHECKS, Seed
from gra.engines.broker import Broker
from gra.review_stats.reliability import Logistic, auc, calibrate
from gra.synthesis.committee import Member
from gra.synthesis.draw import draw
from gra.synthesis.notebook import Notebook
from gra.synthesis.reviewer import check_instruction, score_response
from gra.synthesis.story import trust


@dataclass(frozen=True)
class Measured:
    """One reviewer on the probes."""

    member: str
    auc: float
    good: list[float]
    bad: list[float]
    calibration: Logistic
    thresholds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """For the manifest and the report."""
        c = self.calibration
        return {
            "auc": self.auc,
            "good": self.good,
            "bad": self.bad,
            "calibration": {"centre": c.centre, "scale": c.scale, "slope": c.slope, "intercept": c.intercept},
            "thresholds": self.thresholds,
        }


def plant(seeds: Sequence[Seed], count: int, seed: int) -> list[tuple[Seed, str]]:
    """`count` seeds, domains in turn, each with the response of another seed: of its own domain where there is one."""
    random = draw(seed, "probes")
    domains: dict[str, list[Seed]] = {}
    for sample in random.sample(list(seeds), len(seeds)):
        domains.setdefault(sample.domain, []).append(sample)
    turns = [group[i] for i in range(max(map(len, domains.values()))) for group in domains.values() if i < len(group)]
    planted = []
    for sample in turns[:count]:
        others = [o for o in domains[sample.domain] if o.response != sample.response]
        others = others or [o for o in seeds if o.response != sample.response]
        planted.append((sample, random.choice(others).response))
    return planted


async def measure(broker: Broker, member: Member, planted: Sequence[tuple[Seed, str]]) -> Measured:
    """Ask one reviewer about every planted pair and every hand-written instruction.

    Raises:
        Unanswered: when the reviewer cannot answer in the form it is asked in.
    """

    async def score(sample: Seed, response: str, kind: str) -> float:
        notebook = Notebook(broker, f"probe-{kind}-{sample.id}")
        review = await score_response(notebook, member, sample.instruction, response, comment=False, calibrate=trust)
        return review.raw

    async def check(sample: Seed) -> dict[str, float]:
        notebook = Notebook(broker, f"probe-check-{sample.id}")
        return (await check_instruction(notebook, member, sample.instruction, {})).values

    good, bad, checks = await asyncio.gather(
        asyncio.gather(*(score(sample, sample.response, "good") for sample, _ in planted)),
        asyncio.gather(*(score(sample, wrong, "bad") for sample, wrong in planted)),
        asyncio.gather(*(check(sample) for sample, _ in planted)),
    )
    # An instruction fails when a reviewer believes in it less than in (nearly) any hand-written one.
    thresholds = {
        name: min(0.5, float(np.quantile([values[name] for values in checks], 0.05)))
        for name in CHECKS
        if all(name in values for values in checks)
    }
    return Measured(member.name, auc(good, bad), list(good), list(bad), calibrate(good, bad), thresholds)


def committee_auc(measured: Sequence[Measured]) -> float:
    """AUC of the mean of all reviewers' calibrated scores: what the committee is worth together."""
    good = np.mean([[m.calibration(raw) for raw in m.good] for m in measured], axis=0)
    bad = np.mean([[m.calibration(raw) for raw in m.bad] for m in measured], axis=0)
    return auc(good, bad)
