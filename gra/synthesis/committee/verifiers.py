"""Programs that review what can be checked without an opinion: arithmetic, form, agreement of independent answers.

A program takes a reviewer's seat (its score, 0-10, counts in mean and spread like a member's) or a veto
(what it finds broken ends the story, before any reviewer is paid for). Where it has nothing to check it
abstains, which is a type and never a number. Programs are deterministic; one that needs a model asks
through the notebook, so that the answers are recorded and replayed like all others.

A program of your own is a class with `kind`, `version`, `fault` and `judge`, made from its section of the
recipe and the run's `VerifierResources`; `register` puts it in the place of the one of its kind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from gra.checks import answers, arithmetic
from gra.checks import format as form
from gra.checks import instruction_constraints as demands
from gra.config.review import VerifierConfig
from gra.core.errors import RecipeError
from gra.core.processes.concurrency import together
from gra.core.types import VERIFIER_MODE_IN_FILES, Abstained, Candidate, Verified, VerifierMode
from gra.engines.types import Refused, Text, Truncated, Unparsable
from gra.sandbox.extract import EXTRACT_VERSION, extract
from gra.sandbox.job import Limits, SandboxJob
from gra.sandbox.job import Verdict as Ended
from gra.sandbox.permission import Permission, require
from gra.sandbox.sandbox import SANDBOX_VERSION, Sandbox
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import render

Verdict = Verified | Abstained
_DRAWS = 4


@dataclass(frozen=True, slots=True)
class VerifierInput:
    """What a program is shown."""

    domain: str
    instruction: str
    response: str
    author: str  # the member who wrote it
    tests: str = ""  # what came with the instruction, in Python


class Verifier(Protocol):
    """A reviewer that is a program."""

    kind: ClassVar[str]
    version: ClassVar[str]  # changes whenever the program judges differently than before
    fault: ClassVar[str]  # the reason a story ends with when a veto falls

    @property
    def recipe(self) -> VerifierConfig:
        """The program's section of the recipe."""
        ...

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verdict:
        """The program's verdict, or its abstention.

        Raises:
            Unanswered: when it needs a model and the infrastructure failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class VerifierResources:
    """What programs may draw on: the committee, and the user's word that code may run."""

    members: Mapping[str, Member]
    permission: Permission | None = None


Maker = Callable[[VerifierConfig, VerifierResources], Verifier]
_MAKERS: dict[str, Maker] = {}


def register(kind: str, maker: Maker) -> None:
    """Make programs of a kind by `maker` from now on."""
    _MAKERS[kind] = maker


def make_verifiers(
    recipes: Sequence[VerifierConfig], members: Mapping[str, Member], permission: Permission | None = None
) -> tuple[Verifier, ...]:
    """The programs of a recipe, in its order.

    Raises:
        RecipeError: for one that the committee cannot serve.
        CodeExecutionRefused: for one that runs code, without permission.
        SandboxBroken: for one that runs code, where the sandbox does not work.
    """
    resources = VerifierResources(members, permission)
    return tuple(_MAKERS[recipe.kind](recipe, resources) for recipe in recipes)


def versions(recipes: Sequence[VerifierConfig]) -> dict[str, str]:
    """Version by kind: verdicts that were recorded under another version are not taken up again."""
    made: Mapping[str, Any] = _MAKERS
    return {recipe.kind: str(getattr(made[recipe.kind], "version", "")) for recipe in recipes}


@dataclass(frozen=True)
class ArithmeticVerifier:
    """Computes again what the response states: equations between numbers, and the solution of a given equation."""

    recipe: VerifierConfig
    resources: VerifierResources
    kind: ClassVar[str] = "math"
    version: ClassVar[str] = str(arithmetic.ARITHMETIC_VERSION)
    fault: ClassVar[str] = "wrong arithmetic"

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verdict:
        """Broken as soon as one statement is: a chain of steps is as good as its worst."""
        given = {claim.text for claim in arithmetic.claims(sample.instruction)}  # "find the mistake in 2 + 2 = 5"
        found = [claim for claim in arithmetic.claims(sample.response) if claim.text not in given]
        found += _solutions(sample)
        if not found:
            return Abstained("math", self.recipe.mode, "the response states no arithmetic")
        held = tuple(claim.text for claim in found if claim.holds)
        broken = tuple(claim.text for claim in found if not claim.holds)
        return Verified("math", self.recipe.mode, held, broken, 0.0 if broken else 10.0)


def _solutions(sample: VerifierInput) -> list[arithmetic.Claim]:
    """Whether the values the response gives for the unknown solve the instruction's equation."""
    equation = arithmetic.equation(sample.instruction)
    if equation is None:
        return []
    found = []
    for shown, value in arithmetic.values_of(sample.response, equation.unknown):
        holds = equation.holds(value)
        if holds or "." not in shown:  # a decimal may be rounded
            text = f"{equation.left} = {equation.right} for {equation.unknown} = {shown}"
            found.append(arithmetic.Claim(text, holds))
    return found


@dataclass(frozen=True)
class FormatVerifier:
    """Checks the demands on form that the instruction states in words."""

    recipe: VerifierConfig
    resources: VerifierResources
    kind: ClassVar[str] = "format"
    version: ClassVar[str] = f"{demands.CONSTRAINTS_VERSION}.{form.CHECKS_VERSION}"
    fault: ClassVar[str] = "a demand on its form is not met"

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verdict:
        """The share of demands that are met, times ten."""
        asked = demands.read_constraints(sample.instruction)
        if not asked:
            return Abstained("format", self.recipe.mode, "the instruction plainly demands no form")
        broken = tuple(str(check) for check in asked if not check.passes(sample.response))
        held = tuple(str(check) for check in asked if check.passes(sample.response))
        return Verified("format", self.recipe.mode, held, broken, 10.0 * len(held) / len(asked))


class ConsistencyVerifier:
    """Has the exercise answered several times more and compares (self-consistency, Wang et al. 2022, arXiv 2203.11171).

    `by: others` lets members with other weights than the author's answer, who share fewer of its mistakes;
    `by: author` draws from the author again.
    """

    kind: ClassVar[str] = "consistency"
    version: ClassVar[str] = str(answers.ANSWERS_VERSION)
    fault: ClassVar[str] = "independent answers agree on another value"

    def __init__(self, recipe: VerifierConfig, resources: VerifierResources) -> None:
        self.recipe = recipe
        self._writers = [member for member in resources.members.values() if "generator" in member.roles]
        if not answers.can_compare():
            raise RecipeError(
                "review.verifiers: `kind: consistency` compares answers by math-verify, which is not installed; "
                "install it (pip install 'math-verify[antlr4_13_2]'), or take the program out of the recipe"
            )
        for author in self._writers:
            if not self._solvers(author):
                raise RecipeError(self._nobody(author))

    def _nobody(self, author: Member) -> str:
        where = f"review.verifiers: `kind: consistency` with `by: {self.recipe.by}`"
        if self.recipe.by == "author":
            return (
                f"{where} would have `{author.name}` say the same each time; "
                "it needs a `sampling.temperature` above 0, or set `by: others`"
            )
        return (
            f"{where} has nobody to answer again when `{author.name}` generates; "
            "add a member with the role `generator` and other weights, or set `by: author`"
        )

    def _solvers(self, author: Member) -> list[Member]:
        if self.recipe.by == "author":
            return [author] if author.sampling.temperature > 0 else []
        # One member for each set of weights: two would be asked the same question and say the same.
        others: dict[str, Member] = {}
        for member in self._writers:
            if member.model.identity != author.model.identity:
                others.setdefault(member.model.identity, member)
        return list(others.values())

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verdict:
        """Ten times the share that agrees; broken when more than half agree with each other on something else."""
        own = answers.final_answer(sample.response)
        if own is None:
            return self._abstains("the response ends in no plain value")
        drawn = await together(*(self._draw(member, place, sample, recorder) for member, place in self._plan(sample)))
        values = [value for value in map(answers.final_answer, filter(None, drawn)) if value is not None]
        if len(values) < 2:
            return self._abstains(f"{len(values)} of {len(drawn)} further answers end in a plain value")
        agreeing = sum(answers.same(own, value) for value in values)
        rivals = answers.vote([value for value in values if not answers.same(own, value)])
        score = 10.0 * agreeing / len(values)
        said = f"{agreeing} of {len(values)} further answers agree on {own}"
        if 2 * agreeing >= len(values):
            return Verified("consistency", self.recipe.mode, (said,), (), score)
        if 2 * len(rivals[0]) > len(values):
            return Verified("consistency", self.recipe.mode, (), (said,), score)
        return self._abstains(f"no value has a majority: {said}")

    def _abstains(self, why: str) -> Abstained:
        return Abstained("consistency", self.recipe.mode, why)

    def _plan(self, sample: VerifierInput) -> list[tuple[Member, int]]:
        """Who answers, and which of its draws it is; a member that decodes greedily has only one to give."""
        author = next(member for member in self._writers if member.name == sample.author)
        solvers = self._solvers(author)
        turns = [(solvers[i % len(solvers)], 1 + i // len(solvers)) for i in range(self.recipe.draws or _DRAWS)]
        return [(member, place) for member, place in turns if place == 1 or member.sampling.temperature > 0]

    async def _draw(self, member: Member, place: int, sample: VerifierInput, recorder: CallRecorder) -> str:
        prompt = render("response", instruction=sample.instruction)
        call = member.call(prompt, Text(), role="solver", candidate=recorder.candidate, sample=place)
        try:
            return str((await recorder.ask(call)).value)
        except Unanswered as gap:
            if isinstance(gap.outcome, Unparsable | Truncated | Refused):
                return ""  # this draw ends in no value
            raise


class UnitTestVerifier:
    """Runs the program in the response against the tests that came with its instruction, in the sandbox.

    A time limit can be met or missed by a hair; the recorded verdict stands, as every verdict does.
    """

    kind: ClassVar[str] = "tests"
    version: ClassVar[str] = f"{SANDBOX_VERSION}.{EXTRACT_VERSION}"
    fault: ClassVar[str] = "its tests do not pass"
    limits: ClassVar[Limits] = Limits()

    def __init__(self, recipe: VerifierConfig, resources: VerifierResources) -> None:
        self.recipe = recipe
        permission = require(resources.permission, "`kind: tests` of `review.verifiers`")
        self.sandbox = Sandbox(permission, self.limits)
        # Jobs that wait for a core would use up their wall clock limit.
        self._free = asyncio.Semaphore(self.sandbox.workers)

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verdict:
        """Broken when one test fails, or when there is nothing that could pass."""
        if not sample.tests.strip():
            return Abstained("tests", self.recipe.mode, "no tests came with the instruction")
        program = extract(sample.response)
        if program is None:
            return self._broken("the response holds no program")
        async with self._free:
            outcome = await asyncio.to_thread(self.sandbox.run, SandboxJob(program.code, sample.tests))
        if outcome.verdict is not Ended.PASSED:
            return self._broken(f"{outcome.verdict}: {outcome.detail}".removesuffix(": "))
        return Verified("tests", self.recipe.mode, ("every test that came with the instruction",), (), 10.0)

    def _broken(self, why: str) -> Verified:
        return Verified("tests", self.recipe.mode, (), (why,), 0.0)


register("math", ArithmeticVerifier)
register("format", FormatVerifier)
register("consistency", ConsistencyVerifier)
register("tests", UnitTestVerifier)


class VerifierCounts:
    """What each program did, added up candidate by candidate, for the manifest."""

    def __init__(self) -> None:
        self._found: dict[str, Counter[str]] = {}
        self._modes: dict[str, VerifierMode] = {}

    def add(self, candidate: Candidate) -> None:
        """Count one more candidate."""
        for verdict in candidate.verifications:
            self._modes[verdict.verifier] = verdict.mode
            self._found.setdefault(verdict.verifier, Counter())[verdict.outcome] += 1

    def summary(self) -> dict[str, dict[str, Any]]:
        """How often each kind came to which verdict."""
        return {
            kind: {"takes": VERIFIER_MODE_IN_FILES[self._modes[kind]], **counts} for kind, counts in self._found.items()
        }


def passed(candidate: Candidate) -> bool:
    """Whether a candidate has a response that no program vetoed."""
    return bool(candidate.response) and not candidate.reason.startswith("program ")
