"""Send every call through one broker, which never pays twice and never returns a failure as a value.

The broker looks a call up in the ledger by its content. A call that is asked twice at once is shared. The broker waits
until the model is resident, retries with back-off, and turns the reply into an `Outcome`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gra.core.hashing import canonical_json
from gra.core.types import Usage
from gra.engines.outcomes import read_outcome, recorded_text
from gra.engines.scheduling.prefix_queue import PrefixQueue
from gra.engines.scheduling.swapper import Swapper
from gra.engines.types import (
    Answer,
    Call,
    Choice,
    Completion,
    Engine,
    EngineFailed,
    Fault,
    Json,
    Likelihood,
    Outcome,
    RateLimited,
    Reward,
    Text,
    TimedOut,
    Truncated,
    calls_at_once,
)
from gra.ledger.budget import BudgetAccount
from gra.ledger.ledger import Ledger, Recorded
from gra.ledger.schema import request_key

KEY_VERSION = 1
_RETRY_TEMPERATURE = 0.7
# A call in flight when its engine is lost is sent again beyond `max_attempts`. It may be the call that makes the engine
# crash, so there is an end.
_DEATHS = 3
# The content of a key. Concurrency, time-outs, batch size, device, role and candidate are left out on
# purpose. They must not change which call a recorded answer belongs to.
KEY_FIELDS = ("version", "messages", "model", "template", "adapter", "sampling", "output", "sample", "attempt")


def call_request(call: Call, attempt: int) -> dict[str, Any]:
    """Return the content of a call that decides its answer."""
    match call.output:
        case Json(schema):
            # As text: the order of its properties is the order of decoding, and canonical JSON would sort them.
            output: Any = {"json": json.dumps(schema)}
        case Choice(labels):
            output = {"choice": list(labels)}
        case Likelihood(answer):
            output = {"likelihood": answer}
        case Reward(answer):
            output = {"reward": answer}
        case Text():
            output = "text"
    return {
        "version": KEY_VERSION,
        "messages": [list(message) for message in call.messages],
        "model": call.model.identity,
        "template": call.model.template,
        "adapter": call.model.adapter,
        "sampling": {
            "temperature": call.sampling.temperature,
            "top_p": call.sampling.top_p,
            "repetition_penalty": call.sampling.repetition_penalty,
            "max_tokens": call.sampling.max_tokens,
        },
        "output": output,
        "sample": call.sample,
        "attempt": attempt,
    }


def call_key(call: Call, attempt: int = 0) -> str:
    """Return the SHA-256 of the canonical JSON of `call_request`."""
    return _identify(call, attempt)[0]


def _identify(call: Call, attempt: int) -> tuple[str, str]:
    """Return a call's key, and the text that it is the digest of."""
    request = canonical_json(call_request(call, attempt))
    return request_key(request), request


@dataclass
class _Asking:
    """Track a call on its way to an engine: its broker, and how many candidates wait for the answer."""

    broker: Broker
    paying: asyncio.Task[Recorded | TimedOut | EngineFailed]
    waiters: int = 0


@dataclass
class Tokens:
    """Count the tokens that a model read and wrote."""

    read: int = 0
    cached: int = 0
    written: int = 0


@dataclass
class BrokerProgress:
    """Count what the terminal shows while the broker works."""

    usage: dict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    replayed: int = 0
    asked: int = 0
    asking: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # queued or in flight, by model
    in_flight: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    paid: dict[str, Tokens] = field(default_factory=lambda: defaultdict(Tokens))  # by model, in this process
    unusable: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class EnginePool:
    """Hold the engines of a machine, which of them are resident, and their queues. Brokers may share it."""

    def __init__(self, engines: Mapping[str, Engine], memory_gb: float) -> None:
        self.engines = engines
        self.swapper = Swapper(engines, memory_gb)
        self._queues = {
            name: PrefixQueue(calls_at_once(engine))
            for name, engine in engines.items()
            if not isinstance(engine, RateLimited)
        }
        self.asking: dict[tuple[Path, str], _Asking] = {}  # by ledger and key

    def turn(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Return a place at the call's engine while its model is resident, in the order of the engine's queue."""
        name = call.model.name
        engine = self.engines[name]
        if isinstance(engine, RateLimited):
            return self.swapper.hold(name, lambda: engine.gate)
        prompt = "\0".join((call.model.adapter, *(content for _, content in call.messages)))
        return self.swapper.hold(name, lambda: self._queues[name].turn(prompt))


class Broker:
    """Connect candidates to engines: ledger, shared calls, residency, retries, budget."""

    def __init__(
        self,
        ledger: Ledger,
        pool: EnginePool,
        *,
        max_attempts: int = 3,
        call_timeout_s: float = 600.0,
        account: BudgetAccount | None = None,
        backoff_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self._file = ledger.path.absolute()
        self.pool = pool
        self.progress = BrokerProgress()
        self.used: set[str] = set()  # keys of answers that this broker found or paid for
        self._max_attempts = max_attempts
        self._timeout = call_timeout_s
        self._backoff = backoff_s
        self._clock = clock
        self.account = account or BudgetAccount(ledger)

    def check_budget(self) -> None:
        """Check the caps before a new candidate is admitted; candidates already paid for may finish.

        Raises:
            BudgetExhausted: when a cap, counted over all resumes, leaves no room for another.
        """
        self.account.check()

    async def ask(
        self, call: Call, paid: Callable[[Recorded], None] | None = None, *, repeat_cut_off: bool = True
    ) -> Outcome:
        """Return the outcome of a call; recorded answers are used as they stand.

        Args:
            call: The question.
            paid: Called with every recorded answer that the call took, also with unusable ones.
            repeat_cut_off: Whether an answer that was cut off is asked for again, like other unusable answers.
        """
        last: Outcome = EngineFailed("never asked")
        for attempt in range(self._max_attempts):
            last = await self._attempt(call if attempt == 0 else _livelier(call), attempt, paid)
            if isinstance(last, Answer | TimedOut | EngineFailed):
                return last
            self.progress.unusable[f"{call.role}:{type(last).__name__}"] += 1
            if isinstance(last, Truncated) and not repeat_cut_off:
                return last
        return last

    async def _attempt(self, call: Call, attempt: int, paid: Callable[[Recorded], None] | None) -> Outcome:
        try:
            key, request = _identify(call, attempt)
        except UnicodeEncodeError:
            return EngineFailed("the question holds half a surrogate pair, which is no character", permanent=True)
        recorded = self.ledger.lookup(key)
        if recorded is None:
            found = await self._shared(call, key, request, attempt)
            if not isinstance(found, Recorded):
                return found
            recorded = found
        else:
            self.progress.replayed += 1
        self.used.add(key)
        self.progress.usage[call.role] += Usage(1, recorded.prompt_tokens, recorded.completion_tokens)
        if paid is not None:
            paid(recorded)
        return read_outcome(call, recorded)

    async def _shared(self, call: Call, key: str, request: str, attempt: int) -> Recorded | TimedOut | EngineFailed:
        """Share one answer among the candidates that ask the same; cancel it when the last of them is canceled."""
        place = (self._file, key)
        asking = self.pool.asking.get(place)
        if asking is not None and asking.broker is not self:
            # Another arm asks it and records the answer in the same ledger; where it fails, this one asks.
            await asyncio.wait([asking.paying])
            return self.ledger.lookup(key) or await self._shared(call, key, request, attempt)
        if asking is None:
            asking = _Asking(self, asyncio.create_task(self._pay(call, key, request, attempt)))
            asking.paying.add_done_callback(partial(self._asked, place, asking, call.model.name))
            self.pool.asking[place] = asking
            self.progress.asking[call.model.name] += 1
        asking.waiters += 1
        try:
            return await asyncio.shield(asking.paying)
        finally:
            asking.waiters -= 1
            if not asking.waiters:
                self._forget(place, asking)  # at once, so that a later call begins anew
                asking.paying.cancel()

    def _forget(self, place: tuple[Path, str], asking: _Asking) -> None:
        if self.pool.asking.get(place) is asking:
            del self.pool.asking[place]

    def _asked(
        self,
        place: tuple[Path, str],
        asking: _Asking,
        model: str,
        paying: asyncio.Task[Recorded | TimedOut | EngineFailed],
    ) -> None:
        """Clean up after a call that was answered or canceled."""
        self._forget(place, asking)
        self.progress.asking[model] -= 1
        self.account.end_call(place[1])
        if not paying.cancelled():
            paying.exception()  # retrieved here too: the candidates that asked may have been canceled

    async def _pay(self, call: Call, key: str, request: str, attempt: int) -> Recorded | TimedOut | EngineFailed:
        name = call.model.name
        engine = self.pool.engines[name]
        failures = deaths = 0
        if self.account.strict:
            await self.account.admit_call(key)
        while True:
            async with self.pool.turn(call):
                self.progress.asked += 1
                self.progress.in_flight[name] += 1
                started = self._clock()
                try:
                    async with self.pool.swapper.clock(name, self._timeout) as clock:
                        reply = await engine.submit(call)
                except TimeoutError:
                    waited = max(self._timeout, round(self._clock() - started))
                    reply = Fault("timeout", f"no answer in {waited:g} s")
                    if isinstance(engine, RateLimited):
                        engine.overdue(self._timeout)
                finally:
                    self.progress.in_flight[name] -= 1
            if isinstance(reply, Completion):
                if not isinstance(engine, RateLimited):
                    self.pool.swapper.answered(name, self._timeout)
                self._count(call, key, reply)
                seconds = self._clock() - started - clock.slept_s
                return await self.ledger.record(_recorded(call, key, request, attempt, reply, seconds))
            await self.ledger.fault(call.role, name, call.candidate, reply.kind, reply.message)
            if reply.kind == "busy":
                continue  # the engine's gate holds the call until it may be sent again
            if reply.kind == "died":
                deaths += 1
            else:
                failures += 1
            if reply.permanent or failures == self._max_attempts or deaths == max(self._max_attempts, _DEATHS):
                if reply.kind == "timeout":
                    return TimedOut(reply.message)
                return EngineFailed(reply.message, reply.permanent)
            await asyncio.sleep(self._backoff * 2 ** (failures + deaths - 1) * (1 + random.random()))

    def _count(self, call: Call, key: str, reply: Completion) -> None:
        name, paid = call.model.name, self.progress.paid[call.model.name]
        paid.read += reply.prompt_tokens
        paid.cached += reply.cached_tokens
        paid.written += reply.completion_tokens
        self.used.add(key)
        self.account.pay(call.candidate, key, name, reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)


def _livelier(call: Call) -> Call:
    """Return the call for another attempt: greedy decoding would give the same unusable answer again."""
    if call.sampling.temperature is None:
        return call
    warm = max(call.sampling.temperature, _RETRY_TEMPERATURE)
    return replace(call, sampling=replace(call.sampling, temperature=warm))


def _recorded(call: Call, key: str, request: str, attempt: int, reply: Completion, seconds: float) -> Recorded:
    return Recorded(
        key=key,
        role=call.role,
        member=call.member,
        model=call.model.name,
        candidate=call.candidate,
        attempt=attempt,
        request=request,
        text=recorded_text(reply),
        finish=reply.finish,
        scores=dict(reply.scores),
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        cached_tokens=reply.cached_tokens,
        seconds=seconds,
    )
