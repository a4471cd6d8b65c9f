"""Verify with programs what can be checked in a response, such as arithmetic, format and unit tests.

With `mode: score` a verifier's score (0-10) counts in mean and spread like a reviewer's. With `mode: filter` a failed
verification rejects the candidate before any reviewer is asked. A verifier that has nothing to check abstains;
an abstention is a type and never a number. Verifiers are deterministic. One that needs a model asks through the
`CallRecorder`, so that its answers are recorded and replayed like all others.

A verifier of your own is a class with `kind`, `version`, `fault` and `judge`. It is made from its section of the recipe
and the run's `VerifierResources`. `register` puts it in the place of the one of its kind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from gra.checks import answers, arithmetic, instruction_constraints
from gra.checks import format as format_checks
from gra.checks.verdicts import check_arithmetic, check_format
from gra.config.review import VERIFIER_KINDS, VerifierConfig
from gra.core.errors import RecipeError
from gra.core.processes.concurrency import together
from gra.core.types import VERIFIER_MODE_IN_FILES, Abstained, Candidate, Review, Verified, VerifierMode
from gra.core.vocabulary import CallPurpose, FailureCause, RejectedAt
from gra.engines.types import Text
from gra.sandbox.extract import EXTRACT_VERSION, extract
from gra.sandbox.job import Limits, SandboxJob, Verdict
from gra.sandbox.permission import Permission, require
from gra.sandbox.sandbox import SANDBOX_VERSION, Sandbox
from gra.synthesis.committee.calls import CallRecorder, Unanswered
from gra.synthesis.committee.functions import FUNCTIONS_VERSION, FunctionPanel, collect_votes
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import render

Verification = Verified | Abstained
_DRAWS = 4


@dataclass(frozen=True, slots=True)
class VerifierInput:
    """What a verifier sees of a candidate.

    Attributes:
        author: the name of the member that wrote the response.
        tests: Python tests that came with the instruction; empty where there are none.
    """

    domain: str
    instruction: str
    response: str
    author: str
    tests: str = ""


class Verifier(Protocol):
    """A program that reviews responses.

    Attributes:
        kind: the recipe's `kind`.
        version: changes whenever the verifier's verdicts change.
        fault: the candidate's reason when the verifier rejects it.
    """

    kind: ClassVar[str]
    version: ClassVar[str]
    fault: ClassVar[str]

    @property
    def recipe(self) -> VerifierConfig:
        """The verifier's section of the recipe."""
        ...

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verification:
        """Verify a response, or abstain.

        Raises:
            Unanswered: when the verifier needs a model and the infrastructure failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class VerifierResources:
    """What verifiers may use: the committee, and the user's permission to run code."""

    members: Mapping[str, Member]
    permission: Permission | None = None


Maker = Callable[[VerifierConfig, VerifierResources], Verifier]
_MAKERS: dict[str, Maker] = {}


def register(kind: str, maker: Maker) -> None:
    """Make verifiers of a kind with `maker` from now on."""
    _MAKERS[kind] = maker
    if kind not in VERIFIER_KINDS:
        VERIFIER_KINDS.append(kind)


def make_verifiers(
    recipes: Sequence[VerifierConfig], members: Mapping[str, Member], permission: Permission | None = None
) -> tuple[Verifier, ...]:
    """Return the verifiers of a recipe, in its order.

    Raises:
        RecipeError: when a verifier needs members that the committee lacks.
        CodeExecutionRefused: when a verifier runs code, and there is no permission.
        SandboxBroken: when a verifier runs code, and the sandbox does not work here.
    """
    resources = VerifierResources(members, permission)
    return tuple(_MAKERS[recipe.kind](recipe, resources) for recipe in recipes)


def in_mode(verifiers: Sequence[Verifier], mode: VerifierMode, domain: str) -> list[Verifier]:
    """Return the verifiers of a mode that a domain has, in the recipe's order."""
    return [v for v in verifiers if v.recipe.mode == mode and domain in (v.recipe.domains or [domain])]


def versions(recipes: Sequence[VerifierConfig]) -> dict[str, str]:
    """Return each verifier's version by kind; verdicts recorded under another version do not count."""
    made: Mapping[str, Any] = _MAKERS
    return {recipe.kind: str(getattr(made[recipe.kind], "version", "")) for recipe in recipes}


@dataclass(frozen=True)
class ArithmeticVerifier:
    """Recompute the equations that a response states, and its solution of a given equation."""

    recipe: VerifierConfig
    resources: VerifierResources
    kind: ClassVar[str] = "math"
    version: ClassVar[str] = str(arithmetic.ARITHMETIC_VERSION)
    fault: ClassVar[str] = "wrong arithmetic"

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verification:
        """Fail a response as soon as one of its statements is wrong."""
        found = check_arithmetic(sample.instruction, sample.response)
        if found is None:
            return Abstained("math", self.recipe.mode, "the response states no arithmetic")
        return Verified("math", self.recipe.mode, found.held, found.broken, 10.0 if found.right else 0.0)


@dataclass(frozen=True)
class FormatVerifier:
    """Check the format constraints that the instruction states in words."""

    recipe: VerifierConfig
    resources: VerifierResources
    kind: ClassVar[str] = "format"
    version: ClassVar[str] = f"{instruction_constraints.CONSTRAINTS_VERSION}.{format_checks.CHECKS_VERSION}"
    fault: ClassVar[str] = "a demand on its form is not met"

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verification:
        """Score ten times the share of format constraints that the response meets."""
        asked = instruction_constraints.read_constraints(sample.instruction)
        found = check_format(asked, sample.response)
        if found is None:
            return Abstained("format", self.recipe.mode, "the instruction plainly demands no form")  # kept: recorded
        return Verified("format", self.recipe.mode, found.held, found.broken, 10.0 * len(found.held) / len(asked))


class ConsistencyVerifier:
    """Compare with further answers to the instruction (self-consistency, Wang et al. 2022, arXiv 2203.11171).

    With `by: others`, members with other weights than the author's answer; they share fewer of its mistakes. With
    `by: author`, the author answers again.
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
                "install it (pip install 'math-verify[antlr4_13_2]'), or take the verifier out of the recipe"
            )
        for author in self._writers:
            if not self._solvers(author):
                raise RecipeError(self._no_solver(author))

    def _no_solver(self, author: Member) -> str:
        where = f"review.verifiers: `kind: consistency` with `by: {self.recipe.by}`"
        if self.recipe.by == "author":
            return (
                f"{where} would have `{author.name}` say the same each time; "
                "it needs a `sampling.temperature` above 0, or set `by: others`"
            )
        return (
            f"{where} has no member to answer again when `{author.name}` generates; "
            "add a member with the role `generator` and other weights, or set `by: author`"
        )

    def _solvers(self, author: Member) -> list[Member]:
        if self.recipe.by == "author":
            return [author] if author.sampling.varies else []
        # One member for each set of weights: the same weights would give the same answer.
        others: dict[str, Member] = {}
        for member in self._writers:
            if member.model.identity != author.model.identity:
                others.setdefault(member.model.identity, member)
        return list(others.values())

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verification:
        """Score ten times the share that agrees; fail when more than half agree on another value."""
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
        """Return the members that answer, each with its draw's number; greedy decoding gives only one draw."""
        author = next(member for member in self._writers if member.name == sample.author)
        solvers = self._solvers(author)
        turns = [(solvers[i % len(solvers)], 1 + i // len(solvers)) for i in range(self.recipe.draws or _DRAWS)]
        return [(member, place) for member, place in turns if place == 1 or member.sampling.varies]

    async def _draw(self, member: Member, place: int, sample: VerifierInput, recorder: CallRecorder) -> str:
        prompt = render("response", instruction=sample.instruction)
        call = member.call(prompt, Text(), role=CallPurpose.SOLVER, candidate=recorder.candidate, sample=place)
        try:
            return str((await recorder.ask(call)).value)
        except Unanswered as gap:
            if gap.cause is FailureCause.ANSWER:
                return ""  # this draw gives no value
            raise


class FunctionsVerifier:
    """Ask functions that members wrote for the candidate's domain; together they give one verdict (functions.py)."""

    kind: ClassVar[str] = "functions"
    version: ClassVar[str] = f"{FUNCTIONS_VERSION}.{SANDBOX_VERSION}.{EXTRACT_VERSION}"
    fault: ClassVar[str] = "functions of the committee are against it"
    limits: ClassVar[Limits] = Limits(cpu_s=2)

    def __init__(self, recipe: VerifierConfig, resources: VerifierResources) -> None:
        self.recipe = recipe
        self.authors = [member for member in resources.members.values() if "generator" in member.roles]
        self.sandbox = Sandbox(require(resources.permission, "`kind: functions` of `review.verifiers`"), self.limits)
        self.free = asyncio.Semaphore(self.sandbox.workers)
        self.panels: dict[str, FunctionPanel] = {}  # by domain; filled before the first candidate

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verification:
        """Score ten times the probability that the response is good; fail below one half."""
        panel, mode = self.panels.get(sample.domain), self.recipe.mode
        if panel is None or panel.model is None:
            return Abstained(self.kind, mode, f"no function for {sample.domain} separates good from bad control items")
        item = (sample.instruction, sample.response)
        votes = (await collect_votes(self.sandbox, self.free, panel.functions, [item]))[:, 0]
        good = panel.model.judge(votes)
        if good is None:
            return Abstained(self.kind, mode, "no function applies")
        names = {verdict: [f.name for f, vote in zip(panel.functions, votes, strict=True) if vote == verdict]
                 for verdict in (1.0, 0.0)}  # fmt: skip
        said = f"for it: {', '.join(names[1.0]) or 'none'}; against it: {', '.join(names[0.0]) or 'none'}"
        held, broken = ((said,), ()) if good >= 0.5 else ((), (said,))
        return Verified(self.kind, mode, held, broken, 10 * good)


class UnitTestVerifier:
    """Run the program in the response against its instruction's tests, in the sandbox.

    A run near its time limit may pass once and fail once; the recorded verdict stands.
    """

    kind: ClassVar[str] = "tests"
    version: ClassVar[str] = f"{SANDBOX_VERSION}.{EXTRACT_VERSION}"
    fault: ClassVar[str] = "its tests do not pass"
    limits: ClassVar[Limits] = Limits()

    def __init__(self, recipe: VerifierConfig, resources: VerifierResources) -> None:
        self.recipe = recipe
        permission = require(resources.permission, "`kind: tests` of `review.verifiers`")
        self.sandbox = Sandbox(permission, self.limits)
        # A job that waits for a core would use up its time limit.
        self._free = asyncio.Semaphore(self.sandbox.workers)

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verification:
        """Fail a response whose tests fail, or that holds no program."""
        if not sample.tests.strip():
            return Abstained("tests", self.recipe.mode, "no tests came with the instruction")
        program = extract(sample.response)
        if program is None:
            return self._broken("the response holds no program")
        async with self._free:
            outcome = await asyncio.to_thread(self.sandbox.run, SandboxJob(program.code, sample.tests))
        if outcome.verdict is not Verdict.PASSED:
            return self._broken(f"{outcome.verdict}: {outcome.detail}".removesuffix(": "))
        return Verified("tests", self.recipe.mode, ("every test that came with the instruction",), (), 10.0)

    def _broken(self, why: str) -> Verified:
        return Verified("tests", self.recipe.mode, (), (why,), 0.0)


register("math", ArithmeticVerifier)
register("format", FormatVerifier)
register("consistency", ConsistencyVerifier)
register("tests", UnitTestVerifier)
register("functions", FunctionsVerifier)
BUILT_IN_VERIFIERS = frozenset(_MAKERS)


class VerifierCounts:
    """Count the verdicts of each verifier over all candidates, for the manifest."""

    def __init__(self) -> None:
        self._found: dict[str, Counter[str]] = {}
        self._modes: dict[str, VerifierMode] = {}

    def add(self, candidate: Candidate) -> None:
        """Count one more candidate."""
        for verdict in candidate.verifications:
            self._modes[verdict.verifier] = verdict.mode
            self._found.setdefault(verdict.verifier, Counter())[verdict.outcome] += 1

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return the number of verdicts of each kind, by verifier."""
        return {
            kind: {"takes": VERIFIER_MODE_IN_FILES[self._modes[kind]], **counts} for kind, counts in self._found.items()
        }


def passed(candidate: Candidate) -> bool:
    """Return whether a candidate has a response that no verifier rejected."""
    return bool(candidate.response) and candidate.rejected_at is not RejectedAt.VERIFIER


def verifier_reviews(verdicts: Sequence[Verified | Abstained]) -> tuple[Review, ...]:
    """Return the verdicts of scoring verifiers as reviews; an abstention is no review."""
    return tuple(
        Review(f"program {verdict.verifier}", {}, verdict.score, verdict.score, _comment(verdict))
        for verdict in verdicts
        if isinstance(verdict, Verified) and verdict.mode == "score"
    )


def _comment(verdict: Verified) -> str:
    """Describe a verdict for the adjudicator's prompt."""
    return f"a program found wrong: {'; '.join(verdict.broken)}" if verdict.broken else "a program found nothing wrong"
