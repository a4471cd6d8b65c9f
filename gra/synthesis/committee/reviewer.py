"""Review: three checks of an instruction, six scores of a response (section 3.2).

How a small model is asked decides what its review is worth, so a recipe chooses (`ask`):

- `integers` is the paper's form, one JSON object with six integers.
- `expected` reads the expected digit of each dimension from token probabilities.
- `yes_no` reads the probability of "yes" for each dimension.
- `likelihood` decodes nothing. It measures how much likelier the response becomes by knowing the instruction. It is for
  models too small to judge in words.

`expected` and `yes_no` decode one token a dimension, and all dimensions share one cached prefix. A recipe may ask for
fewer than the paper's six dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from gra.core.processes.concurrency import together
from gra.core.types import CHECKS, InstructionReview, Review
from gra.core.vocabulary import CallPurpose
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
    """Return the schema of one integer a dimension; a comment comes first, so that reasons precede numbers."""
    properties = ({"comment": _COMMENT} if comment else {}) | dict.fromkeys(dimensions, _INTEGER)
    return Json({"type": "object", "properties": properties, "required": list(properties)})


def score_questions(member: Member) -> dict[str, str]:
    """Return the questions of a member that is asked for probabilities, by dimension."""
    return {name: SCORE_QUESTIONS[name] for name in member.dimensions}


Calibration = Callable[[float], float]


async def check_instruction(
    recorder: CallRecorder, reviewer: Member, instruction: str, thresholds: Mapping[str, float]
) -> InstructionReview:
    """Check an instruction by the three criteria; it passes when all three do.

    Args:
        recorder: asks on behalf of the candidate.
        reviewer: the member that checks.
        instruction: the text to check.
        thresholds: the probability below which a criterion fails; 0.5 where none is given.
    """
    if reviewer.ask == "likelihood":
        return InstructionReview(reviewer.name, {}, ())  # likelihood judges responses only
    if reviewer.ask == "integers":
        prompt = render("check_json", instruction=instruction)
        answer = await recorder.ask(
            reviewer.call(prompt, CHECK_JSON, role=CallPurpose.REVIEWER, candidate=recorder.candidate)
        )
        values = {name: float(answer.value[name]) for name in CHECKS}
    else:
        scores = await yes_probabilities(
            recorder, reviewer, "check_yes_no", CHECK_QUESTIONS, role=CallPurpose.REVIEWER, instruction=instruction
        )
        values = {name: score / 10 for name, score in scores.items()}
    failed = tuple(name for name in CHECKS if values[name] < thresholds.get(name, 0.5))
    return InstructionReview(reviewer.name, values, failed)


async def score_response(
    recorder: CallRecorder, reviewer: Member, instruction: str, response: str, *, comment: bool, calibrate: Calibration
) -> Review:
    """Score a response by dimension; the review also holds the mean and the calibrated mean (all 0-10)."""
    remark = ""
    shown = {"instruction": instruction, "response": response}
    if reviewer.ask == "integers":
        prompt = render("score_json", **shown, comment=comment, dimensions=reviewer.dimensions)
        output = score_schema(reviewer.dimensions, comment=comment)
        call = reviewer.call(prompt, output, role=CallPurpose.REVIEWER, candidate=recorder.candidate)
        answer = await recorder.ask(call)
        values = {name: float(answer.value[name]) for name in reviewer.dimensions}
        remark = str(answer.value.get("comment", ""))
    elif reviewer.ask == "likelihood":
        values = {"relevance": await information(recorder, reviewer, instruction, response)}
    elif reviewer.ask == "yes_no":
        asked = score_questions(reviewer)
        values = await yes_probabilities(recorder, reviewer, "score_yes_no", asked, role=CallPurpose.REVIEWER, **shown)
    else:
        asked = score_questions(reviewer)
        values = await expected_digits(recorder, reviewer, "score_digit", asked, role=CallPurpose.REVIEWER, **shown)
    raw = fmean(values.values())
    review = Review(reviewer.name, values, raw, calibrate(raw), remark)
    if comment and not remark:
        return await add_comment(recorder, reviewer, instruction, response, review)
    return review


async def add_comment(
    recorder: CallRecorder, reviewer: Member, instruction: str, response: str, review: Review
) -> Review:
    """Return the review with the reviewer's reasons, which an adjudicator reads."""
    prompt = render("comment", instruction=instruction, response=response)
    answer = await recorder.ask(reviewer.call(prompt, COMMENT, role=CallPurpose.REVIEWER, candidate=recorder.candidate))
    return Review(review.reviewer, review.values, review.raw, review.score, str(answer.value["comment"]).strip())


async def information(
    recorder: CallRecorder, member: Member, instruction: str, response: str, *, role: CallPurpose = CallPurpose.REVIEWER
) -> float:
    """Return by how many nats the instruction makes the whole response likelier.

    This is their pointwise mutual information: IFD (Li et al. 2023) without its division by length. A response's first
    tokens say most about its instruction, and a mean would dilute them.
    """
    output = Likelihood(response)
    prompts = (render("response", instruction=instruction), "Write something.")
    calls = [member.call(prompt, output, role=role, candidate=recorder.candidate) for prompt in prompts]
    given, alone = await together(*(recorder.ask(call) for call in calls))
    return float(given.value["logprob"] - alone.value["logprob"])


async def yes_probabilities(
    recorder: CallRecorder,
    member: Member,
    prompt: str,
    questions: Mapping[str, str],
    *,
    role: CallPurpose,
    **shown: object,
) -> dict[str, float]:
    """Return ten times the probability of "yes" among yes and no, by question."""
    answers = await _ask_each(recorder, member, prompt, YES_NO, questions, role, shown)
    return {name: 10 * p["yes"] / (p["yes"] + p["no"]) for name, p in answers.items()}


async def expected_digits(
    recorder: CallRecorder,
    member: Member,
    prompt: str,
    questions: Mapping[str, str],
    *,
    role: CallPurpose,
    **shown: object,
) -> dict[str, float]:
    """Return the expected digit by question, scaled from 0-9 to 0-10."""
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
    role: CallPurpose,
    shown: Mapping[str, object],
) -> dict[str, dict[str, float]]:
    """Return label probabilities by question; the first call runs alone, so that it caches the shared prefix."""
    calls = [
        member.call(render(prompt, question=question, **shown), labels, role=role, candidate=recorder.candidate)
        for question in questions.values()
    ]
    first = await recorder.ask(calls[0])
    rest = await together(*(recorder.ask(call) for call in calls[1:]))
    return {name: answer.value for name, answer in zip(questions, [first, *rest], strict=True)}
