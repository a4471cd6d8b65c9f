"""Servers that attack: the API key sent back, replies of wrong types, bodies without end, redirects."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from odd_servers import CALL, GRADE, YES_NO, always, ask, chat, river, submit
from unreliable_server import UnreliableServer

from gra.config.committee import BackendConfig
from gra.core.errors import EngineUnavailable, RecipeError
from gra.engines.openai_server.client import Server, ServerSettings
from gra.engines.openai_server.engine import OpenAIEngine
from gra.engines.openai_server.redaction import Redactor
from gra.engines.types import Answer, Completion, Fault, Likelihood

KEY = "sk-Zq81-hJ2nVt0Lx7Kd4Wp9Rb3Ym6Cg5Fs"
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)

# --- the key --------------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("MY_KEY", KEY)
    return {"api_key_env": "MY_KEY"}


def holds_part(text: str) -> bool:
    return any(KEY[at : at + 8] in text for at in range(len(KEY) - 7))


@pytest.mark.parametrize(
    "text",
    [
        f"Your key is {KEY}.",
        f"It begins {KEY[:12]} and ends {KEY[-9:]}",
        KEY,
        KEY * 3,
        KEY[3:11],
        f"<think>{KEY}</think>The Nile.",
        f"{KEY[:20]} {KEY[20:]}",
    ],
)
def test_key_in_an_answer_is_recorded_nowhere(text: str, keyed: Any, tmp_path: Path) -> None:
    found = ask(always(chat(text)), tmp_path, CALL, **keyed)[0]
    assert not holds_part(repr(found))
    for file in tmp_path.rglob("*"):
        assert not holds_part(file.read_bytes().decode(errors="replace"))


@pytest.mark.parametrize("content", [KEY, ESCAPED, f"{ESCAPED[:60]}{KEY[10:]}"])
def test_key_in_json_is_removed_also_where_escapes_hide_it(content: str, keyed: Any, tmp_path: Path) -> None:
    call = replace(CALL, output=replace(GRADE, schema={"type": "object", "properties": {"why": {"type": "string"}}}))
    for text in (f'{{"why": "{content}"}}', f'Here: {{"why": "{content}"}} so.'):
        found = ask(always(chat(text)), tmp_path, replace(call, sample=len(text)), **keyed)[0]
        assert isinstance(found, Answer)
        assert set(found.value["why"]) == {"*"}


@pytest.mark.parametrize("blanks", [0, 1, 290, 565, 600])
@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500])
def test_key_in_an_error_is_removed_before_the_error_is_cut(status: int, blanks: int, keyed: Any) -> None:
    gap = "word " * (blanks // 5) + " " * (blanks % 5)
    for body in (gap + " " * blanks + KEY, json.dumps({"error": {"message": gap + KEY, "code": KEY, "param": KEY}})):
        try:
            shown = repr(submit(always(body.encode(), status), CALL, **keyed))
        except EngineUnavailable as error:
            shown = str(error) + repr(vars(error))
        assert not holds_part(shown)


def test_key_as_a_models_name_is_not_shown(keyed: Any) -> None:
    with pytest.raises(EngineUnavailable, match="does not serve") as caught:
        submit(UnreliableServer(river, models=(KEY, f"model-{KEY[:20]}"), vllm=True), CALL, **keyed)
    assert not holds_part(str(caught.value))


def test_control_characters_of_a_server_are_not_shown() -> None:
    found = submit(always({"error": {"message": "\x1b[31mred\x07\u202e"}}, 500), CALL)[0]
    assert isinstance(found, Fault)
    assert found.message.isprintable()


@given(st.text(max_size=60), st.text(max_size=60), st.integers(0, len(KEY) - 8), st.integers(8, len(KEY)))
def test_redactor_removes_every_part_of_eight_characters(before: str, after: str, begin: int, length: int) -> None:
    redactor = Redactor(KEY)
    found = redactor.text(before + KEY[begin : begin + length] + after)
    assert not holds_part(found)
    assert redactor.text(before + after) == before + after or holds_part(before + after)


@pytest.mark.parametrize("placeholder", ["EMPTY", "not-needed", "required", "x"])
def test_placeholder_for_a_key_changes_no_answer(placeholder: str) -> None:
    assert Redactor(placeholder).text(f"It is {placeholder}.") == f"It is {placeholder}."


@pytest.mark.parametrize("value", ["sk-a\nb-0123456789", "schlüssel-0123456789", "sk-\x07-0123456789"])
def test_key_that_no_header_can_hold_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(RecipeError, match="characters that no key has") as caught:
        OpenAIEngine("m", ServerSettings("http://here/v1", "m", "MY_KEY"))
    assert value not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed_with_the_key(status: int, keyed: Any) -> None:
    seen: list[Any] = []

    def note(request: web.Request, body: dict[str, Any]) -> None:
        seen.append(request.headers.get("Authorization"))

    async def scenario() -> None:
        async with UnreliableServer(river, instead=note, elsewhere=True) as other:
            moved = UnreliableServer(
                river,
                instead=lambda request, body: web.Response(
                    status=status, headers={"Location": f"http://localhost:{other.port}/v1/models"}
                ),
            )
            async with moved:
                engine = OpenAIEngine("model-a", ServerSettings(moved.base_url, "model-a", **keyed))
                try:
                    await engine.start()
                finally:
                    await engine.unload()

    with pytest.raises(EngineUnavailable, match="moved elsewhere"):
        asyncio.run(scenario())
    assert seen == []


def test_entry_of_netrc_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password mine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    seen: list[Any] = []

    def note(request: web.Request, body: dict[str, Any]) -> None:
        seen.append(request.headers.get("Authorization"))

    monkeypatch.setattr("gra.engines.openai_server.client.urlsplit", lambda address: replace_host(address))
    submit(UnreliableServer(river, instead=note), CALL)
    assert seen
    assert set(seen) == {None}


def replace_host(address: str) -> Any:
    """Return the parts of an address as if it were on another machine."""
    from urllib.parse import urlsplit

    return urlsplit(address.replace("127.0.0.1", "elsewhere.example"))


def test_proxy_of_the_environment_is_used_for_other_machines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")

    def proxy(address: str) -> str | None:
        return Server(ServerSettings(address, "m"))._proxy

    assert proxy("https://api.example/v1") == "http://proxy:3128"
    assert proxy("http://localhost:8000/v1") is None
    assert proxy("https://inside.example/v1") is None


# --- replies of wrong types -------------------------------------------------------------------------------------------

WRONG = [
    [], {}, "12", -1, -(10**30), 10**30, 1.5, float("inf"), float("-inf"), float("nan"), True, [1], {"a": 1}, [[]], "x",
]  # fmt: skip
ODD_COUNTS = [value for value in WRONG if value not in ({}, [])]


@pytest.mark.parametrize("value", ODD_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "cached_tokens"])
def test_odd_number_of_tokens_is_a_fault(name: str, value: Any) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    usage |= {"prompt_tokens_details": {name: value}} if name == "cached_tokens" else {name: value}
    assert isinstance(submit(always(chat(usage=usage)), CALL)[0], Fault)


@pytest.mark.parametrize("value", [*ODD_COUNTS, [], 0, False], ids=repr)
def test_usage_that_is_no_object_is_a_fault(value: Any) -> None:
    if value == {"a": 1}:
        value = {"prompt_tokens_details": [1]}
    assert isinstance(submit(always(chat(usage=value)), CALL)[0], Fault)


def test_usage_without_counts_is_estimated_and_cached_tokens_are_part_of_the_prompt() -> None:
    for usage in (None, {}, {"prompt_tokens": 0, "completion_tokens": 0}):
        found = submit(always(chat(usage=usage)), CALL)[0]
        assert isinstance(found, Completion)
        assert (found.prompt_tokens, found.completion_tokens) == (4, 3)
    details = {"cached_tokens": 10**6}
    found = submit(always(chat(usage={"prompt_tokens": 9, "prompt_tokens_details": details})), CALL)[0]
    assert isinstance(found, Completion)
    assert (found.prompt_tokens, found.cached_tokens) == (9, 9)


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("place", ["logprobs", "content", "top_logprobs", "token", "logprob"])
def test_odd_probabilities_become_a_fault_or_end_the_run(place: str, value: Any) -> None:
    entry = {"token": "yes", "logprob": -0.1}
    if place in entry:
        entry[place] = value
    first = {**entry, "top_logprobs": value if place == "top_logprobs" else [entry]}
    logprobs = value if place == "logprobs" else {"content": value if place == "content" else [first]}
    reply = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop", "logprobs": logprobs}]}
    try:
        found = submit(always(reply), replace(CALL, output=YES_NO))[0]
    except EngineUnavailable:
        assert not value or value == {"a": 1}, "only where there are none"
        return
    assert isinstance(found, Fault | Completion)
    if isinstance(found, Completion):
        assert all(0 <= weight <= 1 for weight in found.scores.values())


@pytest.mark.parametrize("value", [*WRONG, [True], ["1"], [1.0], [-1], [10**30], None], ids=repr)
def test_odd_token_ids_are_a_fault(value: Any) -> None:
    def instead(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        return web.json_response({"tokens": value}) if request.path == "/tokenize" else None

    for output in (Likelihood("x"), YES_NO) if value != [1] else (Likelihood("x"),):
        server = UnreliableServer(river, vllm=True, instead=instead)
        found = submit(server, replace(CALL, output=output))[0]
        assert isinstance(found, Fault | Completion)
        assert isinstance(found, Fault) or value in ([], [1])


@pytest.mark.parametrize("value", [*WRONG, None, [None] * 40, [{"1": {}}] * 40], ids=repr)
def test_odd_likelihoods_are_a_fault(value: Any) -> None:
    def instead(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if request.path != "/v1/completions":
            return None
        return web.json_response({"choices": [{"text": "", "finish_reason": "length", "prompt_logprobs": value}]})

    server = UnreliableServer(river, vllm=True, instead=instead)
    assert isinstance(submit(server, replace(CALL, output=Likelihood("x")))[0], Fault)


@pytest.mark.parametrize(
    "body",
    [
        *WRONG,
        None,
        {"data": 3},
        {"data": [3, None, "x", [], {"id": 4}, {"id": None}, {"id": "model-a", "max_model_len": "many"}]},
        {"data": [{"id": "model-a", "owned_by": ["vllm"], "max_model_len": float("inf")}]},
        {"data": [{"id": "model-a", "owned_by": "vllm", "max_model_len": -5}]},
        {"data": [{"id": "model-a", "owned_by": "vllm", "max_model_len": True}]},
        {"data": {"model-a": {}}},
    ],
    ids=repr,
)
def test_odd_list_of_models_is_no_obstacle(body: Any) -> None:
    def instead(request: web.Request, sent: dict[str, Any]) -> web.Response | None:
        return web.json_response(body) if request.path.endswith("/models") else None

    found = submit(UnreliableServer(river, instead=instead), CALL)[0]
    assert isinstance(found, Completion)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"3", b'"x"', b"NaN", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 9_000, b"\xff"],
    ids=lambda body: repr(body[:9]),
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_body_that_is_no_object_is_a_fault(body: bytes, status: int) -> None:
    found = submit(always(body, status), CALL)[0]
    assert isinstance(found, Fault)


# --- bodies without end -----------------------------------------------------------------------------------------------

BOMB = """
import asyncio, gzip, resource, sys
from aiohttp import web
from gra.core.errors import EngineUnavailable
from gra.engines.openai_server.engine import OpenAIEngine, ServerSettings
sys.path.insert(0, sys.argv[3])
from odd_servers import CALL, submit, river
from unreliable_server import UnreliableServer
from gra.engines.types import Fault, Likelihood
from dataclasses import replace
kind, at = sys.argv[1], sys.argv[2]
zeros = gzip.compress(b'{"choices": "' + b" " * 2**30, 1) if kind == "gzip" else b""

class Endless(web.StreamResponse):
    async def _start(self, request):
        started = await super()._start(request)
        asyncio.create_task(self.pour())
        return started
    async def pour(self):
        try:
            while True:
                await self.write(b"x" * 65536)
        except Exception:
            pass
    async def write_eof(self, data=b""):
        await asyncio.sleep(3600)

def instead(request, body):
    if not request.path.endswith(at):
        return None
    status = 400 if at == "/chat/completions" and len(server.asked) > 1 else 200
    if kind == "gzip":
        return web.Response(body=zeros, status=status, headers={"Content-Encoding": "gzip"})
    return Endless(status=status)

server = UnreliableServer(river, vllm=True, instead=instead)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
call = replace(CALL, output=Likelihood("x")) if at == "/tokenize" else CALL
try:
    found = submit(server, call, call)
    assert all(isinstance(reply, Fault) for reply in found), found
except EngineUnavailable as error:
    assert at == "/models", error
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("at", ["/models", "/chat/completions", "/tokenize"])
@pytest.mark.parametrize("kind", ["gzip", "endless"])
def test_body_without_end_is_a_fault_in_bounded_memory(kind: str, at: str) -> None:
    helpers = Path(__file__).parents[2] / "helpers"
    command = [sys.executable, "-c", BOMB, kind, at, str(helpers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 150  # MiB beyond what the process had; the bomb has 1,024


def test_compressed_answer_is_read(tmp_path: Path) -> None:
    reply = gzip.compress(json.dumps(chat()).encode())
    for body, encoding in ((reply, "gzip"), (reply, "GZIP")):
        server = UnreliableServer(
            river,
            instead=lambda request, sent, body=body, encoding=encoding: (
                web.Response(body=body, headers={"Content-Encoding": encoding}) if sent else None
            ),
        )
        assert isinstance(submit(server, CALL)[0], Completion)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip", "deflate"])
def test_damaged_or_unknown_compression_is_a_fault(encoding: str) -> None:
    server = UnreliableServer(
        river,
        instead=lambda request, sent: (
            web.Response(body=b"no such thing", headers={"Content-Encoding": encoding}) if sent else None
        ),
    )
    assert isinstance(submit(server, CALL)[0], Fault)


# --- addresses and limits in a recipe ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["http://a..b/v1", "http://.", "http://", "http://h:0/v1", "http://h:99999/v1", "http://h:x/v1", "http://[::1/v1",
     f"http://{'a' * 64}.example/v1", "http://a b/v1", "http://a\x00b/v1", "file:///etc/passwd", "http:///v1"],
)  # fmt: skip
def test_address_that_cannot_exist_is_refused(address: str) -> None:
    with pytest.raises(RecipeError, match="must be a whole address"):
        BackendConfig(kind="openai", base_url=address)


def test_address_of_any_machine_is_taken() -> None:
    for address in ("http://[::1]:8000/v1", "http://my_server/v1", "https://api.example.com/v1", "http://localhost."):
        assert BackendConfig(kind="openai", base_url=address).base_url == address


def test_concurrency_beyond_reason_is_refused() -> None:
    with pytest.raises(RecipeError, match="`concurrency` must be at most 10000"):
        BackendConfig(concurrency=10**18)
