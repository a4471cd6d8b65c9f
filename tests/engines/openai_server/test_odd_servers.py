"""Servers that say no or answer something else, and how answers end: what each kind becomes."""

from __future__ import annotations

import json
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
    always,
    ask,
    asks_for,
    chat,
    river,
    submit,
    turns_down,
)
from unreliable_server import UnreliableServer, problem

from gra.core.errors import EngineUnavailable
from gra.engines.types import (
    Answer,
    Completion,
    EngineFailed,
    Fault,
    Refused,
    TimedOut,
    Unparsable,
    is_infrastructure_failure,
)

# --- the account and the key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (402, {}),
        (429, {"code": "insufficient_quota"}),
        (429, {"type": "insufficient_quota"}),
        (429, {"code": "billing_not_active"}),
        (400, {"code": "billing_hard_limit_reached"}),
        (403, {"type": "billing_error"}),
    ],
)
def test_account_that_cannot_be_used_ends_the_run_with_the_servers_sentence(status: int, fields: Any) -> None:
    server = UnreliableServer(
        river,
        instead=lambda request, body: problem(status, "Top up first.", **fields) if len(server.asked) > 2 else None,
    )
    with pytest.raises(EngineUnavailable, match=r"Top up first\..*run the same command again") as caught:
        submit(server, *(replace(CALL, sample=i) for i in range(9)))
    assert caught.value.exit_code == 4
    assert len(server.asked) == 3


def test_account_status_in_a_body_of_200_ends_the_run() -> None:
    with pytest.raises(EngineUnavailable, match="Insufficient credits"):
        submit(always({"error": {"code": 402, "message": "Insufficient credits"}}), CALL)


def test_key_refused_in_the_middle_ends_the_run() -> None:
    server = turns_down(401, lambda body: len(server.asked) > 2)
    with pytest.raises(EngineUnavailable, match="API key was refused"):
        submit(server, CALL, CALL, CALL)


def test_403_for_one_prompt_is_a_refusal_of_that_call(tmp_path: Path) -> None:
    server = turns_down(403, lambda body: asks_for(body, BAD_PROMPT))
    bad, good = ask(server, tmp_path, BAD, CALL)
    assert (type(bad), type(good)) == (Refused, Answer)


def test_403_for_every_prompt_is_a_refused_key() -> None:
    with pytest.raises(EngineUnavailable, match="API key was refused"):
        submit(turns_down(403, lambda body: True), CALL)


def test_key_that_may_not_list_models_is_good_for_calls() -> None:
    server = UnreliableServer(river, instead=lambda request, body: None if body else problem(403, "Not allowed."))
    assert isinstance(submit(server, CALL)[0], Completion)


def test_content_filter_code_is_a_refusal_without_a_second_question(tmp_path: Path) -> None:
    server = turns_down(400, lambda body: asks_for(body, BAD_PROMPT), code="content_filter")
    assert isinstance(ask(server, tmp_path, BAD)[0], Refused)
    assert len(server.asked) == 3  # one an attempt


@pytest.mark.parametrize("status", [404, 405])
def test_404_for_an_unsupported_form_leads_to_the_next_form(status: int) -> None:
    server = turns_down(status, lambda body: body.get("response_format", {}).get("type") == "json_schema")
    replies = submit(server, *(replace(CALL, output=GRADE, sample=i) for i in range(4)))
    assert [reply.text for reply in replies if isinstance(reply, Completion)] == ['{"grade": 7}'] * 4


def test_404_for_every_call_is_a_model_that_is_not_served() -> None:
    with pytest.raises(EngineUnavailable, match=r"`model-a` is not served at .*\(No\.\)"):
        submit(turns_down(404, lambda body: True), CALL)


def test_every_call_declined_in_the_middle_ends_the_run() -> None:
    server = turns_down(400, lambda body: len(server.asked) > 2)
    calls = [replace(CALL, sample=i) for i in range(30)]
    with pytest.raises(EngineUnavailable, match=r"declines every call to `model-a` by now: No\..*run the same command"):
        submit(server, *calls)


def test_calls_declined_for_themselves_do_not_end_the_run() -> None:
    server = turns_down(400, lambda body: asks_for(body, BAD_PROMPT))
    replies = submit(server, CALL, *(replace(BAD, sample=i) for i in range(25)), CALL)
    assert [type(reply) for reply in replies] == [Completion, *[Fault] * 25, Completion]
    assert all(reply.permanent for reply in replies if isinstance(reply, Fault))


# --- errors and other things in place of an answer ------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        {"error": {"message": "The model is overheated."}},
        {"error": "The model is overheated."},
        {"code": 1234, "msg": "The model is overheated."},
        {"code": 50501, "message": "The model is overheated.", "data": None},
        {"detail": "The model is overheated."},
        {"detail": [{"loc": ["body", "x"], "msg": "The model is overheated."}]},
        {"object": "error", "message": "The model is overheated."},
        {"choices": [], "error": {"message": "The model is overheated."}},
        {"message": "The model is overheated."},
    ],
)
def test_error_in_a_body_of_200_is_a_fault_with_the_servers_sentence(reply: dict[str, Any]) -> None:
    found = submit(always(reply), CALL)[0]
    assert isinstance(found, Fault)
    assert not found.permanent
    assert "The model is overheated." in found.message


def test_nothing_but_errors_in_bodies_of_200_ends_the_run_soon() -> None:
    server = always({"error": {"message": "The model is overheated."}})
    with pytest.raises(EngineUnavailable, match=r"answered none of 5 calls.*The model is overheated\..*base_url"):
        submit(server, *(replace(CALL, sample=i) for i in range(900)))


@pytest.mark.parametrize(("status", "kind"), [(429, "busy"), (503, "busy"), (500, "error"), (504, "timeout")])
def test_status_in_a_body_of_200_counts_as_that_status(status: int, kind: str) -> None:
    found = submit(always({"error": {"code": status, "message": "Wait."}}), CALL)[0]
    assert isinstance(found, Fault)
    assert found.kind == kind


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("page", [True, False])
def test_address_without_v1_is_named_with_the_right_one(status: int, page: bool) -> None:
    content = b"<html><title>Welcome</title></html>" if page else b'{"detail": "Not Found"}'

    def instead(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        return None if request.path.startswith("/v1") else web.Response(body=content, status=status)

    server = UnreliableServer(river, instead=instead, elsewhere=True)
    with pytest.raises(EngineUnavailable, match=r"not the address of an API but http://127.0.0.1:\d+/v1 is") as caught:
        submit(server, CALL, path="")
    assert caught.value.exit_code == 4
    assert not server.asked


def test_web_page_in_place_of_answers_ends_the_run_and_is_quoted() -> None:
    server = always(b"<html>Please log in</html>", content_type="text/html")
    with pytest.raises(EngineUnavailable, match=r"a web page: <html>Please log in</html>.*Check `engine.base_url`"):
        submit(server, *[CALL] * 6)


def test_only_failures_are_infrastructure_and_the_run_ends_resumably(tmp_path: Path) -> None:
    outcomes = ask(always({"error": "out of order"}, 500), tmp_path, CALL)
    assert isinstance(outcomes[0], EngineFailed)
    assert is_infrastructure_failure(outcomes[0])
    assert is_infrastructure_failure(TimedOut("late"))
    assert not is_infrastructure_failure(EngineFailed("too long", permanent=True))
    assert not is_infrastructure_failure(Unparsable("", "", ""))
    with pytest.raises(EngineUnavailable, match=r"answered no call for .*out of order.*Run the same command again"):
        submit(always({"error": "out of order"}, 500), *[CALL] * 60, patience_s=0.0)


# --- how answers end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finish", ["abort", "error", "cancelled", None, "", "odd one", "timeout", "Stopp"])
def test_unknown_end_is_a_fault_that_names_it(finish: Any) -> None:
    found = submit(always(chat("The Ni", finish)), CALL)[0]
    assert isinstance(found, Fault)
    assert not found.permanent
    assert json.dumps(finish) in found.message


@pytest.mark.parametrize("finish", [3, [], {"a": 1}, True])
def test_end_that_is_no_text_is_a_fault(finish: Any) -> None:
    assert isinstance(submit(always(chat("The Ni", finish)), CALL)[0], Fault)


@pytest.mark.parametrize(
    ("finish", "ends"),
    [("stop", "stop"), ("STOP", "stop"), ("eos_token", "stop"), ("end_turn", "stop"), ("length", "length"),
     ("MAX_TOKENS", "length"), ("content_filter", "refusal"), ("SAFETY", "refusal"), ("tool_calls", "tool_call"),
     ("function_call", "tool_call")],
)  # fmt: skip
def test_known_ends_keep_their_meaning(finish: str, ends: str) -> None:
    found = submit(always(chat("The Nile.", finish)), CALL)[0]
    assert isinstance(found, Completion)
    assert found.finish == ends


def test_tool_call_is_an_unusable_answer(tmp_path: Path) -> None:
    found = ask(always(chat(None, "tool_calls")), tmp_path, CALL)[0]
    assert isinstance(found, Unparsable)
    assert found.why == "a tool was called"
