"""Send a response that did not pass back to its author once, with what was said of it (`revise: 1`).

The author reads the reviewers' comments, the adjudicator's, and what verifiers found broken. Reviewers that have given
no comment yet are asked for one, unless the recipe says `comments: never`. A response that nothing was said of is not
revised. Critique and revision follow Self-Refine (Madaan et al. 2023, arXiv 2303.17651), with other members as critics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gra.core.types import Candidate, Verified
from gra.core.vocabulary import CallPurpose, RejectedAt
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.generator import Response, ask_for_text
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.reviewer import add_comments
from gra.synthesis.prompts import render

_SENT_BACK = (RejectedAt.VERIFIER, RejectedAt.MEAN_SCORE, RejectedAt.DISPUTE, RejectedAt.ADJUDICATOR)


async def criticize(
    recorder: CallRecorder, reviewers: Sequence[Member], candidate: Candidate, *, ask: bool
) -> tuple[Candidate, tuple[str, ...]]:
    """Return the candidate with its reviewers' comments, and what its author is shown.

    Args:
        recorder: asks on behalf of the candidate.
        reviewers: the candidate's reviewers.
        candidate: in the state that its response got.
        ask: whether reviewers that have given no comment are asked for one.

    Returns:
        Nothing to show where the response passed, or where nothing was said of it.

    Raises:
        Unanswered: when infrastructure failed.
    """
    if candidate.rejected_at not in _SENT_BACK:
        return candidate, ()
    if ask and not any(review.comment for review in candidate.reviews):
        candidate = replace(candidate, reviews=await add_comments(recorder, reviewers, candidate, lenient=True))
    verdicts = [verdict for verdict in candidate.verifications if isinstance(verdict, Verified)]
    # What a test says of a failure quotes the test, which no author may see.
    broken = [text for verdict in verdicts if verdict.verifier != "tests" for text in verdict.broken]
    remarks = [f"a program found wrong: {text}" for text in broken]
    remarks += ["its tests do not pass" for verdict in verdicts if verdict.verifier == "tests" and verdict.broken]
    remarks += [review.comment for review in candidate.reviews]
    remarks += [candidate.ruling.comment] if candidate.ruling else []
    return candidate, tuple(dict.fromkeys(" ".join(remark.split()) for remark in remarks if remark.strip()))


async def revise_response(recorder: CallRecorder, author: Member, first: Candidate, remarks: Sequence[str]) -> Response:
    """Write a better version of a candidate's response, from what was said of it.

    Raises:
        Unanswered: when there is no answer, or only thinking.
    """
    prompt = render("optional/revise", instruction=first.instruction, response=first.response, remarks=remarks)
    return await ask_for_text(recorder, author, prompt, CallPurpose.REVISER)
