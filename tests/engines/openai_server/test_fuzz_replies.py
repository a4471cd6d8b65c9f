"""Send any JSON and any bytes as replies: each becomes a completion, a fault, or the end of the run.

`GRA_FUZZ_SECONDS=600 python -m pytest --timeout 1500 FILE` runs for ten minutes and prints
its counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_servers import CALL, GRADE, YES_NO, river
from unreliable_server import UnreliableServer

from gra.core.errors import EngineUnavailable
from gra.engines.broker import Broker, EnginePool, call_key
from gra.engines.mock import MockEngine
from gra.engines.openai_server import replies
from gra.engines.openai_server.engine import OpenAIEngine, ServerSettings
from gra.engines.outcomes import read_outcome
from gra.engines.types import Answer, Call, Completion, Fault, Likelihood
from gra.ledger.ledger import Ledger

SECONDS = float(os.environ.get("GRA_FUZZ_SECONDS", "0"))
CALLS = [CALL, replace(CALL, output=GRADE), replace(CALL, output=YES_NO), replace(CALL, output=Likelihood("x"))]
# The names of the interface, so that odd values stand where they are read.
NAMES = [
    "choices", "message", "content", "finish_reason", "logprobs", "top_logprobs", "token", "logprob", "usage",
    "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens", "error", "code", "msg", "detail",
    "loc", "type", "param", "status", "reasoning_content", "refusal", "tokens", "prompt_logprobs", "data", "id",
    "owned_by", "max_model_len", "text", "object", "failed_generation", "120",
]  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.integers(400, 599)
    | st.sampled_from(["stop", "length", "abort", "content_filter", "\ud83d", '{"grade": 3}', "yes", "no", "vllm",
                       "model-a", "insufficient_quota", "json_validate_failed", "<think>", "temperature", 10**400])
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), parts),
    max_leaves=12,
)
GOOD = {
    "choices": [
        {
            "message": {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": [
                {"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -2.0}]}]},
            "prompt_logprobs": [None, {"120": {"logprob": -0.2}}],
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
    "tokens": [120],
    "data": [{"id": "model-a", "owned_by": "vllm", "max_model_len": 4096}],
}  # fmt: skip


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value inside a JSON value."""
    yield before
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in entries:
        yield from places(part, (*before, name))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON value with another value at one place."""
    if not place:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[place[0]] = changed(value[place[0]], place[1:], new)
    return copied


ALMOST = st.builds(lambda place, new: changed(GOOD, place, new), st.sampled_from(list(places(GOOD))), ANYTHING)
BODIES = (ANYTHING | ALMOST).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
BODIES |= st.builds(lambda value, at: json.dumps(value).encode()[:at], ALMOST, st.integers(0, 400))
REPLIES = st.tuples(BODIES, st.sampled_from([200] * 6 + [201, 302, 400, 401, 402, 403, 404, 422, 429, 500, 503]))


class Fuzzed:
    """Hold one server and one ledger for all replies; every reply is sent to new engines."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite", "fuzz")
        self.counts: Counter[str] = Counter()
        self.replies: dict[str, tuple[bytes, int]] = {}

    def instead(self, request: web.Request, body: dict[str, Any]) -> web.Response | None:
        place = next((name for name in ("/models", "/tokenize") if request.path.endswith(name)), "/calls")
        found = self.replies.get(place)
        return None if found is None else web.Response(body=found[0], status=found[1])

    async def meet(self, base_url: str) -> None:
        for call in CALLS:
            engine = OpenAIEngine("model-a", ServerSettings(base_url, "model-a", start_timeout_s=0.0))
            try:
                reply = await engine.submit(call)
            except EngineUnavailable:
                self.counts["the run's end"] += 1
            else:
                self.counts[type(reply).__name__] += 1
                await self.judge(call, reply)
            finally:
                await engine.unload()

    async def judge(self, call: Call, reply: Completion | Fault) -> None:
        if isinstance(reply, Fault):
            assert reply.message.isprintable()
            return
        for tokens in (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens):
            assert type(tokens) is int
            assert 0 <= tokens < 2**31
        assert reply.cached_tokens <= reply.prompt_tokens
        call = replace(call, sample=sum(self.counts.values()))
        broker = Broker(self.ledger, EnginePool({"model-a": MockEngine("model-a", lambda call: reply)}, 1.0))
        outcome = await broker.ask(call)
        recorded = self.ledger.lookup(call_key(call))
        assert recorded is not None
        first = read_outcome(call, recorded)
        if isinstance(outcome, Answer):
            assert first == outcome
            outcome.text.encode()
        else:
            assert isinstance(outcome, type(first))


@contextmanager
def fuzzed(folder: Path) -> Iterator[tuple[Fuzzed, Any]]:
    fuzz = Fuzzed(folder)
    server = UnreliableServer(river, vllm=True, instead=fuzz.instead)
    with asyncio.Runner() as runner:
        runner.run(server.__aenter__())
        try:
            yield fuzz, lambda: runner.run(fuzz.meet(server.base_url))
        finally:
            runner.run(server.__aexit__())
            fuzz.ledger.close()


def test_reply_of_any_content_is_a_completion_or_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fuzzed(tmp_path) as (fuzz, meet):

        @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
        @given(REPLIES, st.sampled_from(["/calls", "/calls", "/tokenize", "/models"]))
        def attack(reply: tuple[bytes, int], place: str) -> None:
            fuzz.replies = {place: reply}
            meet()

        end = time.monotonic() + SECONDS
        attack()
        while time.monotonic() < end:
            attack()
    assert fuzz.counts["Fault"] > 20
    assert fuzz.counts["Completion"] > 20
    if SECONDS:
        with capsys.disabled():
            print(f"\n{sum(fuzz.counts.values()):,} calls in {SECONDS:g} s: {dict(fuzz.counts)}")


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(BODIES)
def test_parsers_return_typed_values_or_say_that_a_reply_is_garbled(body: bytes) -> None:
    problem = replies.read_problem(body, 400)
    for text in (problem.message, problem.param, problem.code, problem.kind, problem.failed_generation):
        text.encode()
    for name in replies.read_models(body) or ():
        name.encode()
    content = replies.parse(body)
    if not isinstance(content, dict):
        return
    replies.problem_in(content)
    with contextlib.suppress(replies.Garbled):
        reply = replies.read_chat(content)
        (reply.text + reply.thinking).encode()
        assert all(logprob <= 0 for _, logprob in reply.alternatives)
    with contextlib.suppress(replies.Garbled):
        assert all(type(token) is int for token in replies.read_token_ids(content))
    with contextlib.suppress(replies.Garbled):
        assert replies.read_prompt_logprobs(content, 1, [120]) <= 0
