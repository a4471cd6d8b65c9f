"""Several responses to one instruction (`drafts: N`): the best that passed the gate is the row.

The others stay in the lineage with their reviews, and those that scored lower make preference pairs with
the row. All come from the same generator and were judged by the same reviewers, so the scores compare.
The paper writes one response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gra.core.types import SECOND_BEST, AlternativeResponse, Candidate, State


def pick_best(told: Sequence[Candidate]) -> Candidate:
    """The story of the best draft, with the others in its `drafts`.

    Accepted goes before rejected and rejected before failed; then the score that decided counts, then the
    order of writing.
    """
    best = min(range(len(told)), key=lambda number: (*_standing(told[number]), number))
    return replace(told[best], alternatives=tuple(_lost(n, told[n]) for n in range(len(told)) if n != best))


def _standing(draft: Candidate) -> tuple[bool, bool, float]:
    score = draft.verdict_score
    return draft.state is not State.ACCEPTED, draft.state is State.FAILED, -(-1.0 if score is None else score)


def _lost(number: int, draft: Candidate) -> AlternativeResponse:
    reason = SECOND_BEST if draft.state is State.ACCEPTED else draft.reason
    return AlternativeResponse(number, draft.response, reason, draft.reviews, draft.mean, draft.std, draft.ruling)
