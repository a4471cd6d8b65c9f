"""The adjudicator: re-scores a disputed sample with the reviews in view; its word is final (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from gra.core.types import Review, Ruling
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
    """The ruling: kept when the adjudicator's own score reaches `accept_score`."""
    shown = {"instruction": instruction, "response": response, "reviews": reviews, "form": member.ask}
    comment = ""
    if member.ask == "integers":
        prompt = render("adjudicate", **shown, question="", dimensions=member.dimensions)
        output = score_schema(member.dimensions, comment=True)
        call = member.call(prompt, output, role="adjudicator", candidate=recorder.candidate)
        answer = await recorder.ask(call)
        values = {name: float(answer.value[name]) for name in member.dimensions}
        comment = str(answer.value["comment"])
    else:
        read = yes_probabilities if member.ask == "yes_no" else expected_digits
        values = await read(recorder, member, "adjudicate", score_questions(member), role="adjudicator", **shown)
    score = calibrate(fmean(values.values()))
    return Ruling(member.name, values, score, comment, score >= accept_score)
