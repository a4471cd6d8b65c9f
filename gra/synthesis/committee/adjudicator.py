"""Adjudicate a disputed sample: score it again with the reviews in view, and decide (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from gra.core.types import Review, Ruling
from gra.core.vocabulary import CallPurpose
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.reviewer import (
    Calibration,
    expected_digits,
    score_questions,
    score_schema,
    yes_probabilities,
)
from gra.synthesis.prompts import render


async def adjudicate(
    recorder: CallRecorder,
    member: Member,
    instruction: str,
    response: str,
    reviews: Sequence[Review],
    *,
    accept_score: float,
    calibrate: Calibration,
) -> Ruling:
    """Score the response again and rule on it.

    Args:
        recorder: asks on behalf of the candidate.
        member: the adjudicator.
        instruction: the candidate's instruction.
        response: the disputed response.
        reviews: the disagreeing reviews, which the prompt shows.
        accept_score: the score (0-10) from which on the response is kept.
        calibrate: maps the adjudicator's raw score to the calibrated one.
    """
    shown = {"instruction": instruction, "response": response, "reviews": reviews, "form": member.ask}
    comment = ""
    if member.ask == "integers":
        prompt = render("adjudicate", **shown, question="", dimensions=member.dimensions)
        output = score_schema(member.dimensions, comment=True)
        call = member.call(prompt, output, role=CallPurpose.ADJUDICATOR, candidate=recorder.candidate)
        answer = await recorder.ask(call)
        values = {name: float(answer.value[name]) for name in member.dimensions}
        comment = str(answer.value["comment"])
    else:
        read = yes_probabilities if member.ask == "yes_no" else expected_digits
        values = await read(
            recorder, member, "adjudicate", score_questions(member), role=CallPurpose.ADJUDICATOR, **shown
        )
    score = calibrate(fmean(values.values()))
    return Ruling(member.name, values, score, comment, score >= accept_score)
