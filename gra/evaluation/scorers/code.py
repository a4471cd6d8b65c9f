"""Task kind `code`: programs as answers (HumanEval, MBPP and files like them), scored in the sandbox.

A row is `{"id", "question", "beginning", "entry_point", "tests"}`:

- `beginning`: code that the answer continues, or ""
- `entry_point`: the function that is wanted, or null
- `tests`: Python that raises unless the program is right

Scoring is separate from generation: changed tests are applied to the recorded answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from gra.config.suite import TaskConfig
from gra.core.errors import DataError
from gra.core.hashing import digest
from gra.evaluation.rows import Row, label_field, text_field
from gra.evaluation.task import LoadedTask, RowTask, Sample, SampleOutput, SampleScore, Scored
from gra.sandbox.extract import EXTRACT_VERSION, closed, extract
from gra.sandbox.job import Limits, SandboxJob, SandboxOutcome, Verdict
from gra.sandbox.sandbox import SANDBOX_VERSION, Sandbox

# No examples are shown.
_REQUEST = "Answer with the complete code, with its imports and helper functions, in one Python code block."
LIMITS = Limits()
_NO_CODE = SandboxOutcome(Verdict.NO_CODE, "the answer holds no program")


@dataclass(frozen=True, slots=True)
class Exercise:
    """The target of a program: the tests, and the code that stands before it."""

    beginning: str
    entry_point: str | None
    tests: str


class CodeTask(RowTask):
    """Programs that pass tests; the target of a sample is an `Exercise`."""

    name = "code"
    needs_sandbox = True
    extracts = True
    verdicts = tuple(verdict.value for verdict in Verdict)

    def parse(self, row: Row, where: str, config: TaskConfig) -> Sample:
        """Make a sample of one row."""
        text, exercise = parse_exercise(row, where, config.prompt)
        category, cluster = label_field(row, "category", where), label_field(row, "cluster", where)
        return Sample(text_field(row, "id", where), category, text, target=exercise, cluster=cluster)

    def target_digest(self, sample: Sample) -> str:
        """Return a digest of the tests, the limits, and the programs that find and run the code."""
        return digest([asdict(sample.target), asdict(LIMITS), SANDBOX_VERSION, EXTRACT_VERSION])

    def score_all(
        self, task: LoadedTask, outputs: Sequence[SampleOutput], sandbox: Sandbox | None, scored: Scored
    ) -> list[SampleScore]:
        """Run every program against its tests."""
        assert sandbox is not None, "the caller opens a sandbox for kinds that need one"
        jobs = [_job(sample, output.output or "") for sample, output in zip(task.samples, outputs, strict=True)]
        outcomes = iter(sandbox.run_all([job for job in jobs if job is not None], scored))
        return [_score(_NO_CODE if job is None else next(outcomes)) for job in jobs]


def parse_exercise(row: Row, where: str, prompt: Literal["question", "continue"]) -> tuple[str, Exercise]:
    """Return what the model is shown, and what makes its answer right.

    Args:
        row: a row of the file.
        where: "file:line", for messages.
        prompt: "question" asks in words, for chat models; "continue" shows the beginning alone, for base models.

    Raises:
        DataError: when the row is wrong.
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
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
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


def _job(sample: Sample, output: str) -> SandboxJob | None:
    exercise: Exercise = sample.target
    program = extract(output, exercise.beginning, exercise.entry_point)
    if program is None:
        return None
    return SandboxJob(
        program.code, exercise.tests, preamble=closed(exercise.beginning), entry_point=exercise.entry_point
    )


def _score(outcome: SandboxOutcome) -> SampleScore:
    return SampleScore(outcome.verdict is Verdict.PASSED, outcome.verdict.value, detail=outcome.detail)
