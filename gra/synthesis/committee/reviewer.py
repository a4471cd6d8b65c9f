"""Review: three checks of an instruction, six scores of a response (section 3.2).

How a small model is asked decides what its review is worth, so a recipe chooses (`ask`):

- `integers` is the paper's form, one JSON object with six integers.
- `expected` reads the expected digit of each dimension from token probabilities.
- `yes_no` reads the probability of "yes" for each dimension.
- `likelihood` decodes nothing. It measures how much likelier the response becomes by knowing the instruction. It is for
  models too small to judge in words.
- `logprob` decodes nothing either. It is the mean log-probability of the response's tokens, given the instruction.
- `agreement` has the reviewer answer the instruction several times (`draws`). The score is how far the response agrees.
- `reference` has the reviewer answer once, and asks it whether both answers come to the same result.
- `reward` asks a reward model or classifier for its number. Such a model writes no text, so it gives no reasons.

`expected` and `yes_no` decode one token a dimension, and all dimensions share one cached prefix. A recipe may ask for
fewer than the paper's six dimensions.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import fmean

from gra.checks.agreement import agreement
from gra.config.committee import NUMBER_ASKS, Ask
from gra.core.processes.concurrency import together
from gra.core.types import LIKELY_CHECK, Candidate, InstructionReview, Review
from gra.core.vocabulary import CallPurpose, FailureCause
from gra.engines.types import Choice, Json, Likelihood, Reward, Text, Truncated
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.instruction_checks import CombinedChecks
from gra.synthesis.committee.instruction_signs import SIGNS
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import CHECK_QUESTIONS, FAULT_QUESTIONS, SCORE_QUESTIONS, render

YES_NO = Choice(("yes", "no"))
DIGITS = Choice(tuple("0123456789"))
# The labels that a member chooses among, by the way it is asked. Checks of instructions are yes or no.
LABELS_ASKED: dict[Ask, tuple[Choice, ...]] = {
    "yes_no": (YES_NO,), "expected": (DIGITS, YES_NO), "reference": (YES_NO,)
}  # fmt: skip
_INTEGER = {"type": "integer", "minimum": 0, "maximum": 10}
_COMMENT = {"type": "string", "minLength": 10, "maxLength": 300}
COMMENT = Json({"type": "object", "properties": {"comment": _COMMENT}, "required": ["comment"]})


def check_schema(checks: Sequence[str]) -> Json:
    """Return the schema of one boolean a check; for a check of a fault, true says that the fault is there."""
    return Json({"type": "object", "properties": {name: {"type": "boolean"} for name in checks}, "required": [*checks]})


def score_schema(dimensions: Sequence[str], *, comment: bool) -> Json:
    """Return the schema of one integer a dimension; a comment comes first, so that reasons precede numbers."""
    properties = ({"comment": _COMMENT} if comment else {}) | dict.fromkeys(dimensions, _INTEGER)
    return Json({"type": "object", "properties": properties, "required": list(properties)})


def score_questions(member: Member) -> dict[str, str]:
    """Return the questions of a member that is asked for probabilities, by dimension."""
    return {name: SCORE_QUESTIONS[name] for name in member.dimensions}


Calibration = Callable[[float], float]


def uncalibrated(raw: float) -> float:
    """Return a raw score unchanged, for a reviewer that was not measured."""
    return raw


async def check_instruction(
    recorder: CallRecorder,
    reviewer: Member,
    instruction: str,
    thresholds: Mapping[str, float],
    combined: CombinedChecks | None = None,
) -> InstructionReview:
    """Check an instruction by the reviewer's criteria; it passes when all of them do, or their combination does.

    Args:
        recorder: asks on behalf of the candidate.
        reviewer: the member that checks.
        instruction: the text to check.
        thresholds: the probability below which a criterion fails; 0.5 where none is given.
        combined: decides in place of thresholds, where it is given.
    """
    if reviewer.ask in NUMBER_ASKS:
        return InstructionReview(reviewer.name, {}, ())  # these ask about responses only
    questions = {name: text for name, text in (CHECK_QUESTIONS | FAULT_QUESTIONS).items() if name in reviewer.checks}
    if not questions:
        said: dict[str, float] = {}
    elif reviewer.ask == "integers":
        faults = {name: text for name, text in FAULT_QUESTIONS.items() if name in questions}
        prompt = render("check_json", instruction=instruction, checks=list(questions), faults=faults)
        call = reviewer.call(
            prompt, check_schema(list(questions)), role=CallPurpose.REVIEWER, candidate=recorder.candidate
        )
        answer = await recorder.ask(call)
        said = {name: float(answer.value[name]) for name in questions}
    else:
        scores = await yes_probabilities(
            recorder, reviewer, "check_yes_no", questions, role=CallPurpose.REVIEWER, instruction=instruction
        )
        said = {name: score / 10 for name, score in scores.items()}
    values = {name: 1 - value if name in FAULT_QUESTIONS else value for name, value in said.items()}
    values |= {name: float(not sign(instruction)) for name, sign in SIGNS.items() if name in reviewer.checks}
    if LIKELY_CHECK in reviewer.checks:
        values[LIKELY_CHECK] = await _likely(recorder, reviewer, instruction)
    if combined is not None:
        return InstructionReview(reviewer.name, values, combined.failed(values))
    failed = tuple(name for name in reviewer.checks if values[name] < thresholds.get(name, 0.5))
    return InstructionReview(reviewer.name, values, failed)


async def _likely(recorder: CallRecorder, reviewer: Member, instruction: str) -> float:
    """Return the geometric mean of the probabilities of the instruction's tokens."""
    prompt, output = "Write an exercise for an assistant.", Likelihood(instruction)
    call = reviewer.call(prompt, output, role=CallPurpose.REVIEWER, candidate=recorder.candidate)
    given = (await recorder.ask(call)).value
    return math.exp(float(given["logprob"]) / max(1.0, float(given["tokens"])))


async def check_by_all(
    recorder: CallRecorder,
    reviewers: Sequence[Member],
    instruction: str,
    thresholds: Mapping[str, Mapping[str, float]],
    combined: Mapping[str, CombinedChecks],
) -> list[InstructionReview]:
    """Have every reviewer check an instruction; thresholds and combined checks are by reviewer."""
    return await together(
        *(
            check_instruction(recorder, r, instruction, thresholds.get(r.name, {}), combined.get(r.name))
            for r in reviewers
        )
    )


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
    elif reviewer.ask in NUMBER_ASKS:
        values = await _NUMBERS[reviewer.ask](recorder, reviewer, instruction, response)
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
    """Return the review with the reviewer's reasons, which an adjudicator reads; a reward model has none."""
    if not reviewer.writes:
        return review
    prompt = render("comment", instruction=instruction, response=response)
    answer = await recorder.ask(reviewer.call(prompt, COMMENT, role=CallPurpose.REVIEWER, candidate=recorder.candidate))
    return Review(review.reviewer, review.values, review.raw, review.score, str(answer.value["comment"]).strip())


async def add_comments(
    recorder: CallRecorder, reviewers: Sequence[Member], candidate: Candidate, *, lenient: bool = False
) -> tuple[Review, ...]:
    """Return the reviews of a candidate's response with their reviewers' reasons; not every reviewer was asked.

    Args:
        recorder: asks on behalf of the candidate.
        reviewers: the candidate's reviewers.
        candidate: with its reviews.
        lenient: whether a review stays without a reason where its reviewer gives no usable one.

    Raises:
        Unanswered: when infrastructure failed, or a reviewer gave no usable reason.
    """
    members = {reviewer.name: reviewer for reviewer in reviewers}

    async def one(review: Review) -> Review:
        try:
            return await add_comment(
                recorder, members[review.reviewer], candidate.instruction, candidate.response, review
            )
        except Unanswered as gap:
            if gap.cause is FailureCause.INFRASTRUCTURE or not lenient:
                raise
            return review

    return tuple(await together(*map(one, candidate.reviews)))


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


async def mean_logprob(recorder: CallRecorder, member: Member, instruction: str, response: str) -> float:
    """Return the mean log-probability of the response's tokens given the instruction, in nats a token.

    Unlike the total, the mean does not reward long responses, which wrong reasoning often is.
    """
    prompt = render("response", instruction=instruction)
    call = member.call(prompt, Likelihood(response), role=CallPurpose.REVIEWER, candidate=recorder.candidate)
    given = (await recorder.ask(call)).value
    return float(given["logprob"] / max(1.0, given["tokens"]))


async def reward(recorder: CallRecorder, member: Member, instruction: str, response: str) -> float:
    """Return what a reward model gives the response: its logit, or a classifier's log-odds of the second label.

    The instruction stands alone, as in the rows that `method: reward` trains on.
    """
    call = member.call(instruction, Reward(response), role=CallPurpose.REVIEWER, candidate=recorder.candidate)
    return float((await recorder.ask(call)).value["reward"])


async def own_answers(recorder: CallRecorder, member: Member, instruction: str, count: int) -> list[str]:
    """Have the reviewer answer the instruction itself, several times.

    Greedy decoding gives only one answer. An answer that is cut off counts as far as it goes.

    Raises:
        Unanswered: when no answer is usable, or the infrastructure failed.
    """
    prompt = render("response", instruction=instruction)
    failures: list[Unanswered] = []

    async def one(place: int) -> str:
        call = member.call(prompt, Text(), role=CallPurpose.SOLVER, candidate=recorder.candidate, sample=place)
        try:
            return (await recorder.ask(call)).text.strip()
        except Unanswered as failure:
            if failure.cause is FailureCause.INFRASTRUCTURE:
                raise
            failures.append(failure)
            return failure.outcome.text.strip() if isinstance(failure.outcome, Truncated) else ""

    drawn = count if member.sampling.varies else 1
    answers = [text for text in await together(*(one(place) for place in range(1, drawn + 1))) if text]
    if not answers and failures:
        raise failures[-1]
    return answers


async def draw_answers(recorder: CallRecorder, member: Member, instruction: str) -> None:
    """Draw and record the own answers that a member compares responses to an instruction with, before there are any.

    A member that compares nothing is not asked. The reviews themselves report an instruction without an answer.
    """
    if member.ask in ("agreement", "reference"):
        with contextlib.suppress(Unanswered):
            await own_answers(recorder, member, instruction, member.draws if member.ask == "agreement" else 1)


async def answer_agreement(recorder: CallRecorder, member: Member, instruction: str, response: str) -> float:
    """Return ten times the mean agreement of the response with the reviewer's own answers."""
    answers = await own_answers(recorder, member, instruction, member.draws)
    # Comparing values may need a child process, so it leaves the event loop.
    return 10 * await asyncio.to_thread(agreement, instruction, response, answers) if answers else 0.0


async def reference_agreement(recorder: CallRecorder, member: Member, instruction: str, response: str) -> float:
    """Return ten times the probability that the response comes to the same result as the reviewer's own answer."""
    (own, *_) = await own_answers(recorder, member, instruction, count=1) or [""]
    shown = {"instruction": instruction, "response": response, "reference": own}
    call = member.call(render("reference", **shown), YES_NO, role=CallPurpose.REVIEWER, candidate=recorder.candidate)
    p = (await recorder.ask(call)).value
    return float(10 * p["yes"] / (p["yes"] + p["no"]))


async def _relevance(recorder: CallRecorder, member: Member, instruction: str, response: str) -> dict[str, float]:
    return {"relevance": await information(recorder, member, instruction, response)}


async def _fluency(recorder: CallRecorder, member: Member, instruction: str, response: str) -> dict[str, float]:
    return {"correctness": await mean_logprob(recorder, member, instruction, response)}


async def _agreement(recorder: CallRecorder, member: Member, instruction: str, response: str) -> dict[str, float]:
    return {"correctness": await answer_agreement(recorder, member, instruction, response)}


async def _reference(recorder: CallRecorder, member: Member, instruction: str, response: str) -> dict[str, float]:
    return {"correctness": await reference_agreement(recorder, member, instruction, response)}


async def _reward(recorder: CallRecorder, member: Member, instruction: str, response: str) -> dict[str, float]:
    return {"correctness": await reward(recorder, member, instruction, response)}


_NUMBERS: dict[str, Callable[[CallRecorder, Member, str, str], Awaitable[dict[str, float]]]] = {
    "likelihood": _relevance,
    "logprob": _fluency,
    "agreement": _agreement,
    "reference": _reference,
    "reward": _reward,
}
assert set(_NUMBERS) == set(NUMBER_ASKS)


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
