"""One connection to an OpenAI-compatible server: what comes back is a reply, a typed fault, or the end of the run.

The client is aiohttp: small per request, and unlike the `openai` package without retries of its own, which
would hide failures from the ledger. The API key lives in this process only; it is taken out of every text
that a server sends back.
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
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

from gra.core.errors import EngineUnavailable, RecipeError
from gra.engines.openai_server.rate_limiter import RateLimiter
from gra.engines.types import Fault

_CONNECT_S = 20.0
_LOOK_S = 30.0
_MESSAGE_CHARS = 300

Reply = dict[str, Any]


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
    param: str = ""
    code: str = ""
    kind: str = ""


class Server:
    """Requests to one server, and what its replies mean."""

    def __init__(self, settings: ServerSettings) -> None:
        """Read the key from the environment.

        Raises:
            RecipeError: when the variable that should hold the key is not set.
        """
        self.settings = settings
        self.base = settings.base_url.rstrip("/")
        self.gate = RateLimiter(settings.concurrency)
        self._key = _key(settings.api_key_env)
        self._session: aiohttp.ClientSession | None = None
        self._last = ""  # what went wrong last, for whoever reads why the run ended

    @property
    def connected(self) -> bool:
        """Whether requests can be sent."""
        return self._session is not None

    async def connect(self) -> dict[str, Reply]:
        """Open the connections and ask which models there are; waits while the server says that it is still loading.

        Returns the cards of the models by name; none from a server that does not say.

        Raises:
            EngineUnavailable: when nobody answers there, or the key is refused.
        """
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        local = urlsplit(self.base).hostname in ("localhost", "127.0.0.1", "::1")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the gate counts requests
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            headers=headers,
            trust_env=not local,
        )
        try:
            status, body = await self._look(self._session)
            if status != 404:
                self._refuse(status, _problem(body))
        except BaseException:
            await self.close()
            raise
        listed = _parsed(body).get("data") if status == 200 else None
        return {str(card.get("id")): card for card in listed or () if isinstance(card, dict)}

    async def _look(self, session: aiohttp.ClientSession) -> tuple[int, bytes]:
        until = time.monotonic() + self.settings.start_timeout_s
        while True:
            try:
                async with asyncio.timeout(_LOOK_S), session.get(f"{self.base}/models") as response:
                    status, body = response.status, await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise EngineUnavailable(
                    f"no server answers at {self.base} ({self.clean(_said(error))}); start it, or correct "
                    f"`engine.base_url` of `{self.settings.model}`"
                ) from None
            if status != 503 or time.monotonic() > until:
                return status, body
            await asyncio.sleep(2.0)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply | Declined | Fault:
        """Send one request to a path below the address; what came back, by type.

        Raises:
            EngineUnavailable: when every request would end like this one.
        """
        return await self._post(f"{self.base}{path}", body)

    async def post_beside(self, path: str, body: Mapping[str, Any]) -> Reply | Declined | Fault | None:
        """The same for vLLM's own paths, which lie beside `/v1`; None where there is no such path."""
        return await self._post(f"{self.base.removesuffix('/v1')}{path}", body, optional=True) or None

    async def _post(self, url: str, body: Mapping[str, Any], *, optional: bool = False) -> Reply | Declined | Fault:
        assert self._session is not None
        asked_at = self.gate.now()
        try:
            async with self._session.post(url, data=json.dumps(body).encode(), allow_redirects=False) as response:
                status, headers, content = response.status, response.headers, await response.read()
        except aiohttp.ClientConnectorError as error:
            return self.failed(asked_at, "busy", f"{self.base} cannot be reached: {_said(error)}", overloaded=True)
        except TimeoutError:
            return self.failed(asked_at, "busy", f"{self.base} takes no connections", overloaded=True)
        except aiohttp.ClientError as error:
            return self.failed(asked_at, "died", f"{self.base} broke the connection: {_said(error)}")
        if status == 404 and optional:
            return {}
        if status != 200:
            return self._turned_down(status, headers, content, asked_at)
        reply = _parsed(content)
        if not reply:
            return self.failed(asked_at, "error", f"{self.base} sent a body that is cut off or not JSON")
        self.gate.answered()
        return reply

    def _turned_down(
        self, status: int, headers: Mapping[str, str], content: bytes, asked_at: float
    ) -> Reply | Declined | Fault:
        """What a status other than 200 means."""
        problem = _problem(content)
        if status in (429, 502, 503, 529):
            if "insufficient_quota" in (problem.code, problem.kind):
                raise EngineUnavailable(f"{self.base} says that the quota is used up: {self.clean(problem.message)}")
            message = f"{self.base} is busy ({status}): {problem.message}"
            return self.failed(asked_at, "busy", message, overloaded=True, wait_s=retry_after(headers))
        if status in (408, 504, 524):
            return self.failed(asked_at, "timeout", f"{self.base} gave up ({status})", overloaded=True)
        if status >= 500:
            return self.failed(asked_at, "error", f"{self.base} failed ({status}): {problem.message}")
        self.gate.answered()
        self._refuse(status, problem)
        if problem.code == "content_filter":
            return {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}
        return Declined(self.clean(problem.message), problem.param, problem.code, problem.kind)

    def failed(
        self,
        asked_at: float,
        kind: Literal["timeout", "died", "error", "busy"],
        message: str,
        *,
        overloaded: bool = False,
        wait_s: float = 0.0,
    ) -> Fault:
        """A fault, told to the gate.

        Raises:
            EngineUnavailable: when the server asks to wait, or gives nothing but failures, for too long.
        """
        self.gate.failed(asked_at, overloaded=overloaded, wait_s=wait_s)
        self._last = self.clean(message)
        if wait_s > self.settings.patience_s:
            raise EngineUnavailable(
                f"{self._last}. It asks to wait {wait_s / 60:.0f} minutes; run the same command again then, "
                "recorded answers are kept"
            )
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
            )

    def _refuse(self, status: int, problem: Declined) -> None:
        """End the run when every request would get this status."""
        where = f"{self.base} ({self.clean(problem.message)})"
        if status in (401, 403):
            variable = self.settings.api_key_env
            known = f"check the key in {variable}" if variable else "name the variable that holds one in `api_key_env`"
            raise EngineUnavailable(f"the API key was refused by {where}; {known}")
        if status == 404:
            raise EngineUnavailable(f"`{self.settings.model}` is not served at {where}")
        if 300 <= status < 400:
            raise EngineUnavailable(f"{self.base} has moved elsewhere ({status}); correct `engine.base_url`")

    def clean(self, text: str) -> str:
        """A text from outside, short, on one line, and without the key."""
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:_MESSAGE_CHARS]


def _problem(body: bytes) -> Declined:
    """The error object of a reply, as far as it has one."""
    found = _parsed(body).get("error")
    if isinstance(found, str):
        return Declined(found)
    if not isinstance(found, dict):
        return Declined(body[: 2 * _MESSAGE_CHARS].decode(errors="replace"))
    return Declined(*(str(found.get(key) or "") for key in ("message", "param", "code", "type")))


def _parsed(body: bytes) -> Reply:
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
        until = email.utils.parsedate_to_datetime(value).timestamp()
        return max(0.0, until - _sent_at(headers))
    return 0.0


def _sent_at(headers: Mapping[str, str]) -> float:
    """When the server says it answered, by the clock that its dates are of; by ours where it does not."""
    with contextlib.suppress(KeyError, ValueError, TypeError):
        return email.utils.parsedate_to_datetime(headers["Date"]).timestamp()
    return time.time()


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RecipeError(f"`engine.api_key_env` names {variable}, and this environment variable is not set")
    return key


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
