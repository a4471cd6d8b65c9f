"""What is asked of a model and what can come back.

A `Call` is a pure value; its content is its identity (see `gra.engines.broker.call_key`). An engine
turns it into a `Completion`, or a `Fault` when the infrastructure failed; the broker turns that into
an `Outcome`. A failure is a type, never a number, None or an empty text.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable


@dataclass(frozen=True, slots=True)
class Text:
    """Free text."""


@dataclass(frozen=True, slots=True)
class Json:
    """JSON that satisfies a schema; the grammar is enforced while decoding."""

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few labels; the answer is the probability of each as the first token of the answer."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely the model finds a given answer: `logprob` (sum over tokens, nats) and `tokens`; nothing is decoded."""

    answer: str


Output = Text | Json | Choice | Likelihood


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How tokens are drawn; a setting that is None is not sent, and the engine's default holds."""

    temperature: float | None
    top_p: float | None
    repetition_penalty: float | None
    max_tokens: int

    @property
    def varies(self) -> bool:
        """Whether two answers to the same call may differ."""
        return self.temperature is None or self.temperature > 0


@dataclass(frozen=True, slots=True)
class ModelId:
    """What makes a model's answers its own: weights, chat template, adapter."""

    name: str
    identity: str
    template: str
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One question to one model. `role`, `candidate` and `member` are for accounts, not part of its identity."""

    model: ModelId
    messages: tuple[tuple[str, str], ...]  # (role, content)
    output: Output
    sampling: SamplingSettings
    sample: int = 0
    role: str = ""
    candidate: str = ""
    member: str = ""


# How an answer ended. `tool_call`: the model called a tool, although none was offered.
Finish = Literal["stop", "length", "refusal", "tool_call"]


@dataclass(frozen=True, slots=True)
class Completion:
    """Hold a model's answer; `thinking` is the trace that the engine returned apart from the text."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    seconds: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)  # label probabilities, or logprob and tokens
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What the infrastructure did instead; asked again, never recorded as an answer.

    `permanent` faults (the call itself is impossible, such as a prompt longer than the context) are not retried.
    A `busy` fault is no attempt at all: the call was not taken, or given back when its engine was ended to make room.
    """

    kind: Literal["timeout", "died", "error", "busy"]
    message: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A usable answer: text, the parsed JSON value, the label probabilities, or the likelihood."""

    text: str
    value: Any
    key: str
    completion: Completion


@dataclass(frozen=True, slots=True)
class Unparsable:
    """The model answered something that does not satisfy the output asked for."""

    text: str
    why: str
    key: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """The answer hit the length limit; it is not an answer."""

    text: str
    key: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The server declined to answer."""

    text: str
    key: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """No answer within the time limit, in every attempt."""

    message: str


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """The engine could not answer, in every attempt; a permanent failure would come again."""

    message: str
    permanent: bool = False


Outcome = Answer | Unparsable | Truncated | Refused | TimedOut | EngineFailed


def is_infrastructure_failure(outcome: Outcome) -> TypeGuard[TimedOut | EngineFailed]:
    """Return whether the infrastructure failed: the model gave no verdict, and a later run may get an answer.

    A permanent failure is none: the call itself is impossible, and would fail in every run.
    """
    return isinstance(outcome, TimedOut) or (isinstance(outcome, EngineFailed) and not outcome.permanent)


@dataclass
class EngineStats:
    """What an engine has done so far; seconds of wall time."""

    started_in: float = 0.0
    starts: int = 0
    woken_in: float = 0.0
    wakes: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    busy_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)  # what a person should be told at the end


class Engine(Protocol):
    """A served model: submit calls, start, park."""

    name: str
    concurrency: int
    memory_gb: float
    stats: EngineStats

    async def start(self) -> None:
        """Load the model, or wake it. Raises EngineUnavailable when it cannot be had."""

    async def submit(self, call: Call) -> Completion | Fault:
        """Answer one call."""

    async def unload(self) -> None:
        """Give back the memory; `start` brings the model back."""


@runtime_checkable
class RateLimited(Protocol):
    """An engine that decides for itself, from moment to moment, how many calls it takes at once."""

    gate: AbstractAsyncContextManager[None]

    def overdue(self, seconds: float) -> None:
        """A call was given up after so many seconds without an answer; calls that nobody needs any more are not."""


# Of the batches that vLLM is given at once, one is computed and the other waits at its door: all calls of a batch may
# end in one step, and one that is sent only then comes a step or two too late.
BATCHES = 2


@runtime_checkable
class Buffered(Protocol):
    """An engine at whose door calls wait."""

    ahead: int  # how many, beyond the `concurrency` that are computed at once


def calls_at_once(engine: Engine) -> int:
    """How many calls an engine takes before it has answered one."""
    return engine.concurrency + (engine.ahead if isinstance(engine, Buffered) else 0)


@runtime_checkable
class Sleepable(Protocol):
    """An engine that may give back most of its memory and keep its process; `start` wakes it.

    Calls in flight fall asleep with it and go on when it wakes.
    """

    asleep_gb: float  # the memory it keeps meanwhile; 0 when it cannot sleep, and is parked instead

    async def sleep(self) -> None:
        """Give back the memory; an engine that fails to ends its process and sets `asleep_gb` to 0."""
