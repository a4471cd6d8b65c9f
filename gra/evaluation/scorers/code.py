"""Programs as answers (HumanEval, MBPP and files like them): asked by the harness, judged in the sandbox.

A row is `{"id", "question", "beginning", "entry_point", "tests"}`: `beginning` is code that the answer goes on with
(or ""), `entry_point` the function that is wanted (or null), `tests` Python that raises unless the program is right.
Judging is separate from generation: changed tests are applied to the recorded answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from gra.core.errors import DataError
from gra.core.hashing import digest
from gra.sandbox.extract import EXTRACT_VERSION, closed, extract
from gra.sandbox.job import Limits, SandboxJob, SandboxOutcome, Verdict
from gra.sandbox.permission import Permission, require
from gra.sandbox.sandbox import SANDBOX_VERSION, Sandbox

if TYPE_CHECKING:
    from gra.evaluation.results import Answer
    from gra.evaluation.suite import Item, Questions

# In our own words; no examples are shown.
_REQUEST = "Answer with the complete code, with its imports and helper functions, in one Python code block."
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Exercise:
    """What makes a program right."""

    beginning: str
    entry_point: str | None
    tests: str

    @property
    def target(self) -> str:
        """Digest of everything that decides a verdict, given the answer."""
        return digest([asdict(self), asdict(_LIMITS), SANDBOX_VERSION, EXTRACT_VERSION])


def parse_exercise(row: Mapping[str, Any], where: str, prompt: Literal["question", "continue"]) -> tuple[str, Exercise]:
    """What the model is shown and what makes its answer right.

    Args:
        row: a row of the file.
        where: "file:line", for the message.
        prompt: "question" asks in words, for chat models; "continue" shows the beginning alone, for base models.

    Raises:
        DataError: for a row that is not like that.
    """
    values = {key: row.get(key, "") for key in ("question", "beginning", "tests")}
    for key, value in values.items():
        if not isinstance(value, str):
            raise DataError(f"{where}: `{key}` must be a text, not {value!r}")
    entry_point = row.get("entry_point")
    if entry_point is not None and not (isinstance(entry_point, str) and entry_point.isidentifier()):
        raise DataError(f"{where}: `entry_point` must be the name of a function or null, not {entry_point!r}")
    if not values["tests"].strip():
        raise DataError(f"{where}: `tests` must be Python code; without tests every program would be right")
    for key, code in {"beginning": closed(values["beginning"]), "tests": values["tests"]}.items():
        try:
            compile(code, where, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise DataError(
                f"{where}: `{key}` is not Python ({error}), so no program could be right; mend the row"
            ) from None
    exercise = Exercise(values["beginning"], entry_point, values["tests"])
    needed = "beginning" if prompt == "continue" else "question"
    if not values[needed].strip():
        raise DataError(f"{where}: `{needed}` must be a text that is not empty (the task says `prompt: {prompt}`)")
    return exercise.beginning if prompt == "continue" else _question(values["question"], exercise), exercise


def _question(question: str, exercise: Exercise) -> str:
    block = f"```python\n{exercise.beginning.rstrip()}\n```" if exercise.beginning.strip() else ""
    return "\n\n".join(part for part in (question.strip(), block, _REQUEST) if part)


def needs_permission(questions: Iterable[Questions], permission: Permission | None) -> None:
    """See that code may run if any task needs it.

    Raises:
        CodeExecutionRefused: naming the first task that does, when it may not.
    """
    for task in questions:
        if task.task.kind == "code":
            require(permission, f"the task `{task.name}`")


def open_sandbox(questions: Iterable[Questions], permission: Permission | None) -> Sandbox | None:
    """The sandbox that the suite's programs are judged in, or None when there are none.

    Raises:
        CodeExecutionRefused: when one is needed and may not be used.
        SandboxBroken: when it does not work here.
    """
    asked = [task.name for task in questions if task.task.kind == "code"]
    return Sandbox(require(permission, f"the task `{asked[0]}`"), _LIMITS) if asked else None


def judge(
    sandbox: Sandbox, questions: Questions, answers: Iterable[Answer], progress: Callable[[int], None] | None = None
) -> dict[str, SandboxOutcome]:
    """The outcome of every item's answer, by the item's id."""
    said = {answer.item: answer.output or "" for answer in answers}
    jobs = {item.id: _job(item, said[item.id]) for item in questions.items}
    found = {name: job for name, job in jobs.items() if job is not None}
    outcomes = dict(zip(found, sandbox.run_all(list(found.values()), progress), strict=True))
    nothing = SandboxOutcome(Verdict.NO_CODE, "the answer holds no program")
    return {name: outcomes.get(name, nothing) for name in jobs}


def _job(item: Item, output: str) -> SandboxJob | None:
    exercise = item.exercise
    assert exercise is not None
    program = extract(output, exercise.beginning, exercise.entry_point)
    if program is None:
        return None
    return SandboxJob(
        program.code, exercise.tests, preamble=closed(exercise.beginning), entry_point=exercise.entry_point
    )
