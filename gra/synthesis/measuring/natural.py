"""Make natural control items: members answer questions, and a program decides which answers are right.

Faults put into hand-written responses differ from the faults that models make. Reviewers that are calibrated on
such faults alone may prefer long wrong reasoning. So the members that write candidates also answer questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from gra.core.errors import ModelUnavailable
from gra.core.rng import rng
from gra.core.vocabulary import CallPurpose, FailureCause
from gra.data.questions import Question
from gra.engines.broker import Broker
from gra.engines.types import ModelId, Text
from gra.synthesis.call_names import control_item_name
from gra.synthesis.committee.calls import CallRecorder, MissingAnswers, Unanswered
from gra.synthesis.committee.members import Member
from gra.synthesis.measuring.calibration import answered
from gra.synthesis.measuring.controls import ControlItem, ControlKind
from gra.synthesis.prompts import render


@dataclass(frozen=True)
class NaturalAnswers:
    """What members answered.

    Attributes:
        items: control items; equal answers to one question are one item.
        right: whether a member was right, by question and member; an unusable answer is wrong.
        tokens: read and written for one answer, on average, by member.
    """

    items: list[ControlItem]
    right: dict[tuple[str, str], bool]
    tokens: dict[str, float]


QUESTIONS_PER_ITEM = 2  # half of the answers are right, if the questions are hard enough
_OTHERS = 2  # every second question is also answered by a member that writes no candidates


def drawn_questions(questions: Sequence[Question], per_kind: int, seed: int) -> list[Question]:
    """Draw the control questions of a run; `per_kind` right answers are aimed at, and as many wrong ones."""
    count = min(QUESTIONS_PER_ITEM * per_kind, len(questions))
    return rng(seed, "control", "questions").sample(list(questions), count)


async def natural_controls(
    broker: Broker,
    members: Sequence[Member],
    drawn: Sequence[Question],
    *,
    everyone: bool = False,
) -> NaturalAnswers:
    """Have members answer questions, and return the answers with their verdicts.

    Every question goes to a generator; every second one also goes to another set of weights, which errs elsewhere.
    Equal answers to one question count once. Answers that are cut off are left out.

    Args:
        broker: answers the calls.
        members: the committee.
        drawn: the questions, with known answers.
        everyone: whether every member that writes candidates answers every question, so that they can be compared.

    Raises:
        MissingAnswers: when infrastructure failed.
        ModelUnavailable: when no member gave a usable answer to any question.
    """
    writers = _one_for_each_model(m for m in members if "generator" in m.roles)
    known = {answers_alike(member) for member in writers}
    others = [m for m in _one_for_each_model(m for m in members if m.writes) if answers_alike(m) not in known]
    asked = [(question, writers[place % len(writers)]) for place, question in enumerate(drawn)]
    if everyone:
        asked = [(question, writer) for question in drawn for writer in writers]
    if others:
        halved = drawn[::_OTHERS]
        asked += [(question, others[place % len(others)]) for place, question in enumerate(halved)]
    left: list[Unanswered] = []
    names = [f"{question.id} {member.name}" for question, member in asked]
    answers = await answered(names, [partial(_answer, broker, member, question) for question, member in asked], left)
    if lost := [gap for gap in left if gap.cause is FailureCause.INFRASTRUCTURE]:
        raise MissingAnswers(len(lost), "control questions", str(lost[-1]))
    items: dict[tuple[str, str], ControlItem] = {}
    right: dict[tuple[str, str], bool] = {}
    for name, (question, member) in zip(names, asked, strict=True):
        text, _ = answers.get(name, ("", 0))
        if text and (question.id, text) not in items:
            kind = (
                ControlKind.RIGHT_ANSWER
                if await asyncio.to_thread(question.is_right, text)
                else ControlKind.WRONG_ANSWER
            )
            items[question.id, text] = ControlItem(kind, question.id, question.instruction, text, member.name)
        right[question.id, member.name] = bool(text) and items[question.id, text].is_good
    if not items:
        last = f" ({left[-1]})" if left else ""
        raise ModelUnavailable(
            f"no member gave a usable answer to any control question{last}; raise `sampling.max_tokens`, or ask other "
            "questions in `review.control_questions`"
        )
    spent: dict[str, list[int]] = {}
    for name, (_, member) in zip(names, asked, strict=True):
        if name in answers:
            spent.setdefault(member.name, []).append(answers[name][1])
    return NaturalAnswers(list(items.values()), right, {name: fmean(counts) for name, counts in spent.items()})


def _one_for_each_model(members: Iterable[Member]) -> list[Member]:
    found: dict[tuple[ModelId, str | None], Member] = {}
    for member in members:
        found.setdefault(answers_alike(member), member)
    return list(found.values())


def answers_alike(member: Member) -> tuple[ModelId, str | None]:
    """Return what members have in common that answer alike: weights, adapter and system prompt."""
    return member.model, member.system


def sharing_answers(reviewers: Sequence[Member]) -> dict[str, str]:
    """Return groups of reviewers asked by `agreement` that differ in their draws alone; a draw is one call for all."""
    first: dict[object, str] = {}
    asked = [member for member in reviewers if member.ask == "agreement"]
    return {m.name: first.setdefault((*answers_alike(m), m.sampling), m.name) for m in asked}


async def _answer(broker: Broker, member: Member, question: Question) -> tuple[str, int]:
    """Return the answer, and the tokens that it took."""
    recorder = CallRecorder(broker, control_item_name("answer", question.id))
    prompt = render("response", instruction=question.instruction)
    call = member.call(prompt, Text(), role=CallPurpose.SOLVER, candidate=recorder.candidate)
    text = (await recorder.ask(call)).text.strip()
    return text, sum(used.prompt_tokens + used.completion_tokens for used in recorder.usage.values())
