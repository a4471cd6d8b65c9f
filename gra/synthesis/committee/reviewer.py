"""Reviewers: three checks of an instruction, six scores of a response (paper section 3.2).

How a small model is asked decides what its review is worth, so it is a recipe choice:
`integers` is the paper's form (one JSON with six integers), `expected` reads the expected digit per
dimension from token probabilities, `yes_no` the probability of "yes" per dimension. These two decode
one token a dimension, and the dimensions share one cached prefix. `likelihood` decodes nothing: how
much likelier the answer becomes by knowing the exercise, for models too small to judge in words. A recipe may also have
fewer than the paper's six dimensions asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from gra.core.processes.concurrency import together
from gra.core.types import CHECKS, InstructionReview, Review
from gra.engines.types import Choice, Json, Likelihood
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import CHECK_QUESTIONS, SCORE_QUESTIONS, render

YES_NO = Choice(("yes", "no"))
DIGITS = Choice(tuple("0123456789"))
_INTEGER = {"type": "integer", "minimum": 0, "maximum": 10}
_COMMENT = {"type": "string", "minLength": 10, "maxLength": 300}
COMMENT = Json({"type": "object", "properties": {"comment": _COMMENT}, "required": ["comment"]})
CHECK_JSON = Json(
    {"type": "object", "properties": {name: {"type": "boolean"} for name in CHECKS}, "required": list(CHECKS)}
)


def score_schema(dimensions: Sequence[str], *, comment: bool) -> Json:
    """An integer a dimension, after a comment if one is asked for: reasons first, then the numbers."""
    properties = ({"comment": _COMMENT} if comment else {}) | dict.fromkeys(dimensions, _INTEGER)
    return Json({"type": "object", "properties": properties, "required": list(properties)})


def score_questions(member: Member) -> dict[str, str]:
    """What a member who gives probabilities is asked, by dimension."""
    return {name: SCORE_QUESTIONS[name] for name in member.dimensions}


Calibration = Callable[[float], float]


async def check_instruction(
    recorder: CallRecorder, reviewer: Member, instruction: str, thresholds: Mapping[str, float]
) -> InstructionReview:
    """The reviewer's verdict on the three criteria; the instruction passes when all three do."""
    if reviewer.ask == "likelihood":
        return InstructionReview(reviewer.name, {}, ())  # it has no opinion on exercises, only on answers
    if reviewer.ask == "integers":
        prompt = render("check_json", instruction=instruction)
        answer = await recorder.ask(reviewer.call(prompt, CHECK_JSON, role="reviewer", candidate=recorder.candidate))
        values = {name: float(answer.value[name]) for name in CHECKS}
    else:
        scores = await yes_probabilities(
            recorder, reviewer, "check_yes_no", CHECK_QUESTIONS, role="reviewer", instruction=instruction
        )
        values = {name: score / 10 for name, score in scores.items()}
    failed = tuple(name for name in CHECKS if values[name] < thresholds.get(name, 0.5))
    return InstructionReview(reviewer.name, values, failed)


async def score_response(
    recorder: CallRecorder, reviewer: Member, instruction: str, response: str, *, comment: bool, calibrate: Calibration
) -> Review:
    """The reviewer's scores, their mean, and the calibrated mean that the gate uses (all 0-10)."""
    remark = ""
    shown = {"instruction": instruction, "response": response}
    if reviewer.ask == "integers":
        prompt = render("score_json", **shown, comment=comment, dimensions=reviewer.dimensions)
        output = score_schema(reviewer.dimensions, comment=comment)
        call = reviewer.call(prompt, output, role="reviewer", candidate=recorder.candidate)
        answer = await recorder.ask(call)
        values = {name: float(answer.value[name]) for name in reviewer.dimensions}
        remark = str(answer.value.get("comment", ""))
    elif reviewer.ask == "likelihood":
        values = {"relevance": await information(recorder, reviewer, instruction, response)}
    elif reviewer.ask == "yes_no":
        asked = score_questions(reviewer)
        values = await yes_probabilities(recorder, reviewer, "score_yes_no", asked, role="reviewer", **shown)
    else:
        asked = score_questions(reviewer)
        values = await expected_digits(recorder, reviewer, "score_digit", asked, role="reviewer", **shown)
    raw = fmean(values.values())
    review = Review(reviewer.name, values, raw, calibrate(raw), remark)
    if comment and not remark:
        return await add_comment(recorder, reviewer, instruction, response, review)
    return review


async def add_comment(
    recorder: CallRecorder, reviewer: Member, instruction: str, response: str, review: Review
) -> Review:
    """The review with the reviewer's reasons, for an adjudicator to read."""
    prompt = render("comment", instruction=instruction, response=response)
    answer = await recorder.ask(reviewer.call(prompt, COMMENT, role="reviewer", candidate=recorder.candidate))
    return Review(review.reviewer, review.values, review.raw, review.score, str(answer.value["comment"]).strip())


async def information(
    recorder: CallRecorder, member: Member, instruction: str, response: str, *, role: str = "reviewer"
) -> float:
    """Nats by which the exercise makes the whole answer likelier.

    That is the pointwise mutual information of the two, the idea of IFD (Li et al. 2023) without its division by
    length: an answer's tokens say most about its exercise at the start, and a mean dilutes what the start said.
    """
    output = Likelihood(response)
    prompts = (render("response", instruction=instruction), "Write something.")
    calls = [member.call(prompt, output, role=role, candidate=recorder.candidate) for prompt in prompts]
    given, alone = await together(*(recorder.ask(call) for call in calls))
    return float(given.value["logprob"] - alone.value["logprob"])


async def yes_probabilities(
    recorder: CallRecorder, member: Member, prompt: str, questions: Mapping[str, str], *, role: str, **shown: object
) -> dict[str, float]:
    """Ten times the probability of "yes" among yes and no, per question."""
    answers = await _ask_each(recorder, member, prompt, YES_NO, questions, role, shown)
    return {name: 10 * p["yes"] / (p["yes"] + p["no"]) for name, p in answers.items()}


async def expected_digits(
    recorder: CallRecorder, member: Member, prompt: str, questions: Mapping[str, str], *, role: str, **shown: object
) -> dict[str, float]:
    """The expected digit per question, stretched from 0-9 to 0-10."""
    answers = await _ask_each(recorder, member, prompt, DIGITS, questions, role, shown)
    return {
        name: sum(int(digit) * weight for digit, weight in p.items()) / sum(p.values()) * 10 / 9
        for name, p in answers.items()
    }


async def _ask_each(
    recorder: CallRecorder,
    member: Member,
    prompt: str,
    labels: Choice,
    questions: Mapping[str, str],
    role: str,
    shown: Mapping[str, object],
) -> dict[str, dict[str, float]]:
    """Label probabilities per question. The first one alone: it leaves the shared prefix in the cache for the rest."""
    calls = [
        member.call(render(prompt, question=question, **shown), labels, role=role, candidate=recorder.candidate)
        for question in questions.values()
    ]
    first = await recorder.ask(calls[0])
    rest = await together(*(recorder.ask(call) for call in calls[1:]))
    return {name: answer.value for name, answer in zip(questions, [first, *rest], strict=True)}
