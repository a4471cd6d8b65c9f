"""The engine for OpenAI-compatible servers: `vllm serve`, llama.cpp, Ollama, and paid services.

One HTTP connection pool per model (aiohttp: by far the cheapest per request of the clients at hand, and
without retries of its own that would hide failures from the ledger). Whatever the server does becomes a
completion, a typed fault, or, when no call can ever succeed, one clear error that ends the run resumably.
The API key lives in this process only; it is taken out of every text that a server sends back.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from gra.core.errors import EngineUnavailable, RecipeError
from gra.core.recipe import did_you_mean
from gra.engines import dialect
from gra.engines.protocol import Call, Choice, Completion, EngineStats, Fault, Likelihood
from gra.engines.traffic import Traffic

_CONNECT_S = 20.0
_LOOK_S = 30.0
# So many calls declined and none ever taken: the recipe asks for something this server does not do.
_ALL_DECLINED = 10
_MESSAGE_CHARS = 300


@dataclass(frozen=True)
class ServerSettings:
    """Where a model is served; times in seconds."""

    base_url: str
    model: str
    api_key_env: str | None = None
    concurrency: int = 64
    start_timeout_s: float = 900.0
    patience_s: float = 300.0  # nothing but failures for so long ends the run, resumably


@dataclass(frozen=True, slots=True)
class Declined:
    """The server understood the request and will not do it (400, 413, 422)."""

    message: str
    param: str
    code: str


class OpenAIEngine:
    """One model behind an OpenAI-compatible server."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        """Read the key from the environment.

        Raises:
            RecipeError: when the variable that should hold the key is not set.
        """
        self.name = name
        self.concurrency = settings.concurrency
        self.memory_gb = 0.0
        self.stats = EngineStats()
        self.gate = Traffic(settings.concurrency)
        self.settings = settings
        self._base = settings.base_url.rstrip("/")
        self._key = _key(settings.api_key_env)
        self._session: aiohttp.ClientSession | None = None
        self._starting = asyncio.Lock()
        self._vllm = False
        self._context: int | None = None
        self._length_key = "max_tokens"
        self._known: dict[str, int] = {}  # which form of a question this server takes
        self._label_ids: dict[tuple[str, ...], dict[str, int] | None] = {}
        self._declined = 0

    # --- start and end ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and learn what the server is; waits while it says that it is still loading.

        Raises:
            EngineUnavailable: when nobody answers there, the key is refused, or the model is not served.
        """
        async with self._starting:
            if self._session is None:
                begun = time.monotonic()
                session = self._connect()
                try:
                    await self._look(session, begun + self.settings.start_timeout_s)
                except BaseException:
                    await session.close()
                    raise
                self._session = session
                self.stats.starts += 1
                self.stats.started_in = time.monotonic() - begun

    async def park(self) -> None:
        """Close the connections; there is no memory to give back."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connect(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        local = urlsplit(self._base).hostname in ("localhost", "127.0.0.1", "::1")
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the gate counts requests
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            headers=headers,
            trust_env=not local,
        )

    async def _look(self, session: aiohttp.ClientSession, until: float) -> None:
        """Ask which models there are; servers that do not say are taken at the recipe's word."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_S), session.get(f"{self._base}/models") as response:
                    status, body = response.status, await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise EngineUnavailable(
                    f"no server answers at {self._base} ({self._clean(_said(error))}); start it, or correct "
                    f"`engine.base_url` of `{self.name}`"
                ) from None
            if status != 503 or time.monotonic() > until:
                break
            await asyncio.sleep(2.0)
        if status != 404:
            self._refuse(status, _error(body))
        content = _parsed(body)
        cards = [card for card in content.get("data") or [] if isinstance(card, dict)] if status == 200 else []
        served = {str(card.get("id")): card for card in cards}
        self._vllm = any(card.get("owned_by") == "vllm" for card in cards)
        if self._vllm and self.settings.model not in served:
            hint = did_you_mean(self.settings.model, list(served)) or f"; it serves {', '.join(served)}"
            raise EngineUnavailable(f"the server at {self._base} does not serve `{self.settings.model}`{hint}")
        limit = served.get(self.settings.model, {}).get("max_model_len")
        self._context = limit if isinstance(limit, int) else None

    # --- calls ------------------------------------------------------------------------------------------------------

    async def submit(self, call: Call) -> Completion | Fault:
        """Answer one call.

        Raises:
            EngineUnavailable: when no call can succeed: key refused, no such model, no answer for too long, or a
                kind of question that this server cannot answer at all.
        """
        if self._session is None:
            await self.start()
        begun, asked_at = time.monotonic(), self.gate.now()
        try:
            reply = await (self._likelihood(call) if isinstance(call.output, Likelihood) else self._chat(call))
        except asyncio.CancelledError:  # the broker's time limit: a server that hangs may be asked too much
            self.gate.failed(asked_at, overloaded=True)
            raise
        except dialect.Garbled as error:
            return Fault("error", f"{self._base} answered something that cannot be read: {error}")
        if isinstance(reply, Completion):
            self._declined = 0
            self.stats.calls += 1
            self.stats.prompt_tokens += reply.prompt_tokens
            self.stats.completion_tokens += reply.completion_tokens
            self.stats.cached_tokens += reply.cached_tokens
            self.stats.busy_seconds += time.monotonic() - begun
        return reply

    async def _chat(self, call: Call) -> Completion | Fault:
        """Go down the forms of the question until the server takes one, and remember which."""
        ids = await self._first_tokens(call.output.labels) if isinstance(call.output, Choice) else None
        forms = dialect.forms(call, tuple(ids.values()) if ids else None)
        question = dialect.question(call)
        reason = ""
        for place in range(self._known.get(question, 0), len(forms)):
            reply = await self._sized(call, forms[place])
            if isinstance(reply, Fault):
                return reply
            if isinstance(reply, Declined):
                reason = reason or reply.message
                continue
            if not forms[place].enough:
                raise EngineUnavailable(self._no_probabilities())
            try:
                completion = dialect.read_completion(call, reply, ids)
            except dialect.NoProbabilities:
                raise EngineUnavailable(self._no_probabilities()) from None
            self._known[question] = place
            return completion
        return self._declines(reason)

    async def _sized(self, call: Call, form: dialect.Form) -> dict[str, Any] | Declined | Fault:
        """One request; OpenAI's newer models want the length limit under its newer name."""
        body = dialect.payload(call, form, self.settings.model, self._length_key)
        reply = await self._post("/chat/completions", body)
        if isinstance(reply, Declined) and reply.param == "max_tokens" and reply.code == "unsupported_parameter":
            self._length_key = "max_completion_tokens"
            body = dialect.payload(call, form, self.settings.model, self._length_key)
            reply = await self._post("/chat/completions", body)
        return reply

    async def _likelihood(self, call: Call) -> Completion | Fault:
        """vLLM's probabilities of the prompt's tokens, the answer being part of the prompt."""
        assert isinstance(call.output, Likelihood)
        messages = [{"role": role, "content": content} for role, content in call.messages]
        prompt = await self._tokenize({"messages": messages, "add_generation_prompt": True})
        answer = await self._tokenize({"prompt": call.output.answer, "add_special_tokens": False})
        if isinstance(prompt, Fault):
            return prompt
        if isinstance(answer, Fault):
            return answer
        if prompt is None or answer is None:
            raise EngineUnavailable(
                f"`{self.name}` is asked by likelihood, and the server at {self._base} does not give the probability "
                "of a given text (vLLM's does); set `ask: integers` for this member, or run it with `kind: vllm`"
            )
        if self._context is not None and len(prompt) + len(answer) >= self._context:
            message = f"the prompt has {len(prompt) + len(answer)} tokens and the context holds {self._context}"
            return Fault("error", message, permanent=True)
        reply = await self._post("/completions", dialect.likelihood_payload(self.settings.model, prompt, answer))
        if isinstance(reply, Fault):
            return reply
        if isinstance(reply, Declined):
            return self._declines(reply.message)
        return dialect.read_likelihood(call, reply, prompt, answer)

    async def _first_tokens(self, labels: tuple[str, ...]) -> dict[str, int] | None:
        """The first token of each label where the server shows its tokenizer; None elsewhere."""
        if labels not in self._label_ids:
            found: dict[str, int] = {}
            for label in labels:
                tokens = await self._tokenize({"prompt": label, "add_special_tokens": False})
                if isinstance(tokens, Fault):
                    return None  # for this call; asked again for the next
                if tokens:
                    found[label] = tokens[0]
            if 0 < len(set(found.values())) < len(labels) and len(found) == len(labels):
                raise EngineUnavailable(
                    f"the labels {list(labels)} do not differ in their first token under the tokenizer of `{self.name}`"
                )
            self._label_ids[labels] = found if len(found) == len(labels) else None
        return self._label_ids[labels]

    async def _tokenize(self, request: Mapping[str, Any]) -> list[int] | Fault | None:
        """Token ids from vLLM's own endpoint; None where there is none."""
        if not self._vllm:
            return None
        body = {"model": self.settings.model, **request}
        reply = await self._post("/tokenize", body, base=self._base.removesuffix("/v1"), optional=True)
        if isinstance(reply, Declined):
            return self._declines(reply.message)
        if isinstance(reply, Fault):
            return None if reply.permanent else reply
        tokens = reply.get("tokens")
        return tokens if isinstance(tokens, list) else None

    def _declines(self, reason: str) -> Fault:
        """The call is impossible here; when no call ever was possible, the run is."""
        self._declined += 1
        if self._declined >= _ALL_DECLINED and not self.stats.calls:
            raise EngineUnavailable(
                f"the server at {self._base} declined the first {self._declined} calls to `{self.name}`: {reason}"
            )
        return Fault("error", f"the server declined the call: {reason}", permanent=True)

    def _no_probabilities(self) -> str:
        return (
            f"`{self.name}` is asked for probabilities of labels, and the server at {self._base} gives none "
            "(`logprobs`, `top_logprobs`); set `ask: integers` for this member, or serve it with vLLM"
        )

    # --- one request ------------------------------------------------------------------------------------------------

    async def _post(
        self, path: str, body: Mapping[str, Any], *, base: str | None = None, optional: bool = False
    ) -> dict[str, Any] | Declined | Fault:
        """Send one request; what came back, by type. `optional` paths that are not there are a permanent fault."""
        assert self._session is not None
        url, asked_at = f"{base or self._base}{path}", self.gate.now()
        try:
            async with self._session.post(url, data=json.dumps(body).encode(), allow_redirects=False) as response:
                status, headers, content = response.status, response.headers, await response.read()
        except aiohttp.ClientConnectorError as error:
            return self._failed(asked_at, "busy", f"{self._base} cannot be reached: {_said(error)}", overloaded=True)
        except TimeoutError:
            return self._failed(asked_at, "busy", f"{self._base} takes no connections", overloaded=True)
        except aiohttp.ClientError as error:
            return self._failed(asked_at, "died", f"{self._base} broke the connection: {_said(error)}")
        if status != 200:
            return self._turned_down(status, headers, content, asked_at, optional)
        reply = _parsed(content)
        if not reply:
            return self._failed(asked_at, "error", f"{self._base} sent a body that is cut off or not JSON")
        self.gate.answered()
        return reply

    def _turned_down(
        self, status: int, headers: Mapping[str, str], content: bytes, asked_at: float, optional: bool
    ) -> dict[str, Any] | Declined | Fault:
        """What a status other than 200 means."""
        problem = _error(content)
        if status == 429 or status in (502, 503, 529):
            if "insufficient_quota" in (problem.code, problem.kind):
                raise EngineUnavailable(f"{self._base} says that the quota is used up: {self._clean(problem.message)}")
            message = f"{self._base} is busy ({status}): {problem.message}"
            return self._failed(asked_at, "busy", message, overloaded=True, wait_s=retry_after(headers))
        if status in (408, 504, 524):
            return self._failed(asked_at, "timeout", f"{self._base} gave up ({status})", overloaded=True)
        if status >= 500:
            return self._failed(asked_at, "error", f"{self._base} failed ({status}): {problem.message}")
        self.gate.answered()
        if status == 404 and optional:
            return Fault("error", "not there", permanent=True)
        self._refuse(status, problem)
        if problem.code == "content_filter":
            return {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}
        return Declined(self._clean(problem.message), problem.param, problem.code)

    def _failed(
        self, asked_at: float, kind: Any, message: str, *, overloaded: bool = False, wait_s: float = 0.0
    ) -> Fault:
        """A fault, told to the gate; too many in a row end the run."""
        self.gate.failed(asked_at, overloaded=overloaded, wait_s=wait_s)
        message = self._clean(message)
        patience = self.settings.patience_s
        if wait_s > patience:
            raise EngineUnavailable(
                f"{message}. It asks to wait {wait_s / 60:.0f} minutes; run the same command again then, "
                "recorded answers are kept"
            )
        if self.gate.silent_for() > patience:
            raise EngineUnavailable(
                f"the server at {self._base} has answered no call for {self.gate.silent_for():.0f} s; last: {message}. "
                "Run the same command again when it does, recorded answers are kept"
            )
        return Fault(kind, message)

    def _refuse(self, status: int, problem: _Error) -> None:
        """End the run when every call would get this status."""
        where = f"{self._base} ({self._clean(problem.message)})"
        if status in (401, 403):
            variable = self.settings.api_key_env
            known = f"check the key in {variable}" if variable else "name the variable that holds one in `api_key_env`"
            raise EngineUnavailable(f"the API key was refused by {where}; {known}")
        if status == 404:
            raise EngineUnavailable(f"`{self.settings.model}` is not served at {where}")
        if 300 <= status < 400:
            raise EngineUnavailable(f"{self._base} has moved elsewhere ({status}); correct `engine.base_url`")

    def _clean(self, text: str) -> str:
        """A text from outside, short, on one line, and without the key."""
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:_MESSAGE_CHARS]


@dataclass(frozen=True, slots=True)
class _Error:
    """The error object of a reply, as far as it has one."""

    message: str = ""
    param: str = ""
    code: str = ""
    kind: str = ""


def _error(body: bytes) -> _Error:
    found = _parsed(body).get("error")
    if isinstance(found, str):
        return _Error(found)
    if not isinstance(found, dict):
        return _Error(body[: 2 * _MESSAGE_CHARS].decode(errors="replace"))
    return _Error(*(str(found.get(key) or "") for key in ("message", "param", "code", "type")))


def _parsed(body: bytes) -> dict[str, Any]:
    """A JSON object; empty when the body is none."""
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(body)
        if isinstance(content, dict):
            return content
    return {}


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date; 0 without."""
    with contextlib.suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    value = headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RecipeError(f"`engine.api_key_env` names {variable}, and this environment variable is not set")
    return key


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
