"""Define suites: the tasks of an evaluation, and how answers are scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gra.config.section import Section
from gra.core.duplicates import repeated


class GenerationConfig(Section):
    """Greedy decoding of written answers; length in tokens."""

    max_new_tokens: int = Field(256, ge=1, le=10_000_000)


class TaskConfig(Section):
    """One task of a suite: its data, prompts and scorer."""

    renamed = {"form": "`template`"}

    name: str = Field(pattern=r"^[\w.-]+$")
    # Written and checked by a program: instructions (our demands on form), ifeval, code (tests), letter (of a choice),
    # value (maths), short (a few words). Weighed: likelihood. As lm-eval has it, prompts and metrics too: lm-eval.
    # The table of kinds, and what each adds to these checks, is in gra/evaluation/scorers.
    kind: str
    data: str  # a JSONL file, catalog:NAME, or the name of a task or group of lm-eval
    template: str | None = None  # a file in eval/tasks that puts an item into words; default: that of the kind
    max_new_tokens: int | None = Field(None, ge=1, le=10_000_000)  # default: the suite's
    shots: int | None = Field(
        None, ge=0, le=10_000
    )  # lm-eval: worked examples before each item; default: the task's own
    metric: str | None = None  # lm-eval: which of the task's metrics is the score, such as "exact_match,strict-match"
    optional: bool = False  # left out, with a line that says so, when its data cannot be had
    limit: int | None = Field(None, ge=1)
    seed: int = 0  # which items, when there is a limit
    # Whether the prompt goes through the chat template; null: everything does but likelihood and `prompt: continue`.
    chat: bool | None = None
    # How an item is put: "Question: ... Answer:" or, for code, a request; or the bare text that the answer continues.
    prompt: Literal["question", "continue"] = "question"


class SuiteConfig(Section):
    """Tasks of an evaluation and how they are run."""

    name: str
    tasks: list[TaskConfig] = Field(min_length=1)
    generation: GenerationConfig = GenerationConfig()
    batch_size: int = Field(16, ge=1, le=1_000_000)
    # auto: vllm where there is a GPU, vLLM and something to write; else hf, the reference.
    backend: Literal["auto", "hf", "vllm"] = "auto"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    @model_validator(mode="after")
    def _task_names_differ(self) -> SuiteConfig:
        names = [task.name for task in self.tasks]
        if twice := repeated(names):
            raise ValueError(f"two tasks have the same `name` ({', '.join(twice)})")
        return self
