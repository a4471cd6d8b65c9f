"""The desk's web application: one page, its data as JSON, and decisions.

Everything lies below a token in the address, so other users of the machine and other pages reach nothing. The page
loads nothing from elsewhere and runs no script but its own. Requests with a foreign host name are refused, because
another site's name may be made to lead here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gra.core.errors import GraError
from gra.core.text.characters import well_formed
from gra.core.text.plain_text import printable
from gra.core.vocabulary import HumanVerdict
from gra.desk.desk import DecisionRequest, Desk, Undecidable
from gra.desk.index import ORDERS, Filters

HOSTS = ("127.0.0.1", "localhost")
_STATIC = Path(__file__).parent / "static"
_FILES = {"": "desk.html"} | {name: name for name in ("desk.js", "decide.js", "estimate.js", "desk.css", "icon.svg")}
_PAGE = 50
_LARGEST_BODY = 9_000_000  # bytes
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


def make_app(desk: Desk, token: str) -> ASGIApp:
    """Return the web application of a desk.

    Args:
        desk: the run, already started.
        token: the first part of every address.
    """
    handlers = _Handlers(desk)
    routes = [
        *(Route(f"/{{token}}/{path}", _file(name)) for path, name in _FILES.items()),
        Route("/{token}/api/status", handlers.status),
        Route("/{token}/api/rows", handlers.rows),
        Route("/{token}/api/candidate", handlers.candidate),
        Route("/{token}/api/calls", handlers.calls),
        Route("/{token}/api/estimate", handlers.estimate),
        Route("/{token}/api/decide", handlers.decide, methods=["POST"]),
    ]
    return _Guard(Starlette(routes=routes), token)


class _Guard:
    """Refuse requests without the token or with a foreign host name, and add headers to every response."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        request = Request(scope)
        host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        if host not in HOSTS:
            return PlainTextResponse("This desk answers on 127.0.0.1 only.", 421)
        given = scope["path"].lstrip("/").partition("/")[0]
        if not secrets.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            sentence = "The token in the address is wrong; copy the whole address that `gra review` printed."
            return PlainTextResponse(sentence, 403)
        return None


def _file(name: str) -> Any:
    async def send(request: Request) -> Response:
        return FileResponse(_STATIC / name)

    return send


def _json(content: object, status: int = 200) -> Response:
    return JSONResponse(_encodable(content), status)


def _encodable(value: Any) -> Any:
    """Return a value without half surrogate pairs, which no response can hold."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_encodable(part) for part in value]
    if isinstance(value, dict):
        return {key: _encodable(part) for key, part in value.items()}
    return value


def _refuse(sentence: object, status: int = 400) -> Response:
    return _json({"error": printable(sentence)}, status)


class _Handlers:
    """Answers of the desk; those that read files run in threads."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def status(self, request: Request) -> Response:
        return _json(self._desk.status())

    def rows(self, request: Request) -> Response:
        try:
            filters, order, offset = _filters(request.query_params)
        except ValueError as error:
            return _refuse(error)
        changed = self._desk.index.changed
        rows, count = self._desk.rows(filters, order, offset, _PAGE)
        return _json({"rows": rows, "count": count, "offset": offset, "changed": changed})

    def estimate(self, request: Request) -> Response:
        try:
            return _json(self._desk.estimate())
        except GraError as error:
            return _refuse(error, 500)

    def candidate(self, request: Request) -> Response:
        return self._of_candidate(self._desk.candidate, request)

    def calls(self, request: Request) -> Response:
        return self._of_candidate(self._desk.calls, request)

    def _of_candidate(self, read: Any, request: Request) -> Response:
        name = request.query_params.get("id", "")
        try:
            found = read(name)
        except GraError as error:
            return _refuse(error, 500)
        return _refuse(f"there is no candidate {name[:80]}", 404) if found is None else _json(found)

    async def decide(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        if not request.headers.get("content-type", "").startswith("application/json"):
            return _refuse("a decision is sent as application/json", 415)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_BODY:
                return _refuse("the texts are too long", 413)
        try:
            asked = _decision(bytes(body))
        except (ValueError, KeyError, TypeError, RecursionError):
            return _refuse("the decision cannot be read; load the page again")
        try:
            decision = await run_in_threadpool(self._desk.decide, asked)
        except Undecidable as error:
            return _refuse(error, 409)
        except GraError as error:
            return _refuse(f"not recorded: {error}", 500)
        return _json({"reviewer": decision.reviewer, "verdict": decision.verdict, "written": decision.written})


def _decision(body: bytes) -> DecisionRequest:
    content = json.loads(body)
    texts = {name: content.get(name, "") for name in ("instruction", "response")}
    values = {name: content[name] for name in ("name", "candidate", "subject")} | texts
    if not all(isinstance(value, str) for value in values.values()):
        raise TypeError
    whole = {name: well_formed(value) for name, value in values.items()}
    return DecisionRequest(verdict=HumanVerdict(content["verdict"]), **whole)


def _filters(given: Mapping[str, str]) -> tuple[Filters, str, int]:
    """Return filters, order and offset of a list's address.

    Raises:
        ValueError: a value makes no sense, as a sentence.
    """
    order = given.get("order", "listed")
    if order not in ORDERS:
        raise ValueError(f"there is no order {order[:40]}")
    offset = given.get("offset", "0")
    if not offset.isascii() or not offset.isdigit() or len(offset) > 9:
        raise ValueError("`offset` is a whole number")
    filters = Filters(
        state=given.get("state", ""),
        step=given.get("step", ""),
        domain=given.get("domain", ""),
        kind=given.get("kind", ""),
        text=given.get("text", ""),
        decided=given.get("decided", ""),
        disputed=given.get("disputed") == "1",
        low=_score(given, "low"),
        high=_score(given, "high"),
    )
    return filters, order, int(offset)


def _score(given: Mapping[str, str], name: str) -> float | None:
    if not given.get(name):
        return None
    try:
        return float(given[name])
    except ValueError:
        raise ValueError(f"`{name}` is a score from 0 to 10") from None
