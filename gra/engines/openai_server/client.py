"""Send requests to one OpenAI-compatible server; return parsed replies and typed faults, or end the run.

The client is aiohttp. The `openai` package takes longer for a request, and its own retries would hide failures from the
ledger. The API key is sent to the server's own address alone: no redirect is followed and
no `.netrc` is read. It is removed from every text that the server sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import aiohttp

from gra.core.errors import EngineUnavailable, RecipeError
from gra.engines.openai_server.bodies import MIB, UnreadableBody, read_body
from gra.engines.openai_server.rate_limiter import RateLimiter
from gra.engines.openai_server.redaction import Redactor
from gra.engines.openai_server.replies import (
    Garbled,
    JsonObject,
    ModelCard,
    Problem,
    parse,
    problem_in,
    read_models,
    read_problem,
)
from gra.engines.types import Fault

T = TypeVar("T")

_CONNECT_S = 20.0
_LOOK_S = 30.0
_ERROR_BYTES = MIB
_MODELS_BYTES = 16 * MIB
# Replies without a completion, and not one with, after which the address or the server is wrong.
_NEVER_USABLE = 5
# OpenAI's and Anthropic's names for an account that has to be paid for or was closed; waiting does not help.
_ACCOUNT = {
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "payment_required",
    "insufficient_balance", "insufficient_credits", "account_deactivated", "access_terminated",
}  # fmt: skip


@dataclass(frozen=True)
class ServerSettings:
    """Where a model is served; times in seconds."""

    base_url: str
    model: str
    api_key_env: str | None = None
    concurrency: int = 64
    start_timeout_s: float = 900.0
    patience_s: float = 300.0  # nothing but failures for this long ends the run, resumably


class Server:
    """Send requests to one server and turn its replies into types."""

    def __init__(self, settings: ServerSettings) -> None:
        """Read the key from the environment.

        Raises:
            RecipeError: when the variable that should hold the key is not set, or holds no key.
        """
        self.settings = settings
        self.base = settings.base_url.rstrip("/")
        self.gate = RateLimiter(settings.concurrency)
        self.answers = 0  # replies of the kind that was asked for
        self._unusable = 0  # replies of another kind
        self._key = _key(settings.api_key_env)
        self._redactor = Redactor(self._key)
        self.clean = self._redactor.message
        self.clean_answer = self._redactor.text
        self._proxy = _proxy(self.base)
        self._session: aiohttp.ClientSession | None = None
        self._last = ""  # the last failure, for the sentence that ends the run

    @property
    def connected(self) -> bool:
        """Return whether requests can be sent."""
        return self._session is not None

    async def connect(self) -> dict[str, ModelCard]:
        """Open the connections and ask which models there are, waiting while the server says that it still loads.

        Returns:
            The served models by name; none from a server that does not list them.

        Raises:
            EngineUnavailable: when no server answers there, the address is of something else, or the key is refused.
        """
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the gate counts requests
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            headers=headers,
            trust_env=False,  # it would read credentials from .netrc
            auto_decompress=False,  # a small body may unpack to any size
        )
        try:
            status, body = await self._look(f"{self.base}/models")
            models = read_models(body) if status == 200 else None
            if models is None and (served_at := await self._versioned()):
                raise EngineUnavailable(
                    f"{self.base} is not the address of an API but {served_at} is; set `engine.base_url` to that"
                )
            if status == 401:  # with 403 a key may not list models and still be good for calls
                raise self.key_refused(self._safe(read_problem(body, status)))
            self._moved(status)
        except BaseException:
            await self.close()
            raise
        return models or {}

    async def _look(self, url: str) -> tuple[int, bytes]:
        until = time.monotonic() + self.settings.start_timeout_s
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    status, _, body = await self._exchange("GET", url, None, _MODELS_BYTES)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, UnreadableBody) as error:
                raise EngineUnavailable(
                    f"no server answers at {self.base} ({self.clean(_said(error))}); start it, or correct "
                    f"`engine.base_url` of `{self.settings.model}`"
                ) from None
            if status != 503 or time.monotonic() > until:
                return status, body
            await asyncio.sleep(2.0)

    async def _versioned(self) -> str | None:
        """Return the address below `/v1` when the API is there and not at the address that was given."""
        if self.base.endswith("/v1"):
            return None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError, UnreadableBody):
            async with asyncio.timeout(_LOOK_S):
                status, _, body = await self._exchange("GET", f"{self.base}/v1/models", None, _MODELS_BYTES)
            if status == 200 and read_models(body) is not None:
                return f"{self.base}/v1"
        return None

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[JsonObject], T], limit: int = MIB
    ) -> T | Problem | Fault:
        """Send one request to a path below the address.

        Args:
            path: Such as `/chat/completions`.
            body: The request.
            read: Turns a reply into a value, or raises Garbled.
            limit: The most bytes of a reply.

        Returns:
            What `read` made of the reply, the problem for which the server declined the request, or a fault.

        Raises:
            EngineUnavailable: when every request would end like this one.
        """
        reply = await self._post(f"{self.base}{path}", body, read, limit)
        self.answers += not isinstance(reply, Problem | Fault)
        return reply

    async def post_beside(
        self, path: str, body: Mapping[str, Any], read: Callable[[JsonObject], T], limit: int = MIB
    ) -> T | Problem | Fault:
        """Send one request to a path of vLLM's own, beside `/v1`; it may ask for no key."""
        return await self._post(f"{self.base.removesuffix('/v1')}{path}", body, read, limit)

    async def _post(
        self, url: str, body: Mapping[str, Any], read: Callable[[JsonObject], T], limit: int
    ) -> T | Problem | Fault:
        asked_at = self.gate.now()
        try:
            status, headers, content = await self._exchange("POST", url, json.dumps(body).encode(), limit)
        except aiohttp.ClientConnectorError as error:
            return self.failed(asked_at, "busy", f"{self.base} cannot be reached: {_said(error)}", overloaded=True)
        except TimeoutError:
            return self.failed(asked_at, "busy", f"{self.base} takes no connections", overloaded=True)
        except UnreadableBody as error:
            return self._not_usable(asked_at, str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self.failed(asked_at, "died", f"{self.base} broke the connection: {_said(error)}")
        if not 200 <= status < 300:
            return self._turned_down(read_problem(content, status), headers, asked_at)
        reply = parse(content)
        if not isinstance(reply, dict):
            return self._not_usable(asked_at, self._no_object(content))
        if (problem := problem_in(reply)) is not None:
            if problem.status or _is_account(problem):
                return self._turned_down(problem, headers, asked_at)
            return self._not_usable(asked_at, f"an error: {problem.message}")
        try:
            value = read(reply)
        except Garbled as error:
            return self._not_usable(asked_at, str(error))
        self.gate.answered()
        return value

    async def _exchange(
        self, method: str, url: str, data: bytes | None, limit: int
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request and read its reply into bounded memory."""
        if self._session is None:
            raise aiohttp.ClientConnectionError("the connections were closed")
        request = self._session.request(method, url, data=data, allow_redirects=False, proxy=self._proxy)
        async with request as response:
            most = limit if response.status == 200 else min(limit, _ERROR_BYTES)
            try:
                return response.status, response.headers, await read_body(response, most)
            except BaseException:
                response.close()
                raise

    def _turned_down(self, problem: Problem, headers: Mapping[str, str], asked_at: float) -> Problem | Fault:
        """Return what a status other than 200 means, and a status in the body of a 200."""
        status, problem = problem.status, self._safe(problem)
        if status == 402 or _is_account(problem):
            raise EngineUnavailable(
                f"the account at {self.base} cannot be used ({problem.message}); settle that with the service and run "
                "the same command again, recorded answers are kept"
            )
        if status in (409, 425, 429, 502, 503, 529):
            message = f"{self.base} is busy ({status}): {problem.message}"
            return self.failed(asked_at, "busy", message, overloaded=True, wait_s=retry_after(headers))
        if status in (408, 504, 524):
            return self.failed(asked_at, "timeout", f"{self.base} gave up ({status})", overloaded=True)
        if status >= 500:
            return self.failed(asked_at, "error", f"{self.base} failed ({status}): {problem.message}")
        self.gate.answered()
        if status == 401:
            raise self.key_refused(problem)
        self._moved(status)
        return problem

    def _not_usable(self, asked_at: float, found: str) -> Fault:
        """Return the fault of a reply that is no completion.

        Raises:
            EngineUnavailable: when no reply ever was one.
        """
        self._unusable += 1
        found = self.clean(found)
        fault = self.failed(asked_at, "error", f"{self.base} sent {found}")
        if self._unusable >= _NEVER_USABLE and not self.answers:
            advice = "" if self.base.endswith("/v1") else ", which usually ends in /v1"
            raise EngineUnavailable(
                f"the server at {self.base} has answered none of {self._unusable} calls; it sent {found}. "
                f"Check `engine.base_url`{advice}, and whether `{self.settings.model}` is served there"
            ) from None  # what is being handled may quote the server, and the key with it
        return fault

    @staticmethod
    def _no_object(content: bytes) -> str:
        kind = "a web page" if content.lstrip().startswith(b"<") else "a body that is cut off or not JSON"
        return f"{kind}: {read_problem(content).message}"

    def failed(
        self,
        asked_at: float,
        kind: Literal["timeout", "died", "error", "busy"],
        message: str,
        *,
        overloaded: bool = False,
        wait_s: float = 0.0,
    ) -> Fault:
        """Count a failure and return its fault.

        Raises:
            EngineUnavailable: when the server asks to wait, or gives nothing but failures, for too long.
        """
        self.gate.failed(asked_at, overloaded=overloaded, wait_s=wait_s)
        self._last = self.clean(message)
        if wait_s > self.settings.patience_s:
            raise EngineUnavailable(
                f"{self._last}. It asks to wait {wait_s / 60:.0f} minutes; run the same command again then, "
                "recorded answers are kept"
            ) from None
        self.be_patient()
        return Fault(kind, self._last)

    def be_patient(self) -> None:
        """End the run when nothing but failures has come back for too long.

        Raises:
            EngineUnavailable: when that is so.
        """
        if (silent := self.gate.silent_for()) > self.settings.patience_s:
            raise EngineUnavailable(
                f"the server at {self.base} has answered no call for {silent:.0f} s; last: {self._last}. "
                "Run the same command again when it does, recorded answers are kept"
            ) from None

    def key_refused(self, problem: Problem) -> EngineUnavailable:
        """Return the error that ends a run whose key is not accepted."""
        variable = self.settings.api_key_env
        known = f"check the key in {variable}" if variable else "name the variable that holds one in `api_key_env`"
        return EngineUnavailable(f"the API key was refused by {self.base} ({problem.message}); {known}")

    def not_served(self, problem: Problem) -> EngineUnavailable:
        """Return the error that ends a run whose model or address does not exist."""
        advice = "" if self.base.endswith("/v1") else "; check `engine.base_url`, which usually ends in /v1"
        return EngineUnavailable(f"`{self.settings.model}` is not served at {self.base} ({problem.message}){advice}")

    def _moved(self, status: int) -> None:
        if 300 <= status < 400:
            raise EngineUnavailable(f"{self.base} has moved elsewhere ({status}); correct `engine.base_url`")

    def _safe(self, problem: Problem) -> Problem:
        """Return a problem whose texts can be shown."""
        return Problem(
            self.clean(problem.message), self.clean(problem.param), self.clean(problem.code), self.clean(problem.kind),
            problem.status, self._redactor.text(problem.failed_generation),
        )  # fmt: skip


def _is_account(problem: Problem) -> bool:
    return bool({problem.code.lower(), problem.kind.lower()} & _ACCOUNT)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that the server asks to wait; 0 when it does not.

    They are in `retry-after-ms`, or in `Retry-After` in seconds or as a date.
    """
    with contextlib.suppress(KeyError, ValueError):
        return _seconds(float(headers["retry-after-ms"]) / 1000)
    value = headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return _seconds(float(value))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        until = email.utils.parsedate_to_datetime(value).timestamp()
        return _seconds(until - _sent_at(headers))
    return 0.0


def _seconds(value: float) -> float:
    return max(0.0, value) if math.isfinite(value) else 0.0


def _sent_at(headers: Mapping[str, str]) -> float:
    """Return when the server sent its reply, by its own clock; by this machine's clock where it does not say."""
    with contextlib.suppress(KeyError, ValueError, TypeError, OverflowError):
        return email.utils.parsedate_to_datetime(headers["Date"]).timestamp()
    return time.time()


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RecipeError(f"`engine.api_key_env` names {variable}, and this environment variable is not set")
    if not key.isascii() or not key.isprintable():
        raise RecipeError(f"{variable} holds characters that no key has; set it to the key alone, on one line")
    return key


def _proxy(base: str) -> str | None:
    """Return the proxy that the environment names for an address (`HTTPS_PROXY`, `NO_PROXY`); None for this machine."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    if host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme, proxies.get("all"))


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
