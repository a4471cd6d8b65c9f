"""Forms and settings that a server does not take, or takes and does not keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from odd_servers import (
    BAD,
    BAD_PROMPT,
    CALL,
    GRADE,
    YES_NO,
    always,
    ask,
    asks_for,
    chat,
    river,
    submit,
    turns_down,
    used,
)
from unreliable_server import UnreliableServer, problem

from gra.core.errors import EngineUnavailable
from gra.engines.openai_server.engine import OpenAIEngine
from gra.engines.types import (
    Answer,
    Completion,
    Fault,
    SamplingSettings,
)

# --- forms that are not obeyed --------------------------------------------------------------------------------------


def ignoring(*kinds: str) -> UnreliableServer:
    """Return a server that takes these response formats and answers in words all the same."""

    def instead(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if body.get("response_format", {}).get("type") in kinds:
            return web.json_response(chat("I would say seven."))
        return None

    return UnreliableServer(river, instead=instead)


@pytest.mark.parametrize(("kinds", "lost"), [(["json_schema"], 2), (["json_schema", "json_object"], 4)])
def test_form_that_is_taken_and_not_obeyed_is_given_up(kinds: list[str], lost: int) -> None:
    replies = submit(ignoring(*kinds), *(replace(CALL, output=GRADE, sample=i) for i in range(20)))
    texts = [reply.text for reply in replies if isinstance(reply, Completion)]
    assert texts == ["I would say seven."] * lost + ['{"grade": 7}'] * (20 - lost)


def test_other_fields_than_the_schemas_are_not_obedience() -> None:
    server = UnreliableServer(
        river,
        instead=lambda request, body: (
            web.json_response(chat('{"answer": 7}'))
            if body.get("response_format", {}).get("type") == "json_schema"
            else None
        ),
    )
    replies = submit(server, *(replace(CALL, output=GRADE, sample=i) for i in range(5)))
    assert [reply.text for reply in replies[2:] if isinstance(reply, Completion)] == ['{"grade": 7}'] * 3


def test_recorded_answers_do_not_depend_on_what_was_learned(tmp_path: Path) -> None:
    calls = [replace(CALL, output=GRADE, sample=i) for i in range(6)]
    first = ask(ignoring("json_schema"), tmp_path, *calls)
    again = ignoring("json_schema")
    assert ask(again, tmp_path, *reversed(calls)) == first[::-1]
    assert not again.asked
    assert all(isinstance(outcome, Answer) for outcome in first)


def test_a_form_that_is_seldom_disobeyed_is_kept() -> None:
    server = UnreliableServer(
        river,
        instead=lambda request, body: web.json_response(chat("Seven.")) if len(server.asked) % 4 == 1 else None,
    )
    submit(server, *(replace(CALL, output=GRADE, sample=i) for i in range(24)))
    assert all(body["response_format"]["type"] == "json_schema" for body in server.asked if asks_for(body, "river"))


@pytest.mark.parametrize("at", [1, 5])
@pytest.mark.parametrize("param", [None, "response_format"])
def test_one_declined_generation_does_not_turn_the_schema_off(at: int, param: str | None) -> None:
    fields = {"param": param} if param and at > 1 else {}
    server = turns_down(400, lambda body: len(server.asked) == at, **fields)
    replies = submit(server, *(replace(CALL, output=GRADE, sample=i) for i in range(9)))
    assert [reply.text for reply in replies if isinstance(reply, Completion)] == ['{"grade": 7}'] * 9
    assert server.asked[-1]["response_format"]["type"] == "json_schema"


def test_answer_withheld_for_its_form_is_an_unusable_answer(tmp_path: Path) -> None:
    server = UnreliableServer(
        river,
        instead=lambda request, body: (
            problem(400, "Failed to generate JSON.", code="json_validate_failed", failed_generation='{"grade": ')
            if len(server.asked) == 1
            else None
        ),
    )
    assert isinstance(ask(server, tmp_path, replace(CALL, output=GRADE))[0], Answer)
    assert len(server.asked) == 2
    assert server.asked[1]["response_format"]["type"] == "json_schema"


def test_one_answer_without_probabilities_does_not_end_the_run(tmp_path: Path) -> None:
    server = UnreliableServer(
        river, instead=lambda request, body: web.json_response(chat("yes")) if len(server.asked) in (2, 5) else None
    )
    outcomes = ask(server, tmp_path, *(replace(CALL, output=YES_NO, sample=i) for i in range(4)))
    assert [type(outcome) for outcome in outcomes] == [Answer] * 4


def test_answers_that_never_have_probabilities_end_the_run() -> None:
    with pytest.raises(EngineUnavailable, match="set `ask: integers`"):
        submit(always(chat("yes")), replace(CALL, output=YES_NO))


# --- sampling settings ----------------------------------------------------------------------------------------------


def refusing(declines: Callable[[dict[str, Any]], bool], named: str | None = None) -> UnreliableServer:
    fields = {"param": named, "code": "unsupported_value"} if named else {}
    return turns_down(400, declines, **fields)


def only_default(body: dict[str, Any]) -> bool:
    return body.get("temperature", 1) != 1


def both(body: dict[str, Any]) -> bool:
    return "temperature" in body and "top_p" in body


@pytest.mark.parametrize(
    ("declines", "named", "left_out"),
    [
        (only_default, "temperature", {"temperature"}),
        (only_default, None, {"temperature"}),
        (both, None, {"top_p"}),
        (lambda body: "repetition_penalty" in body, "repetition_penalty", {"repetition_penalty"}),
        (lambda body: "repetition_penalty" in body, None, {"repetition_penalty"}),
        (lambda body: "repetition_penalty" in body or both(body), None, {"repetition_penalty", "top_p"}),
        (lambda body: bool({"temperature", "top_p", "repetition_penalty"} & body.keys()), None,
         {"temperature", "top_p", "repetition_penalty"}),
    ],
)  # fmt: skip
def test_settings_that_a_server_does_not_take_are_left_out(declines, named, left_out) -> None:
    server = refusing(declines, named)
    call = replace(CALL, sampling=SamplingSettings(0.7, 0.95, 1.1, 256))

    async def use(engine: OpenAIEngine) -> tuple[list[Any], list[str]]:
        replies = [await engine.submit(replace(call, sample=i)) for i in range(5)]
        return replies, engine.stats.notes

    replies, notes = used(server, use)
    assert [reply.text for reply in replies] == ["The Nile."] * 5
    last = server.asked[-1]
    assert {"temperature", "top_p", "repetition_penalty"} - last.keys() == left_out
    assert not declines(server.asked[-4])
    assert len(notes) == 1
    assert all(name in notes[0] for name in left_out)


def test_default_temperature_is_learned_for_schemas_and_greedy_calls_too() -> None:
    server = refusing(only_default, "temperature")
    greedy = replace(CALL, output=GRADE, sampling=SamplingSettings(0.0, 1.0, 1.0, 256))
    replies = submit(server, greedy, CALL, greedy, CALL)
    assert [reply.text for reply in replies if isinstance(reply, Completion)] == ['{"grade": 7}', "The Nile."] * 2
    assert len(server.asked) == 6
    assert server.asked[-2]["response_format"]["type"] == "json_schema"


def test_a_call_that_is_impossible_teaches_nothing_about_settings() -> None:
    server = turns_down(400, lambda body: asks_for(body, BAD_PROMPT))
    bad, good = submit(server, BAD, CALL)
    assert isinstance(bad, Fault)
    assert bad.permanent
    assert isinstance(good, Completion)
    assert server.asked[-1]["temperature"] == 0.7


def test_newer_name_of_the_length_is_found_without_a_named_field() -> None:
    server = refusing(lambda body: "max_tokens" in body)
    replies = submit(server, CALL, CALL)
    assert all(isinstance(reply, Completion) for reply in replies)
    assert server.asked[-1]["max_completion_tokens"] == 256
    assert server.asked[-1]["temperature"] == 0.7


def test_null_settings_are_not_sent() -> None:
    server = UnreliableServer(river)
    submit(server, replace(CALL, sampling=SamplingSettings(None, None, None, 64)))
    assert server.asked[0].keys() == {"model", "messages", "max_tokens"}
