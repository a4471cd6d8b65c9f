"""Compare the responses to one instruction in pairs, for best of n (`best_by: pairwise`).

Small models prefer the answer that stands first, or last. So every pair is shown in both orders, and the mean counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from gra.config.committee import NUMBER_ASKS, Ask
from gra.core.processes.concurrency import together
from gra.core.vocabulary import CallPurpose
from gra.engines.types import Choice
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import render

LETTERS = Choice(("A", "B"))


def comparing(ask: Ask) -> bool:
    """Return whether a reviewer that is asked in this way can compare: only those that are asked in words can."""
    return ask not in NUMBER_ASKS


async def compare_responses(
    recorder: CallRecorder, reviewers: Sequence[Member], instruction: str, responses: Sequence[str]
) -> list[list[float]]:
    """Have reviewers compare all pairs of responses, each in both orders.

    Args:
        recorder: asks on behalf of the candidate.
        reviewers: who compare, at least one.
        instruction: what the responses answer.
        responses: at least two.

    Returns:
        A table: at [i][j] the probability (0 to 1) that i is better than j, the mean over reviewers and orders; 0.5 at
        [i][i].

    Raises:
        Unanswered: when a comparison got no answer.
    """

    async def first_is_better(reviewer: Member, one: str, two: str) -> float:
        prompt = render("compare", instruction=instruction, first=one, second=two)
        call = reviewer.call(prompt, LETTERS, role=CallPurpose.REVIEWER, candidate=recorder.candidate)
        p = (await recorder.ask(call)).value
        return float(p["A"] / (p["A"] + p["B"]))

    async def better(i: int, j: int) -> float:
        one, two = responses[i], responses[j]
        if one == two:
            return 0.5
        asked = [first_is_better(reviewer, *order) for reviewer in reviewers for order in ((one, two), (two, one))]
        given = await together(*asked)
        return fmean(p if place % 2 == 0 else 1 - p for place, p in enumerate(given))

    pairs = list(combinations(range(len(responses)), 2))
    table = [[0.5] * len(responses) for _ in responses]
    for (i, j), p in zip(pairs, await together(*(better(i, j) for i, j in pairs)), strict=True):
        table[i][j], table[j][i] = p, 1 - p
    return table
