"""Solve problems line by line: alone, or as a walk on which the student proposes and the teacher labels each line.

A line is a step. The label of a step is the student's line if the teacher accepts it, else the teacher's own. The label
is executed: the next step begins from it. So the walk passes through states that the student reaches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gra.config.experiment import SymbiosisRecipe
from gra.core.processes.concurrency import together
from gra.core.vocabulary import CallPurpose, FailureCause
from gra.engines.types import Call, Likelihood, Text, Truncated
from gra.experiment.symbiosis.problems import next_line, plain_line, split_lines, states_answer
from gra.experiment.symbiosis.store import StoredSolution
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member, greedy
from gra.synthesis.prompts import render

Examples = Sequence[StoredSolution]
Likely = Callable[[str], Awaitable[float]]  # mean log-probability of a line under the teacher, in nats a token


class LineSource(StrEnum):
    """Name how the label of a step was found; the manifest counts these values."""

    EQUAL = "equal"  # the student's line is one of the teacher's
    LIKELY = "likely"  # the student's line, which the teacher finds about as likely as its own
    REPLACED = "replaced"  # the teacher's line instead of the student's
    NO_PROPOSAL = "no proposal"  # the teacher's line, because the student gave no usable one


@dataclass(frozen=True, slots=True)
class WalkedLine:
    """A labeled step: its line, where it comes from, and the student's proposal."""

    text: str
    source: LineSource
    proposal: str | None


@dataclass(frozen=True)
class Solving:
    """Ask about one problem.

    Attributes:
        recorder: asks on behalf of the problem.
        recipe: lengths and settings.
        question: the problem's text.
        purpose: what the answers are for.
    """

    recorder: CallRecorder
    recipe: SymbiosisRecipe
    question: str
    purpose: CallPurpose = CallPurpose.GENERATOR

    async def whole(self, member: Member, examples: Examples, temperature: float, sample: int) -> tuple[str, ...]:
        """Return the lines of a solution that a member writes at once; () where it gives none."""
        prompt = render("symbiosis/solve", question=self.question, examples=examples)
        text, ended = await self._text(member, prompt, temperature, sample, member.sampling.max_tokens)
        lines = split_lines(text, ended=ended)
        return lines if len(lines) <= self.recipe.lines else ()

    async def alone(self, member: Member, examples: Examples, temperature: float, sample: int) -> tuple[str, ...]:
        """Return the lines that a member writes one by one, until one states the answer or none is usable."""
        lines: list[str] = []
        while len(lines) < self.recipe.lines and not (lines and states_answer(lines[-1])):
            line = await self.line(member, lines, examples, temperature, sample)
            if line is None:
                break
            lines.append(line)
        return tuple(lines)

    async def walk(
        self, teacher: Member, student: Member, examples: Examples, temperature: float
    ) -> tuple[WalkedLine, ...]:
        """Return the labeled steps of a walk, until one states the answer or the teacher has no usable line.

        Args:
            teacher: labels each line.
            student: proposes each line, without examples.
            examples: solved problems that the teacher sees.
            temperature: of the student's proposals.
        """
        steps: list[WalkedLine] = []
        while len(steps) < self.recipe.lines and not (steps and states_answer(steps[-1].text)):
            lines = [step.text for step in steps]
            proposed = self.line(student, lines, (), temperature, 0)
            drawn = [
                self.line(teacher, lines, examples, self.recipe.temperature, n) for n in range(self.recipe.choices)
            ]
            proposal, *choices = await together(proposed, *drawn)

            async def likely(line: str, lines: Sequence[str] = lines) -> float:
                return await self._likely(teacher, lines, examples, line)

            label = await label_line(proposal, [c for c in choices if c is not None], likely, self.recipe.tolerance)
            if label is None:
                break
            steps.append(label)
        return tuple(steps)

    async def line(
        self, member: Member, lines: Sequence[str], examples: Examples, temperature: float, sample: int
    ) -> str | None:
        """Return a member's next line of a solution; None where it gives none."""
        prompt = self._line_prompt(lines, examples)
        text, ended = await self._text(member, prompt, temperature, sample, self.recipe.line_tokens)
        return next_line(text, ended=ended)

    async def rationale(self, teacher: Member, lines: Sequence[str], next_line: str) -> str | None:
        """Return why the next line is right, as the teacher says it; None where it gives no usable answer."""
        prompt = render("symbiosis/rationale", question=self.question, lines=lines, next_line=next_line)
        text, ended = await self._text(teacher, prompt, 0.0, 0, 2 * self.recipe.line_tokens)
        return " ".join(text.split()) if ended and text else None

    def _line_prompt(self, lines: Sequence[str], examples: Examples) -> str:
        return render("symbiosis/line", question=self.question, lines=lines, examples=examples)

    async def _likely(self, teacher: Member, lines: Sequence[str], examples: Examples, line: str) -> float:
        call = self._call(teacher, self._line_prompt(lines, examples), 0.0, 0, self.recipe.line_tokens)
        try:
            scores = (await self.recorder.ask(replace(call, output=Likelihood(line)))).value
        except Unanswered as gap:
            if gap.cause is FailureCause.INFRASTRUCTURE:
                raise
            return math.nan  # compares as false, so the line does not pass
        return float(scores["logprob"] / scores["tokens"])

    def _call(self, member: Member, prompt: str, temperature: float, sample: int, most: int) -> Call:
        call = member.call(prompt, Text(), role=self.purpose, candidate=self.recorder.candidate, sample=sample)
        sampling = replace(member.sampling, temperature=temperature) if temperature else greedy(member.sampling)
        return replace(call, sampling=replace(sampling, max_tokens=most))

    async def _text(self, member: Member, prompt: str, temperature: float, sample: int, most: int) -> tuple[str, bool]:
        """Return a member's text and whether it ended by itself; "" where there is no usable answer.

        Raises:
            Unanswered: when infrastructure failed.
        """
        call = self._call(member, prompt, temperature, sample, most)
        try:
            return (await self.recorder.ask(call, repeat_cut_off=False)).text, True
        except Unanswered as gap:
            if gap.cause is FailureCause.INFRASTRUCTURE:
                raise
            return (gap.outcome.text, False) if isinstance(gap.outcome, Truncated) else ("", False)


async def label_line(
    proposal: str | None, choices: Sequence[str], likely: Likely, tolerance: float | None
) -> WalkedLine | None:
    """Label a step by the teacher's choices.

    Args:
        proposal: the student's line; None where it gave no usable one.
        choices: the teacher's lines, several of them equal where it is sure.
        likely: says how likely the teacher finds a line.
        tolerance: the most that a proposal may be less likely than the teacher's own line; None does not ask.

    Returns:
        None where the teacher has no usable line.
    """
    if not choices:
        return None
    counts = Counter(map(plain_line, choices))
    own = max(choices, key=lambda choice: counts[plain_line(choice)])  # of equals the one that was drawn first
    if proposal is None:
        return WalkedLine(own, LineSource.NO_PROPOSAL, None)
    if plain_line(proposal) in counts:
        return WalkedLine(proposal, LineSource.EQUAL, proposal)
    if tolerance is not None:
        given, wanted = await together(likely(proposal), likely(own))
        if given >= wanted - tolerance:
            return WalkedLine(proposal, LineSource.LIKELY, proposal)
    return WalkedLine(own, LineSource.REPLACED, proposal)
