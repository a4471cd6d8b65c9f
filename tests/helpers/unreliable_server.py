"""Serve an OpenAI-compatible API for tests: answers of a scripted committee, and failures on cue in seven ways.

A test chooses what the server takes, such as schemas, JSON mode and probabilities. The function `instead` replaces any
reply by one of the test's own. The server counts what it was asked, how it failed, and which answers it gave.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from scripted_run import answer_by_content

from gra.engines.types import Call, Choice, Completion, Fault, Json, ModelId, SamplingSettings, Text

WAYS = ("429", "500", "reset", "hang", "cut-off JSON", "prose", "wrong schema")
LIKELY = {"yes": -0.2, "no": -1.8}


@dataclass
class UnreliableServer:
    """Hold what the server takes, how it fails, and what it was asked."""

    script: Callable[[Call], Completion | Fault] = answer_by_content
    models: tuple[str, ...] = ("model-a",)
    key: str | None = None
    schemas: bool = True
    json_mode: bool = True
    probabilities: int = 20  # as many alternatives as it gives; 0: none, 400 when asked for
    vllm: bool = False
    usage: bool = True
    length_key: str = "max_tokens"
    fails: Callable[[], str | None] = lambda: None
    instead: Callable[[web.Request, dict[str, Any]], web.StreamResponse | None] = lambda request, body: None
    elsewhere: bool = False  # it also answers at other paths than the API's
    asked: list[dict[str, Any]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    given: list[str] = field(default_factory=list)  # good answers, sent in full
    at_once: int = 0
    most_at_once: int = 0

    async def __aenter__(self) -> UnreliableServer:
        app = web.Application()
        app.add_routes([
            web.get("/v1/models", self._models), web.post("/v1/chat/completions", self._chat),
            web.post("/v1/completions", self._score), web.post("/tokenize", self._tokenize),
        ])  # fmt: skip
        if self.elsewhere:
            app.add_routes([web.route("*", "/{path:.*}", self._elsewhere)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if (other := self.instead(request, {})) is not None:
            return other
        if (refused := self._stranger(request)) is not None:
            return refused
        owner = "vllm" if self.vllm else "somebody"
        return web.json_response({"data": [{"id": m, "owned_by": owner, "max_model_len": 4096} for m in self.models]})

    async def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        return self.instead(request, {}) or problem(404, "Not Found")

    def _stranger(self, request: web.Request) -> web.Response | None:
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key is None or sent == self.key:
            return None
        return problem(401, f"Incorrect API key provided: {sent}", code="invalid_api_key")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            other = self.instead(request, body)
            if other is None:
                other = self._stranger(request) or self._unable(body)
            return await self._reply(request, body) if other is None else other
        finally:
            self.at_once -= 1

    def _unable(self, body: dict[str, Any]) -> web.Response | None:
        """Return 400 for what this server does not take, typed as OpenAI does it."""
        wanted = body.get("response_format", {}).get("type")
        if (wanted == "json_schema" and not self.schemas) or (wanted == "json_object" and not self.json_mode):
            return problem(400, f"{wanted} is not supported", param="response_format")
        if body.get("top_logprobs", 0) > self.probabilities:
            return problem(400, f"top_logprobs is at most {self.probabilities}", param="top_logprobs")
        if "max_tokens" in body and self.length_key != "max_tokens":
            return problem(400, "Use the newer name.", param="max_tokens", code="unsupported_parameter")
        if body["model"] not in self.models:
            return problem(404, f"The model `{body['model']}` does not exist", code="model_not_found")
        if sum(len(m["content"]) for m in body["messages"]) > 20_000:
            return problem(400, "This model's maximum context length is 4096 tokens.", code="context_length_exceeded")
        return None

    async def _reply(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        way = self.fails()
        if way is not None:
            self.failed[way] += 1
        match way:
            case "429":
                return problem(429, "slow down", headers={"Retry-After": "0.02"})
            case "500":
                return problem(500, "internal error")
            case "503":
                return problem(503, "overloaded")
            case "reset":
                assert request.transport is not None
                request.transport.abort()
            case "hang":
                await asyncio.sleep(3600)
            case "cut-off body":
                response = web.StreamResponse(headers={"Content-Type": "application/json"})
                await response.prepare(request)
                await response.write(b'{"choices": [{"mess')
                return response
        found = self.script(as_call(body))
        assert isinstance(found, Completion)
        text, finish = found.text, found.finish
        match way:
            case "cut-off JSON":
                text, finish = (text[: len(text) // 2], "length") if "response_format" in body else ("", "length")
            case "prose":
                text = "I am afraid that I can only answer in words today." if "response_format" in body else " \n"
            case "wrong schema":
                text = '{"verdict": "excellent", "correctness": 99}' if "response_format" in body else ""
            case None:
                self.given.append(text)
        reply: dict[str, Any] = {
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        }
        if body.get("logprobs"):
            reply["choices"][0]["logprobs"] = self._logprobs(body, found)
        if self.usage:
            reply["usage"] = {
                "prompt_tokens": found.prompt_tokens, "completion_tokens": found.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": 7},
            }  # fmt: skip
        return web.json_response(reply)

    def _logprobs(self, body: dict[str, Any], found: Completion) -> dict[str, Any]:
        names = {number: chr(number) for number in body.get("logprob_token_ids", [])}
        listed = [
            {"token": f"token_id:{n}", "logprob": {"y": LIKELY["yes"], "n": LIKELY["no"]}[name]}
            for n, name in names.items()
        ] or [{"token": "Yes", "logprob": -0.3}, {"token": " yes", "logprob": -3.0}, {"token": "No", "logprob": -1.9},
              {"token": "Maybe", "logprob": -6.0}]  # fmt: skip
        return {"content": [{**listed[0], "top_logprobs": listed[: body["top_logprobs"]]}]}

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        if not self.vllm:
            return problem(404, "Not Found")
        body = await request.json()
        if (other := self.instead(request, body)) is not None:
            return other
        text = body["prompt"] if "prompt" in body else "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
        return web.json_response({"tokens": [ord(c) for c in text]})

    async def _score(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        if (other := self.instead(request, body)) is not None:
            return other
        at = [None] + [{str(token): {"logprob": -0.01 * (token % 7)}} for token in body["prompt"][1:]]
        return web.json_response({
            "choices": [{"text": "x", "finish_reason": "length", "prompt_logprobs": at}],
            "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1},
        })  # fmt: skip


def problem(status: int, message: str, **fields: Any) -> web.Response:
    headers = fields.pop("headers", None)
    return web.json_response({"error": {"message": message, "type": "error", **fields}}, status=status, headers=headers)


def as_call(body: dict[str, Any]) -> Call:
    """Return the call that a chat completion request puts."""
    wanted = body.get("response_format", {})
    output: Any = Text()
    if wanted.get("type") == "json_schema":
        output = Json(wanted["json_schema"]["schema"])
    elif body.get("logprobs"):
        output = Choice(("yes", "no"))
    messages = tuple((m["role"], m["content"]) for m in body["messages"])
    sampling = SamplingSettings(body.get("temperature"), body.get("top_p", 1.0), 1.0, body.get("max_tokens", 0))
    return Call(ModelId(body["model"], body["model"], ""), messages, output, sampling)


def moody(share: float, ways: tuple[str, ...] = WAYS, seed: int = 0) -> Callable[[], str | None]:
    """Return a function that fails this share of requests, in each way equally often."""
    luck = random.Random(seed)
    return lambda: luck.choice(ways) if luck.random() < share else None
