"""Replies that are made to take long: nested to any depth, compressed without end, with lists of any length."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
from aiohttp import web
from odd_servers import CALL, GRADE, YES_NO, chat, river, submit
from unreliable_server import UnreliableServer

from gra.core.errors import EngineUnavailable
from gra.engines.openai_server.engine import OpenAIEngine, ServerSettings
from gra.engines.openai_server.replies import read_models
from gra.engines.types import Completion, Fault

KEY = "sk-Zq81-hJ2nVt0Lx7Kd4Wp9Rb3Ym6Cg5Fs"
DEPTHS = (100, 300, 450, 600, 900, 1100, 2000, 5000)


@pytest.fixture(params=[False, True], ids=["no key", "key"])
def keyed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("MY_KEY", KEY)
    return {"api_key_env": "MY_KEY"} if request.param else {}


# --- depth ------------------------------------------------------------------------------------------------------------


def nested(begin: str, end: str, inner: str) -> list[str]:
    return [begin * depth + inner + end * depth for depth in DEPTHS]


LISTS, OBJECTS = nested("[", "]", f'"{KEY}"'), nested('{"a":', "}", f'"{KEY}"')
GOOD = json.dumps(chat())
PLACES = {
    "beside a completion": GOOD[:-1] + ', "x": DEEP}',
    "beside choices": '{"choices": [DEEP]}',
    "as content": GOOD.replace('"The Nile."', "DEEP"),
    "as thinking": GOOD.replace('"The Nile."', '[{"type": "thinking", "thinking": DEEP}]'),
    "as probabilities": GOOD.replace('"finish_reason"', '"logprobs": DEEP, "finish_reason"'),
    "as usage": GOOD[:-1] + ', "usage": DEEP}',
    "as an error": '{"error": DEEP}',
    "as a message": '{"error": {"message": DEEP}}',
    "as details": '{"detail": [{"msg": DEEP}]}',
    "as an answer": GOOD.replace('"The Nile."', json.dumps('{"grade": DEEP}')),
    "as all of it": "DEEP",
}
THINKING = nested('[{"type": "thinking", "thinking": ', "}]", f'"{KEY}"')


@pytest.mark.parametrize("place", PLACES)
def test_reply_of_any_depth_is_a_fault_or_a_completion(place: str, keyed: Any) -> None:
    bodies = [*LISTS, *OBJECTS, *(THINKING if "as" in place else ())]
    deep = cycle(bodies)  # a call may take more than one request
    status = [200]

    def instead(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if not body or "Say yes." in str(body):
            return None
        inner = next(deep)
        if "an answer" in place:
            inner = inner.replace('"', '\\"')
        return web.Response(text=PLACES[place].replace("DEEP", inner), status=status[0])

    async def scenario() -> None:
        async with UnreliableServer(river, instead=instead) as server:
            engine = OpenAIEngine("model-a", ServerSettings(server.base_url, "model-a", **keyed))
            await engine.start()
            engine.server.answers = 1  # an address that answered before, so that the run does not end
            try:
                for number in range(3 * len(bodies)):
                    status[0] = 400 if number > 2 * len(bodies) else 200
                    output = (CALL.output, GRADE, YES_NO)[number % 3]
                    try:
                        found = await engine.submit(replace(CALL, output=output))
                    except EngineUnavailable as error:
                        found = Fault("error", str(error))
                    assert isinstance(found, Fault | Completion)
                    assert not keyed or KEY[:8] not in repr(found)
            finally:
                await engine.unload()

    asyncio.run(scenario())


# --- compression ------------------------------------------------------------------------------------------------------


class Poured(web.StreamResponse):
    """Send a beginning, and then the same bytes without end."""

    def __init__(self, begin: bytes, more: bytes, status: int) -> None:
        super().__init__(status=status, headers={"Content-Encoding": "gzip"})
        self.sent = 0
        self.done = asyncio.Event()
        self._begin, self._more = begin, more

    async def prepare(self, request: web.BaseRequest) -> Any:
        started = await super().prepare(request)
        try:
            await self.write(self._begin)
            while True:
                await self.write(self._more)
                self.sent += len(self._more)
        except ConnectionError:
            self.done.set()
        return started

    async def write_eof(self, data: bytes = b"") -> None:
        return None


HEADER = b"\x1f\x8b\x08\x00\0\0\0\0\0\xff"
NAMED = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff"
NOTHING = b"\x00\x00\x00\xff\xff"  # a stored block of no bytes


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("begin", "more", "whole"),
    [
        (gzip.compress(GOOD.encode()), b"x", True),
        (gzip.compress(GOOD.encode()), gzip.compress(b" "), True),
        (NAMED, b"x", False),
        (HEADER, NOTHING, False),
    ],
    ids=["bytes after the end", "members after the end", "a file name", "empty blocks"],
)
def test_compressed_body_without_end_is_left_early(begin: bytes, more: bytes, whole: bool, status: int) -> None:
    poured: list[Poured] = []

    def instead(request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        if not body or "Say yes." in str(body):
            return None
        poured.append(Poured(begin, more * (2**16 // len(more)), status))
        return poured[-1]

    async def scenario() -> Completion | Fault:
        async with UnreliableServer(river, instead=instead) as server:
            engine = OpenAIEngine("model-a", ServerSettings(server.base_url, "model-a"))
            try:
                found = await asyncio.wait_for(engine.submit(CALL), 20)
                await asyncio.wait_for(poured[0].done.wait(), 20)  # the connection was closed
                return found
            finally:
                await engine.unload()

    found = asyncio.run(scenario())
    assert isinstance(found, Completion if whole and status == 200 else Fault)
    assert poured[0].sent < 16 * 2**20


@pytest.mark.parametrize("level", [0, 9])
def test_compressed_answer_as_long_as_is_allowed_is_read(level: int) -> None:
    text = json.dumps(chat("a" * (2**20 - 1000))).encode()
    packed = zlib.compress(text, level)
    server = UnreliableServer(
        river,
        instead=lambda request, body: (
            web.Response(body=packed, headers={"Content-Encoding": "deflate"}) if body else None
        ),
    )
    assert isinstance(submit(server, CALL)[0], Completion)


# --- lists of models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        [f"model-{number:06}" for number in range(250_000)],
        ["model-" + "a" * 15_000_000],
        [KEY[:8] + "model-" + "a" * 15_000_000],
        [KEY[:8] + "ab" * 2000 + str(number) for number in range(3500)],
    ],
    ids=["many", "long", "long with the key", "many with the key"],
)
@pytest.mark.parametrize("status", [200, 401])
def test_list_of_models_takes_bounded_time(names: list[str], status: int, keyed: Any) -> None:
    body = json.dumps({"data": [{"id": name, "owned_by": "vllm"} for name in ["model-b", *names]]}).encode()

    def instead(request: web.Request, sent: dict[str, Any]) -> web.Response | None:
        return web.Response(body=body, status=status) if request.path.endswith("/models") else None

    begun = time.process_time()
    with pytest.raises(EngineUnavailable) as caught:
        submit(UnreliableServer(river, instead=instead), CALL, **keyed)
    assert time.process_time() - begun < 6  # most of it to parse 16 MB of JSON
    assert len(str(caught.value)) < 5000
    assert not keyed or KEY[:8] not in str(caught.value)


def test_name_that_is_too_long_is_no_model() -> None:
    body = {"data": [{"id": "a" * 4096}, {"id": "b" * 4097}, {"id": ""}]}
    assert list(read_models(json.dumps(body).encode()) or {}) == ["a" * 4096]
