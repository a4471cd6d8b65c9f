"""Define the types of evaluation: kinds of tasks, tasks, samples, outputs of a model and their scores.

A kind of task is a subclass of `RowTask` in a module of `gra.evaluation.scorers`. One that reads no rows is a subclass
of `TaskKind`. It has one line in the table `kinds.py` there. No other code asks for a kind by its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gra.config.loader import find_file
from gra.config.suite import TaskConfig
from gra.core.errors import DataError
from gra.core.hashing import digest, file_digest
from gra.core.text.thinking import split_thinking
from gra.evaluation.rows import Row, label_field, read_rows, text_field
from gra.sandbox.permission import Permission, require
from gra.sandbox.sandbox import Sandbox

# Before the name of a benchmark of GRA's catalog.
CATALOG = "catalog:"

# Stands for "beside the working directory" where no suite file is known.
_HERE = Path("suite.yaml")
Scored = Callable[[int], None]  # called with the number of samples that are scored


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a task.

    Attributes:
        id: unique in its task; it pairs the samples of several runs.
        category: a label that scores are also given by; empty for none.
        text: what is asked, without any template.
        choices: the choices, where there are any.
        answer: the index of the right choice.
        target: what makes an answer right, for the task's kind; its type depends on the kind.
        cluster: the same for samples that share a text; errors are taken between clusters.
        category_shown: whether the prompt may name the category.
    """

    id: str
    category: str
    text: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    target: Any = None
    cluster: str = ""
    category_shown: bool = False

    @property
    def asked(self) -> str:
        """Digest of what the model is shown."""
        named = [self.category] if self.category_shown else []
        return digest([self.id, self.text, list(self.choices), *named])

    def target_digest(self, checks: Sequence[Any] = (), version: int = 0, *more: Any) -> str:
        """Digest of what makes an answer right, and of what it is counted with.

        Args:
            checks: the checks of an answer, as JSON.
            version: the version of the program that applies them.
            more: further JSON values that decide a score.
        """
        own = [self.cluster] if self.cluster else []
        return digest([self.answer, list(checks), version, *own, *more])


@dataclass(frozen=True, slots=True)
class SampleOutput:
    """The output of a model for one sample: a row of the recorded answers.

    Attributes:
        item: the sample's id.
        asked: digest of what the model was shown, without any template.
        prompt_hash: digest of the prompt as it was sent.
        output: the text that the model wrote, with its thinking; None where choices were weighed.
        finish: "stop" when the model ended its answer, "length" when the answer was cut off.
        tokens: the number of tokens written, with the one that ended the answer.
        loglikelihoods: the log-likelihood of each choice, in nats, where choices were weighed.
        acc: accuracy that lm-eval made of the log-likelihoods.
        acc_norm: the same, normalized by the length of the choices.
        metrics: every metric of a task of lm-eval's own, as JSON.
    """

    item: str
    asked: str
    prompt_hash: str
    output: str | None = None
    finish: str | None = None
    tokens: int | None = None
    loglikelihoods: list[float] | None = None
    acc: float | None = None
    acc_norm: float | None = None
    metrics: str | None = None


@dataclass(frozen=True, slots=True)
class SampleScore:
    """The score of one answer; fields that a kind does not use are None.

    Attributes:
        passed: whether the answer is right.
        verdict: one of the kind's verdicts.
        extracted: the answer that was found in the text.
        detail: why, in words.
        failed_checks: the checks that the text fails.
        passed_loose: whether the answer is right when read leniently (IFEval).
    """

    passed: bool | None = None
    verdict: str | None = None
    extracted: str | None = None
    detail: str | None = None
    failed_checks: tuple[str, ...] | None = None
    passed_loose: bool | None = None

    def columns(self) -> dict[str, Any]:
        """Return the columns of records.parquet."""
        return {
            "pass": None if self.passed is None else float(self.passed),
            "pass_loose": None if self.passed_loose is None else float(self.passed_loose),
            "verdict": self.verdict,
            "extracted": self.extracted,
            "detail": self.detail,
            "failed_checks": None if self.failed_checks is None else list(self.failed_checks),
        }


class TaskKind(ABC):
    """One kind of task: how its data is read, how it is put to a model, and how answers are scored.

    Attributes:
        name: the value of `kind` in a suite.
        generates: whether the model writes its answers, rather than weighing choices.
        native: whether prompts and metrics are those of a task of lm-eval's own.
        needs_sandbox: whether scoring runs programs that the model wrote.
        extracts: whether the answer has to be found in the text; then `unread` counts how often it is not.
        verdicts: the verdicts that a score may have, in the order of reports.
    """

    name: str
    generates: bool = True
    native: bool = False
    needs_sandbox: bool = False
    extracts: bool = False
    verdicts: tuple[str, ...] = ()

    def problems(self, config: TaskConfig) -> list[str]:
        """Return what is wrong with a task's section of a suite, one sentence each."""
        return [
            f"`{key}` is for `kind: lm-eval`; the task `{config.name}` is of kind `{config.kind}`"
            for key in ("shots", "metric")
            if getattr(config, key) is not None
        ]

    @abstractmethod
    def read(self, config: TaskConfig, data_dir: Path | None) -> tuple[list[Sample], bool]:
        """Read every sample, and say whether the model writes its answers.

        Args:
            config: the task.
            data_dir: a folder that holds benchmark files, instead of the catalog's sources.

        Raises:
            DataError: naming file and line of the first row that is wrong.
            ModelUnavailable: when the data cannot be had.
            RecipeError: when the file is not there.
        """

    def template(self, config: TaskConfig) -> str:
        """Return the name of the file in eval/tasks that makes a prompt of a sample."""
        return "gra_instruction.yaml"

    def chat(self, config: TaskConfig) -> bool:
        """Return whether prompts go through the chat template unless the suite says otherwise."""
        return self.generates and config.prompt == "question"

    def prompt_parts(self, task: LoadedTask) -> list[Any]:
        """Return what decides how samples are put to the model, as JSON."""
        return [task.name, self.name, task.chat, template_file(task.template)[1]]

    def version(self) -> list[Any]:
        """Return what decides a score beside the sample; raise a number in it when an answer is scored differently."""
        return []

    def program(self) -> str | None:
        """Return the name of the program that scores, for a kind that may use one of several on this machine."""
        return None

    def target_digest(self, sample: Sample) -> str:
        """Return a digest of everything in a sample that decides a score."""
        return sample.target_digest([], 0, *([] if sample.target is None else [digest(sample.target)]))

    def score(self, sample: Sample, text: str, finish: str | None) -> SampleScore:
        """Score one answer; no text makes this raise or run without bound.

        Args:
            sample: what was asked.
            text: the answer, without the model's thinking.
            finish: "stop" or "length".
        """
        return SampleScore()

    def score_all(
        self, task: LoadedTask, outputs: Sequence[SampleOutput], sandbox: Sandbox | None, scored: Scored
    ) -> list[SampleScore]:
        """Score the written answers of a task.

        Args:
            task: the task.
            outputs: one for each sample, in their order, with a text each.
            sandbox: where programs run; there for kinds with `needs_sandbox`.
            scored: called with the number of samples that are scored, by kinds that take long.
        """
        return [
            self.score(sample, split_thinking(output.output or "")[1], output.finish)
            for sample, output in zip(task.samples, outputs, strict=True)
        ]

    def summary(self, task: LoadedTask, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return figures of this kind beside those that every kind has."""
        return {}


class RowTask(TaskKind):
    """A kind of task whose samples are the rows of a file."""

    def read(self, config: TaskConfig, data_dir: Path | None) -> tuple[list[Sample], bool]:
        """Read every sample from the task's file, as `TaskKind.read`."""
        path = data_file(config, data_dir)
        samples: dict[str, Sample] = {}
        for where, row in read_rows(path):
            sample = self.parse(row, where, config)
            if sample.id in samples:
                raise DataError(
                    f"{where}: the id `{sample.id}` was used before; ids must differ, they pair the samples of runs"
                )
            samples[sample.id] = sample
        if not samples:
            raise DataError(f"{path}: the file has no rows, so the task `{config.name}` has nothing to ask")
        return list(samples.values()), self.generates

    @abstractmethod
    def parse(self, row: Row, where: str, config: TaskConfig) -> Sample:
        """Make a sample of one row.

        Args:
            row: the row.
            where: "file:line", for messages.
            config: the task.

        Raises:
            DataError: when the row is wrong.
        """


@dataclass(frozen=True)
class LoadedTask:
    """A task with its samples in the order in which they are asked.

    Attributes:
        config: the task's section of the suite.
        kind: its kind.
        samples: the samples that are asked.
        generated: whether the model writes its answers, rather than weighing choices.
    """

    config: TaskConfig
    kind: TaskKind
    samples: tuple[Sample, ...]
    generated: bool

    @property
    def name(self) -> str:
        """The task's name."""
        return self.config.name

    @property
    def chat(self) -> bool:
        """Whether the prompts go through the chat template."""
        return self.kind.chat(self.config) if self.config.chat is None else self.config.chat

    @property
    def template(self) -> str:
        """The file in eval/tasks that makes a prompt of a sample."""
        return self.config.template or self.kind.template(self.config)

    @property
    def metric(self) -> str:
        """The metric that comparisons use."""
        return self.config.metric or ("pass" if self.generated else "acc_norm")

    def wording(self) -> str:
        """Digest of how samples are put to the model, without the samples themselves."""
        return digest(self.kind.prompt_parts(self))

    def asked(self) -> str:
        """Digest of everything that decides the answers, apart from the model."""
        return digest([*self.kind.prompt_parts(self), [sample.asked for sample in self.samples]])

    def target(self) -> str:
        """Digest of everything that decides the scores, given the answers."""
        return digest([*self.kind.version(), *(self.kind.target_digest(sample) for sample in self.samples)])


@dataclass(frozen=True)
class LoadedSuite:
    """The tasks of a suite with their samples, and the reason for each task that is left out."""

    tasks: list[LoadedTask]
    left_out: dict[str, str] = field(default_factory=dict)

    def require_permission(self, permission: Permission | None) -> Permission | None:
        """Return the permission to run programs if a task needs it, else None.

        Raises:
            CodeExecutionRefused: naming the first such task, when programs may not run.
        """
        for task in self.tasks:
            if task.kind.needs_sandbox:
                return require(permission, f"the task `{task.name}`")
        return None


def data_file(config: TaskConfig, data_dir: Path | None) -> Path:
    """Find the data file of a task; a benchmark of the catalog is fetched when it is not here.

    Args:
        config: the task.
        data_dir: a folder that holds benchmark files, instead of the catalog's sources.

    Raises:
        RecipeError: when the file is not there.
        ModelUnavailable: when the benchmark cannot be had.
    """
    if not config.data.startswith(CATALOG):
        return find_file(config.data, _HERE)
    from gra.evaluation.benchmarks.load import resolve_benchmark

    return Path(resolve_benchmark(config.data.removeprefix(CATALOG), data_dir=data_dir).path)


def template_file(name: str) -> tuple[Path, str]:
    """Find a file of eval/tasks; return its path and digest.

    Raises:
        RecipeError: when it is not there.
    """
    path = find_file(f"eval/tasks/{name}", _HERE)
    return path, file_digest(path)


def common_fields(row: Row, where: str, text: str = "question") -> dict[str, Any]:
    """Return the fields of a `Sample` that most kinds read: id, category, cluster and the text under the key `text`.

    Raises:
        DataError: when one of them is wrong.
    """
    return {
        "id": text_field(row, "id", where),
        "category": label_field(row, "category", where),
        "cluster": label_field(row, "cluster", where),
        "text": text_field(row, text, where),
    }


def output_columns(output: SampleOutput) -> dict[str, Any]:
    """Return the columns of one output in records.parquet, the model's thinking apart from its answer."""
    columns = asdict(output)
    if output.output is None:
        return {**columns, "thinking": None}
    thinking, text = split_thinking(output.output)
    return {**columns, "output": text, "thinking": thinking or None}
