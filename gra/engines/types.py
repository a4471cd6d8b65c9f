"""Define what is asked of a model and what can come back.

A `Call` is a pure value; its content is its identity (see `gra.engines.broker.call_key`). An engine turns it into a
`Completion`, or into a `Fault` when the infrastructure failed. The broker turns that into an `Outcome`. A failure is a
type, never a number, None or an empty text.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable


@dataclass(frozen=True, slots=True)
class Text:
    """Ask for free text."""


@dataclass(frozen=True, slots=True)
class Json:
    """Ask for JSON that satisfies a schema; the grammar is enforced while decoding."""

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """Ask for the probability of each of a few labels as the first token of the answer."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Ask how likely a given answer is: `logprob` (sum over tokens, in nats) and `tokens`; nothing is decoded."""

    answer: str


@dataclass(frozen=True, slots=True)
class Reward:
    """Ask a reward model or classifier for one number about a given answer (`reward`); nothing is decoded."""

    answer: str


Output = Text | Json | Choice | Likelihood | Reward


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Set how tokens are drawn; a setting that is None is not sent, and the engine's default holds."""

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
    """Identify a model by everything that decides its answers: weights, chat template, adapter."""

    name: str
    identity: str
    template: str
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """Ask one question of one model; `role`, `candidate` and `member` are for accounts, no part of its identity."""

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
    scores: Mapping[str, float] = field(default_factory=dict)  # label probabilities, logprob and tokens, or the reward
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Report a failure of the infrastructure: the call is sent again, and no answer is recorded.

    A `permanent` fault is not retried: the call itself is impossible, such as a prompt that is too long. A `busy` fault
    counts as no attempt: the call was not taken, or its engine was ended to make room.
    """

    kind: Literal["timeout", "died", "error", "busy"]
    message: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold a usable answer: text, the parsed JSON value, the label probabilities, the likelihood, or the reward."""

    text: str
    value: Any
    key: str
    completion: Completion


@dataclass(frozen=True, slots=True)
class Unparsable:
    """Report an answer that does not satisfy the output that was asked for."""

    text: str
    why: str
    key: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """Report an answer that was cut off at the length limit, and is none."""

    text: str
    key: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Report that model or server declined to answer."""

    text: str
    key: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Report that no attempt got an answer within the time limit."""

    message: str


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """Report that the engine answered no attempt; a permanent failure would come again."""

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
    """Count what an engine has done so far; seconds of wall time."""

    started_in: float = 0.0
    starts: int = 0
    woken_in: float = 0.0
    wakes: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    busy_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)  # for a person to read at the end


class Engine(Protocol):
    """Serve a model: start, submit calls, unload."""

    name: str
    concurrency: int
    memory_gb: float
    stats: EngineStats

    async def start(self) -> None:
        """Load the model, or wake it; raise EngineUnavailable when that is impossible."""

    async def submit(self, call: Call) -> Completion | Fault:
        """Answer one call."""

    async def unload(self) -> None:
        """Free the memory; `start` loads the model again."""


@runtime_checkable
class RateLimited(Protocol):
    """Mark an engine that decides for itself, and anew each moment, how many calls it takes at once."""

    gate: AbstractAsyncContextManager[None]

    def overdue(self, seconds: float) -> None:
        """Count a call that was given up after this number of seconds without an answer; a canceled call is none."""


# vLLM is given two batches at once: one is computed and one is queued. All calls of a batch may end in one step. A call
# that is sent only then arrives one or two steps too late.
BATCHES = 2


@runtime_checkable
class Buffered(Protocol):
    """Mark an engine that queues calls of its own."""

    ahead: int  # calls queued, beyond the `concurrency` that are computed at once


def calls_at_once(engine: Engine) -> int:
    """Return the number of calls that an engine takes before it has answered one."""
    return engine.concurrency + (engine.ahead if isinstance(engine, Buffered) else 0)


@runtime_checkable
class Sleepable(Protocol):
    """Mark an engine that can free most of its memory and keep its process; `start` wakes it.

    Calls in flight are paused meanwhile, and resume when it wakes.
    """

    asleep_gb: float  # the memory that it keeps meanwhile; 0: it cannot sleep and is unloaded instead

    async def sleep(self) -> None:
        """Free the memory; an engine that cannot ends its process and sets `asleep_gb` to 0."""
