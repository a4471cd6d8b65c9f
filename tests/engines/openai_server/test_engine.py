"""The engine for OpenAI-compatible servers, against a local server that can do more or less, and fails on cue."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import said
from unreliable_server import UnreliableServer

from gra.core.errors import EngineUnavailable, RecipeError
from gra.engines.broker import Broker, EnginePool
from gra.engines.openai_server.client import retry_after
from gra.engines.openai_server.engine import OpenAIEngine, ServerSettings
from gra.engines.openai_server.requests import label_probabilities, only_object
from gra.engines.types import (
    Answer,
    Call,
    Choice,
    Completion,
    EngineFailed,
    Fault,
    Json,
    Likelihood,
    ModelId,
    Refused,
    SamplingSettings,
    Text,
    TimedOut,
    Truncated,
)  # fmt: skip
from gra.ledger.ledger import Ledger

T = TypeVar("T")
SAMPLING = SamplingSettings(0.7, 0.95, 1.0, 256)
CALL = Call(ModelId("model-a", "openai:model-a@here", "server"), (("user", "Name a river."),), Text(), SAMPLING)
GRADE = Json({"type": "object", "properties": {"grade": {"type": "integer", "maximum": 10}}, "required": ["grade"]})
YES_NO = Choice(("yes", "no"))


def graded(call: Call) -> Completion:
    return said(json.dumps({"grade": 7}) if "grade" in call.messages[-1][1] or isinstance(call.output, Json) else "Po")


def served(server: UnreliableServer, use: Callable[[OpenAIEngine], Awaitable[T]], **settings: Any) -> T:
    """What `use` makes of an engine on a running server."""

    async def scenario() -> T:
        async with server:
            engine = OpenAIEngine("model-a", ServerSettings(server.base_url, "model-a", **settings))
            try:
                return await use(engine)
            finally:
                await engine.unload()

    return asyncio.run(scenario())


def submit(server: UnreliableServer, call: Call, **settings: Any) -> Completion | Fault:
    return served(server, lambda engine: engine.submit(call), **settings)


# --- questions ------------------------------------------------------------------------------------------------------


def test_a_text_is_asked_as_the_recipe_says_and_counted() -> None:
    server = UnreliableServer(graded)
    reply = submit(server, replace(CALL, sampling=replace(SAMPLING, repetition_penalty=1.1)))
    assert reply == Completion("Po", "stop", 50, 1, 7)
    assert server.asked == [
        {"model": "model-a", "messages": [{"role": "user", "content": "Name a river."}], "temperature": 0.7,
         "top_p": 0.95, "max_tokens": 256, "repetition_penalty": 1.1}
    ]  # fmt: skip


def test_a_schema_is_sent_closed_and_its_properties_keep_their_order() -> None:
    server = UnreliableServer(graded)
    fields = {"why": {"type": "string"}, "a": {"type": "object", "properties": {}}, "grade": {"type": "integer"}}
    submit(server, replace(CALL, output=Json({"type": "object", "properties": fields})))
    wanted = server.asked[0]["response_format"]["json_schema"]
    assert wanted["strict"] is True
    assert list(wanted["schema"]["properties"]) == ["why", "a", "grade"]
    assert wanted["schema"]["additionalProperties"] is False
    assert wanted["schema"]["properties"]["a"]["additionalProperties"] is False


@pytest.mark.parametrize(("json_mode", "declined"), [(True, 1), (False, 2)])
def test_server_without_schemas_is_recognized_once_and_asked_in_words(json_mode: bool, declined: int) -> None:
    server = UnreliableServer(graded, schemas=False, json_mode=json_mode)

    async def use(engine: OpenAIEngine) -> list[Any]:
        return [await engine.submit(replace(CALL, output=GRADE)) for _ in range(5)]

    replies = served(server, use)
    assert [reply.text for reply in replies] == ['{"grade": 7}'] * 5
    assert len(server.asked) == 5 + declined
    assert '"maximum": 10' in server.asked[-1]["messages"][-1]["content"]
    assert ("response_format" in server.asked[-1]) is json_mode


def test_a_call_that_is_impossible_in_every_form_is_a_permanent_fault_and_nothing_is_unlearned() -> None:
    server = UnreliableServer(graded)

    async def use(engine: OpenAIEngine) -> list[Any]:
        long = replace(CALL, output=GRADE, messages=(("user", "x" * 30_000),))
        return [await engine.submit(call) for call in (long, replace(CALL, output=GRADE))]

    impossible, possible = served(server, use)
    assert isinstance(impossible, Fault)
    assert impossible.permanent
    assert "maximum context length" in impossible.message
    assert possible.text == '{"grade": 7}'
    assert "json_schema" in server.asked[-1]["response_format"]


def test_newer_servers_get_the_length_under_its_newer_name() -> None:
    server = UnreliableServer(graded, length_key="max_completion_tokens")

    async def use(engine: OpenAIEngine) -> list[Any]:
        return [await engine.submit(CALL) for _ in range(3)]

    assert [reply.text for reply in served(server, use)] == ["Po"] * 3
    assert len(server.asked) == 4


@pytest.mark.parametrize("most", [20, 5])
def test_probabilities_of_labels_from_the_likeliest_tokens(most: int) -> None:
    reply = submit(UnreliableServer(probabilities=most), replace(CALL, output=YES_NO))
    assert isinstance(reply, Completion)
    assert set(reply.scores) == {"yes", "no"}
    assert sum(reply.scores.values()) == pytest.approx(1)
    assert reply.scores["yes"] == pytest.approx(0.8412, abs=1e-3)  # "Yes" and " yes" are one label


def test_vllm_is_asked_for_just_the_labels() -> None:
    server = UnreliableServer(vllm=True)
    reply = submit(server, replace(CALL, output=YES_NO))
    assert isinstance(reply, Completion)
    assert reply.scores["yes"] == pytest.approx(1 / (1 + 2.718281828 ** (-1.8 + 0.2)))
    assert server.asked[0]["logprob_token_ids"] == server.asked[0]["allowed_token_ids"] == [ord("y"), ord("n")]


def test_labels_that_begin_alike_are_refused_with_a_sentence() -> None:
    with pytest.raises(EngineUnavailable, match="do not differ in their first token"):
        submit(UnreliableServer(vllm=True), replace(CALL, output=Choice(("yes", "yesterday"))))


def test_a_server_without_probabilities_ends_the_run_with_what_to_do() -> None:
    with pytest.raises(EngineUnavailable, match=r"gives none .*set `ask: integers`") as caught:
        submit(UnreliableServer(graded, probabilities=0), replace(CALL, output=YES_NO))
    assert caught.value.exit_code == 4


def test_a_label_that_may_weigh_something_is_never_made_up() -> None:
    def listed(*tokens: tuple[str, float]) -> tuple[tuple[str, float], ...]:
        return tokens

    labels = tuple("0123456789")
    peaked = label_probabilities(labels, listed(("8", -0.1), ("9", -3.0), ("the", -14.0)), None)
    assert set(peaked) == set(labels)
    assert peaked["3"] == 0.0
    assert sum(peaked.values()) == pytest.approx(1)
    flat = label_probabilities(labels, listed(("8", -1.0), ("9", -1.5), ("the", -2.5)), None)
    assert set(flat) == {"8", "9"}  # not usable: eight labels may each weigh as much as "the"
    assert label_probabilities(labels, listed(("The", -0.1)), None) == {}


def test_a_likelihood_is_read_from_vllm_token_by_token() -> None:
    answer = "The Nile."
    reply = submit(UnreliableServer(vllm=True), replace(CALL, output=Likelihood(answer)))
    assert isinstance(reply, Completion)
    assert reply.scores == {
        "logprob": pytest.approx(sum(-0.01 * (ord(c) % 7) for c in answer)), "tokens": float(len(answer))
    }  # fmt: skip
    assert reply.text == ""


def test_a_likelihood_elsewhere_ends_the_run_with_what_to_do() -> None:
    with pytest.raises(EngineUnavailable, match=r"asked by likelihood.*set `ask: integers`"):
        submit(UnreliableServer(), replace(CALL, output=Likelihood("x")))


def test_a_prompt_longer_than_the_context_is_a_permanent_fault() -> None:
    reply = submit(UnreliableServer(vllm=True), replace(CALL, output=Likelihood("x" * 5000)))
    assert isinstance(reply, Fault)
    assert reply.permanent


def test_a_server_that_does_not_count_is_counted_for() -> None:
    reply = submit(UnreliableServer(graded, usage=False), CALL)
    assert isinstance(reply, Completion)
    assert (reply.prompt_tokens, reply.completion_tokens) == (4, 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"grade": 7}', '{"grade": 7}'),
        ('```json\n{"grade": 7}\n```', '{"grade": 7}'),
        ('<think>maybe {"grade": 2}</think>Here: {"grade": 7}. Good luck!', '{"grade": 7}'),
        ('{"grade": 7} or rather {"grade": 2}', None),
        ('Here: {"a": {"grade": 7}, "b', None),
        ("{" * 100_000, None),
        ("words", None),
        ("", None),
    ],
)
def test_one_object_among_words_is_found_and_a_doubtful_one_left(text: str, found: str | None) -> None:
    assert only_object(text) == (text if found is None else found)


@given(st.text())
def test_reading_an_object_never_fails(text: str) -> None:
    assert only_object(text) in text


# --- replies that are no answers ------------------------------------------------------------------------------------


def outcome(server: UnreliableServer, call: Call, tmp_path: Path, **options: Any) -> tuple[Any, dict[str, int]]:
    async def use(engine: OpenAIEngine) -> tuple[Any, dict[str, int]]:
        ledger = Ledger(tmp_path / "ledger.sqlite", "test")
        broker = Broker(ledger, EnginePool({"model-a": engine}, 0.0), backoff_s=0.0, **options)
        try:
            return await broker.ask(call), ledger.faults()
        finally:
            ledger.close()

    return served(server, use)


@pytest.mark.parametrize(
    ("way", "kind", "faults"),
    [("500", EngineFailed, {"error": 3}), ("reset", EngineFailed, {"died": 3}), ("hang", TimedOut, {"timeout": 3}),
     ("cut-off body", EngineFailed, {"died": 3})],
)  # fmt: skip
def test_what_the_infrastructure_does_is_an_outcome_of_its_own(way, kind, faults, tmp_path) -> None:
    server = UnreliableServer(graded, fails=lambda: way)
    found, counted = outcome(server, CALL, tmp_path, call_timeout_s=0.1)
    if way == "cut-off body":  # seen as a broken connection or as a body that is no JSON
        assert isinstance(found, kind)
        assert sum(counted.values()) == 3
    else:
        assert (type(found), counted) == (kind, faults)
    assert len(server.asked) == 3


def test_a_busy_server_costs_no_attempt(tmp_path: Path) -> None:
    left = ["429", "503", "429", "503", "429"]
    server = UnreliableServer(graded, fails=lambda: left.pop() if left else None)
    found, counted = outcome(server, CALL, tmp_path)
    assert isinstance(found, Answer)
    assert counted == {"busy": 5}


def test_a_refusal_is_a_refusal(tmp_path: Path) -> None:
    server = UnreliableServer(lambda call: said("no", "content_filter"))
    assert isinstance(outcome(server, CALL, tmp_path)[0], Refused)


def test_an_answer_cut_off_is_truncated(tmp_path: Path) -> None:
    server = UnreliableServer(lambda call: said('{"grade": 7}', "length"))
    assert isinstance(outcome(server, replace(CALL, output=GRADE), tmp_path)[0], Truncated)


# --- servers that no call can reach ---------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_named_at_once() -> None:
    engine = OpenAIEngine("model-a", ServerSettings("http://127.0.0.1:9/v1", "model-a"))
    begun = time.monotonic()
    with pytest.raises(EngineUnavailable, match=r"no server answers at http://127\.0\.0\.1:9/v1 .*`engine\.base_url`"):
        asyncio.run(engine.start())
    assert time.monotonic() - begun < 10


def test_a_model_that_vllm_does_not_serve_is_named_before_anything_is_asked() -> None:
    server = UnreliableServer(models=("model-b",), vllm=True)
    with pytest.raises(EngineUnavailable, match="does not serve `model-a`; did you mean `model-b`"):
        submit(server, CALL)
    assert not server.asked


def test_a_model_that_is_nowhere_ends_the_run() -> None:
    with pytest.raises(EngineUnavailable, match="`model-a` is not served at"):
        submit(UnreliableServer(models=("other",)), CALL)


def test_a_server_that_declines_everything_ends_the_run() -> None:
    server = UnreliableServer(models=("model-a",))

    async def use(engine: OpenAIEngine) -> None:
        for _ in range(20):
            await engine.submit(replace(CALL, messages=(("user", "x" * 30_000),)))

    with pytest.raises(EngineUnavailable, match="declined the first 10 calls to `model-a`: This model's maximum"):
        served(server, use)


def test_silence_for_too_long_ends_the_run_and_says_how_to_go_on(tmp_path: Path) -> None:
    server = UnreliableServer(graded, fails=lambda: "503")

    async def use(engine: OpenAIEngine) -> None:
        ledger = Ledger(tmp_path / "ledger.sqlite", "test")
        try:
            await Broker(ledger, EnginePool({"model-a": engine}, 0.0), backoff_s=0.0).ask(CALL)
        finally:
            ledger.close()

    with pytest.raises(EngineUnavailable, match=r"has answered no call for .*Run the same command again"):
        served(server, use, patience_s=0.2)


def test_a_wait_longer_than_anybodys_patience_ends_the_run() -> None:
    engine = OpenAIEngine("model-a", ServerSettings("http://here/v1", "model-a"))
    with pytest.raises(EngineUnavailable, match="asks to wait 60 minutes"):
        engine.server.failed(0.0, "busy", "busy", wait_s=3600.0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 0), ({"Retry-After": "7"}, 7), ({"Retry-After": "-7"}, 0), ({"Retry-After": "soon"}, 0),
     ({"retry-after-ms": "250"}, 0.25)],
)  # fmt: skip
def test_retry_after_in_every_form(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    headers = {"Retry-After": formatdate(time.time() + 600, usegmt=True)}
    assert retry_after(headers) == pytest.approx(600, abs=30)
    asked, until = (formatdate(when, usegmt=True) for when in (1e9, 1e9 + 40))
    assert retry_after({"Retry-After": until, "Date": asked}) == 40  # independent of this machine's clock
    assert retry_after({**headers, "Date": "soon"}) == pytest.approx(600, abs=30)


# --- the key --------------------------------------------------------------------------------------------------------

KEY = "sk-very-secret-0123456789"


def test_the_key_is_sent_and_shown_nowhere(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    assert isinstance(submit(UnreliableServer(graded, key=KEY), CALL, api_key_env="MY_KEY"), Completion)
    with pytest.raises(EngineUnavailable, match=r"API key was refused .*check the key in MY_KEY") as caught:
        submit(UnreliableServer(graded, key="another"), CALL, api_key_env="MY_KEY")
    assert KEY not in str(caught.value)  # although the server sent it back
    assert KEY not in repr(vars(caught.value))
    assert KEY not in "".join(capfd.readouterr())


def test_a_variable_that_is_not_set_is_named(monkeypatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(RecipeError, match="MY_KEY, and this environment variable is not set"):
        OpenAIEngine("model-a", ServerSettings("http://here/v1", "model-a", "MY_KEY"))
