"""Keep the best of several responses to one instruction (`best_of: N`).

The other responses stay in the lineage with their reviews. Those with a lower score make preference pairs with the row.
All responses have the same author and the same reviewers, so their scores compare. Where the recipe says
`best_by: pairwise`, reviewers compare the responses that passed, and comparisons decide in place of scores. The paper
writes one response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from gra.core.types import SECOND_BEST, AlternativeResponse, Candidate, ResponseVersion, State
from gra.core.vocabulary import FailureCause, RejectedAt
from gra.synthesis.committee.calls import Unanswered

Comparisons = Callable[[Sequence[str]], Awaitable[list[list[float]]]]


async def best_by_comparison(decided: Sequence[Candidate], compare: Comparisons) -> Candidate:
    """Return the candidate with the response that wins most comparisons among those that passed.

    Args:
        decided: the candidate once for each response, with that response's verdict.
        compare: gives the table of probabilities that one response is better than another (pairwise.py). Where a
            pair cannot be compared, scores decide.

    Raises:
        Unanswered: when infrastructure failed.
    """
    passed = [number for number, candidate in enumerate(decided) if candidate.state is State.ACCEPTED]
    if len(passed) < 2:
        return pick_best(decided)
    try:
        table = await compare([decided[number].response for number in passed])
    except Unanswered as gap:
        if gap.cause is FailureCause.INFRASTRUCTURE:
            raise
        return pick_best(decided)
    won = {number: sum(row) for number, row in zip(passed, table, strict=True)}
    best = min(passed, key=lambda number: (-won[number], *_rank(decided[number]), number))
    column = passed.index(best)
    return take(decided, best, {number: row[column] for number, row in zip(passed, table, strict=True)})


def pick_best(decided: Sequence[Candidate]) -> Candidate:
    """Return the candidate with its best response; the other responses become its `alternatives`.

    Accepted goes before rejected, and rejected before failed. Then the deciding score counts, then the order of
    writing.

    Args:
        decided: the candidate once for each response, with that response's verdict.
    """
    best = min(range(len(decided)), key=lambda number: (*_rank(decided[number]), number))
    return take(decided, best, {})


def take(decided: Sequence[Candidate], best: int, preferred: Mapping[int, float]) -> Candidate:
    """Return the candidate with response `best`; `preferred` holds, by number, how likely another is better."""
    others = (_alternative(n, other, preferred.get(n)) for n, other in enumerate(decided) if n != best)
    return replace(decided[best], alternatives=tuple(others))


def taken_number(candidate: Candidate) -> int:
    """Return the number of the taken response, which no alternative has."""
    others = {other.number for other in candidate.alternatives}
    return next(number for number in range(len(others) + 1) if number not in others)


def versions_of(candidate: Candidate) -> dict[int, ResponseVersion]:
    """Return the numbers of a response that was revised and of its revision; empty where none was."""
    known = {other.number: other.version for other in candidate.alternatives if other.version is not None}
    if len(known) == 1:
        known[taken_number(candidate)] = "first" if "revised" in known.values() else "revised"
    return known


def mark_versions(candidate: Candidate, versions: Mapping[int, ResponseVersion]) -> Candidate:
    """Return the candidate with its alternatives marked as a first version or a revision, by number."""
    marked = (replace(other, version=versions.get(other.number)) for other in candidate.alternatives)
    return replace(candidate, alternatives=tuple(marked))


def _rank(candidate: Candidate) -> tuple[bool, bool, float]:
    score = candidate.verdict_score
    return candidate.state is not State.ACCEPTED, candidate.state is State.FAILED, -(-1.0 if score is None else score)


def _alternative(number: int, other: Candidate, preferred: float | None) -> AlternativeResponse:
    accepted = other.state is State.ACCEPTED
    return AlternativeResponse(
        number,
        other.response,
        SECOND_BEST if accepted else other.reason,
        other.reviews,
        other.mean,
        other.std,
        other.ruling,
        RejectedAt.BEST_OF_N if accepted else other.rejected_at,
        preferred,
    )
