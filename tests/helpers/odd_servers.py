"""Calls to servers that answer oddly, for the tests of the engine for OpenAI-compatible servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from scripted_run import said
from unreliable_server import UnreliableServer, problem

from gra.engines.broker import Broker, EnginePool
from gra.engines.openai_server.engine import OpenAIEngine, ServerSettings
from gra.engines.types import Call, Choice, Completion, Fault, Json, ModelId, SamplingSettings, Text
from gra.ledger.ledger import Ledger

T = TypeVar("T")
SAMPLING = SamplingSettings(0.7, 0.95, 1.0, 256)
CALL = Call(ModelId("model-a", "openai:model-a@here", "server"), (("user", "Name a river."),), Text(), SAMPLING)
GRADE = Json({"type": "object", "properties": {"grade": {"type": "integer", "maximum": 10}}, "required": ["grade"]})
YES_NO = Choice(("yes", "no"))
BAD_PROMPT = "a bad prompt"


def river(call: Call) -> Completion:
    wants_json = isinstance(call.output, Json) or "JSON schema" in call.messages[-1][1]
    return said('{"grade": 7}' if wants_json else "The Nile.")


def chat(text: Any = "The Nile.", finish: Any = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": finish}]} | fields


def used(
    server: UnreliableServer, use: Callable[[OpenAIEngine], Awaitable[T]], path: str = "/v1", **settings: Any
) -> T:
    """Return what `use` makes of an engine on a running server."""

    async def scenario() -> T:
        async with server:
            address = server.base_url.removesuffix("/v1") + path
            engine = OpenAIEngine("model-a", ServerSettings(address, "model-a", **settings))
            try:
                return await use(engine)
            finally:
                await engine.unload()

    return asyncio.run(scenario())


def submit(server: UnreliableServer, *calls: Call, path: str = "/v1", **settings: Any) -> list[Completion | Fault]:
    async def use(engine: OpenAIEngine) -> list[Completion | Fault]:
        return [await engine.submit(call) for call in calls]

    return used(server, use, path, **settings)


def ask(server: UnreliableServer, folder: Path, *calls: Call, **settings: Any) -> list[Any]:
    """Return the outcomes of calls through a broker, one after another."""

    async def use(engine: OpenAIEngine) -> list[Any]:
        ledger = Ledger(folder / "ledger.sqlite", "test")
        broker = Broker(ledger, EnginePool({"model-a": engine}, 0.0), backoff_s=0.0)
        try:
            return [await broker.ask(call) for call in calls]
        finally:
            ledger.close()

    return used(server, use, **settings)


def always(reply: dict[str, Any] | bytes, status: int = 200, **options: Any) -> UnreliableServer:
    """Return a server that answers every call with this reply."""

    def instead(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if not body:
            return None
        if isinstance(reply, bytes):
            return web.Response(body=reply, status=status, content_type=options.get("content_type", "application/json"))
        return web.json_response(reply, status=status)

    return UnreliableServer(river, instead=instead)


def asks_for(body: dict[str, Any], text: str) -> bool:
    return any(text in message["content"] for message in body.get("messages", ()))


def turns_down(status: int, when: Callable[[dict[str, Any]], bool], **fields: Any) -> UnreliableServer:
    """Return a server that turns down some calls."""
    return UnreliableServer(
        river, instead=lambda request, body: problem(status, "No.", **fields) if body and when(body) else None
    )


BAD = replace(CALL, messages=(("user", BAD_PROMPT),))
