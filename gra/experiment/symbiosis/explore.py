"""Make the training rows and the stores of one round.

1. Teacher and student solve the problems, the teacher with the store. What is right goes into the store.
2. The control: the teacher solves them alone with its own store, hotter and as often as both together.
3. On one walk for each problem the teacher labels the student's lines. Walks that end in the right answer become rows:
   one for each line, and one for the teacher's rationale of each line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gra.config.experiment import SymbiosisRecipe
from gra.core.processes.concurrency import in_turn, together
from gra.core.text.special_tokens import SpecialTokens
from gra.core.vocabulary import CallPurpose
from gra.data.embedder import Embedder
from gra.engines.broker import Broker
from gra.experiment.symbiosis.problems import WordProblem, is_solved
from gra.experiment.symbiosis.store import Author, SolutionStore, StoredSolution, nearest
from gra.experiment.symbiosis.walk import Examples, LineSource, Solving, WalkedLine
from gra.synthesis.committee.calls import CallRecorder, MissingAnswers, Unanswered
from gra.synthesis.committee.members import Member
from gra.synthesis.prompts import render

T = TypeVar("T")
U = TypeVar("U")
TrainingRow = dict[str, Any]  # a prompt and a completion, as lists of messages


@dataclass(frozen=True)
class Workplace:
    """What asking takes.

    Attributes:
        broker: answers the calls.
        recipe: of the experiment.
        in_flight: problems at once.
        embedder: finds the nearest problems; None where prompts show no solved ones.
        special_tokens: tokens of chat templates; no row and no solution that a model adds to a store holds one.
    """

    broker: Broker
    recipe: SymbiosisRecipe
    in_flight: int
    embedder: Embedder | None
    special_tokens: SpecialTokens

    def solving(self, problem: WordProblem, purpose: CallPurpose = CallPurpose.GENERATOR) -> Solving:
        """Return what asks about a problem."""
        return Solving(CallRecorder(self.broker, f"symbiosis-{problem.id}"), self.recipe, problem.question, purpose)

    async def examples(self, store: SolutionStore, problems: Sequence[WordProblem]) -> Mapping[str, Examples]:
        """Return by question the solved problems of a store that prompts show."""
        return await nearest(store, [problem.question for problem in problems], self.recipe.neighbors, self.embedder)

    async def each(self, items: Sequence[U], one: Callable[[U], Awaitable[T]]) -> list[T]:
        """Work on all items, several at once.

        Raises:
            MissingAnswers: when infrastructure left some unanswered; the others are recorded.
        """
        found: dict[int, T] = {}
        gaps: list[Unanswered] = []

        async def attempt(place: int) -> None:
            try:
                found[place] = await one(items[place])
            except Unanswered as gap:
                gaps.append(gap)

        await in_turn(range(len(items)), attempt, self.in_flight)
        if gaps:
            raise MissingAnswers(len(gaps), "problems", str(gaps[-1]))
        return [found[place] for place in range(len(items))]


@dataclass
class RoundRows:
    """What a round begins with and adds to: two stores and the rows of all rounds so far.

    Attributes:
        store: solutions of teacher and student.
        control: solutions of the teacher alone, from as many draws.
        lines: a row for each labeled line.
        rationales: a row for each rationale.
        facts: the manifest's entries of the last round.
    """

    store: SolutionStore
    control: SolutionStore
    lines: list[TrainingRow] = field(default_factory=list)
    rationales: list[TrainingRow] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "store": self.store.to_json(),
            "control": self.control.to_json(),
            "lines": self.lines,
            "rationales": self.rationales,
            "facts": self.facts,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], held_out: Sequence[WordProblem]) -> RoundRows:
        """Read what `to_json` returned."""
        store, control = (
            SolutionStore(held_out, (StoredSolution(**entry) for entry in data[key])) for key in ("store", "control")
        )
        return cls(store, control, data["lines"], data["rationales"], data["facts"])


async def play_round(
    place: Workplace, problems: Sequence[WordProblem], teacher: Member, student: Member, made: RoundRows, number: int
) -> None:
    """Add the solutions and rows of one round.

    Args:
        place: what asking takes.
        problems: those of the rounds.
        teacher: solves with the store, and labels lines.
        student: as it was trained on the rows so far.
        made: what the rounds before made; this round adds to it.
        number: of the round, from 1.
    """
    recipe = place.recipe
    both = await place.examples(made.store, problems)
    own = await place.examples(made.control, problems)
    first = (number - 1) * recipe.draws

    async def solve(problem: WordProblem) -> tuple[list[tuple[str, ...]], ...]:
        solving = place.solving(problem)
        known, alone = both[problem.question], own[problem.question]
        draws, twice = range(first, first + recipe.draws), range(2 * first, 2 * first + 2 * recipe.draws)
        by_teacher = [solving.whole(teacher, known, recipe.temperature, n) for n in draws]
        by_student = [solving.alone(student, (), recipe.temperature, n) for n in draws]
        control = [solving.whole(teacher, alone, recipe.control_temperature, n) for n in twice]
        found = await together(*by_teacher, *by_student, *control)
        return found[: recipe.draws], found[recipe.draws : 2 * recipe.draws], found[2 * recipe.draws :]

    solved: Counter[str] = Counter()
    for problem, (by_teacher, by_student, control) in zip(problems, await place.each(problems, solve), strict=True):
        parts: tuple[tuple[str, Author, Sequence[Any], SolutionStore], ...] = (
            ("teacher", "teacher", by_teacher, made.store),
            ("student", "student", by_student, made.store),
            ("control", "teacher", control, made.control),
        )
        for name, author, solutions, store in parts:
            right = ["\n".join(lines) for lines in solutions if is_solved(problem, lines)]
            solved[name] += len(right)
            for solution in right:
                if not place.special_tokens.find(solution):
                    store.add(StoredSolution(problem.question, solution, author, number))
    labeled = await _walks(place, problems, teacher, student, made)
    made.facts = {
        "round": number,
        "problems": len(problems),
        "draws": {"teacher": recipe.draws, "student": recipe.draws, "control": 2 * recipe.draws},
        "right_draws": dict(solved),
        "store": made.store.counts(),
        "control_store": made.control.counts(),
        **labeled,
        "rows": {"lines": len(made.lines), "rationales": len(made.rationales)},
    }


async def _walks(
    place: Workplace, problems: Sequence[WordProblem], teacher: Member, student: Member, made: RoundRows
) -> dict[str, Any]:
    """Add the rows of one walk for each problem, and return the manifest's entries."""
    examples = await place.examples(made.store, problems)

    async def walk(problem: WordProblem) -> tuple[tuple[WalkedLine, ...], list[str | None]]:
        solving = place.solving(problem)
        steps = await solving.walk(teacher, student, examples[problem.question], place.recipe.temperature)
        lines = [step.text for step in steps]
        if not is_solved(problem, lines):
            return steps, []
        return steps, await together(*(solving.rationale(teacher, lines[:n], line) for n, line in enumerate(lines)))

    walked = await place.each(problems, walk)
    sources: Counter[str] = Counter(dict.fromkeys(LineSource, 0))
    right = without_reason = special = 0
    for problem, (steps, reasons) in zip(problems, walked, strict=True):
        sources.update(step.source for step in steps)
        if not reasons:
            continue
        right += 1
        texts = [problem.question, *(step.text for step in steps), *filter(None, reasons)]
        if any(place.special_tokens.find(text) for text in texts):
            special += 1
            continue
        without_reason += sum(reason is None for reason in reasons)
        _add_new(made.lines, line_rows(problem, [step.text for step in steps]))
        _add_new(made.rationales, rationale_rows(problem, [step.text for step in steps], reasons))
    return {
        "walks": {"right": right, "wrong": len(problems) - right, "steps": dict(sources)},
        "without_rationale": without_reason,
        "walks_with_special_tokens": special,
    }


def line_rows(problem: WordProblem, lines: Sequence[str]) -> list[TrainingRow]:
    """Return a row for each line: the request for it, and the line."""
    return [
        _row(
            "line", problem, n, render("symbiosis/line", question=problem.question, lines=lines[:n], examples=()), line
        )
        for n, line in enumerate(lines)
    ]


def rationale_rows(problem: WordProblem, lines: Sequence[str], reasons: Sequence[str | None]) -> list[TrainingRow]:
    """Return a row for each rationale: the request for it without the line, and the rationale."""
    return [
        _row(
            "rationale", problem, n,
            render("symbiosis/rationale", question=problem.question, lines=lines[:n], next_line=""), reason,
        )
        for n, reason in enumerate(reasons) if reason is not None
    ]  # fmt: skip


def plain_rows(problems: Iterable[WordProblem], store: SolutionStore, count: int) -> list[TrainingRow]:
    """Return the control's rows: lines of the solutions that the teacher found alone.

    Args:
        problems: they take turns.
        store: the control's.
        count: how many rows; they begin anew where there are too few.
    """
    own: dict[str, list[StoredSolution]] = {}
    for entry in store.entries():
        if entry.author == "teacher":
            own.setdefault(entry.question, []).append(entry)
    ranked = [
        (turn, problem, entry.solution.split("\n"))
        for problem in problems
        for turn, entry in enumerate(own.get(problem.question, ()))
    ]
    rows: list[TrainingRow] = []
    for _, problem, lines in sorted(ranked, key=lambda item: item[0]):
        _add_new(rows, line_rows(problem, lines))
    return [rows[place % len(rows)] for place in range(count)] if rows else []


def _row(kind: str, problem: WordProblem, number: int, prompt: str, completion: str) -> TrainingRow:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
        "id": f"{kind}-{problem.id}-{number + 1}",
    }


def _add_new(rows: list[TrainingRow], new: Iterable[TrainingRow]) -> None:
    """Add rows that are not there yet; rounds may label the same line again."""
    known = {(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows}
    rows += [row for row in new if (row["prompt"][0]["content"], row["completion"][0]["content"]) not in known]
