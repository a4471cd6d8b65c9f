"""Thinking beside and inside an answer, and halves of surrogate pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from odd_servers import (
    CALL,
    GRADE,
    YES_NO,
    always,
    ask,
    chat,
    river,
)
from unreliable_server import UnreliableServer

from gra.core.errors import EngineUnavailable
from gra.engines.types import (
    Answer,
    EngineFailed,
    Json,
    Likelihood,
    Text,
    Unparsable,
)

# --- thinking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_beside_the_answer_is_recorded_and_kept_apart(name: str, tmp_path: Path) -> None:
    reply = {"choices": [{"message": {"content": "The Nile.", name: "Rivers..."}, "finish_reason": "stop"}]}
    found = ask(always(reply), tmp_path, CALL)[0]
    assert isinstance(found, Answer)
    assert (found.value, found.text, found.completion.thinking) == ("The Nile.", "The Nile.", "Rivers...")
    again = ask(always(reply), tmp_path, CALL)[0]
    assert again == found  # from the ledger


@pytest.mark.parametrize("before", ["<think>Rivers...</think>\n", "Rivers...\n</think>\n\n"])
def test_thinking_in_the_text_is_kept_apart(before: str, tmp_path: Path) -> None:
    found = ask(always(chat(before + "The Nile.")), tmp_path, CALL)[0]
    assert isinstance(found, Answer)
    assert (found.value, found.completion.thinking) == ("The Nile.", "Rivers...")


def test_thinking_without_an_answer_is_unusable(tmp_path: Path) -> None:
    found = ask(always(chat("<think>Rivers...")), tmp_path, CALL)[0]
    assert isinstance(found, Unparsable)
    assert found.why == "thinking without an answer"


def test_thinking_before_json_is_kept_apart_and_tags_in_its_values_stay(tmp_path: Path) -> None:
    schema = Json({"type": "object", "properties": {"why": {"type": "string"}}, "required": ["why"]})
    spoken = '{"why": "A <think>tag</think> begins it."}'
    reply = {"choices": [{"message": {"content": spoken, "reasoning": "Hm."}, "finish_reason": "stop"}]}
    found = ask(always(reply), tmp_path, replace(CALL, output=schema))[0]
    assert isinstance(found, Answer)
    assert (found.value, found.completion.thinking) == ({"why": "A <think>tag</think> begins it."}, "Hm.")


# --- half a surrogate pair ------------------------------------------------------------------------------------------


def test_half_a_surrogate_pair_in_a_text_is_repaired_before_it_is_recorded(tmp_path: Path) -> None:
    server = always(b'{"choices": [{"message": {"content": "A smile \\ud83d!"}, "finish_reason": "stop"}]}')
    found = ask(server, tmp_path, CALL)[0]
    assert isinstance(found, Answer)
    assert found.value == "A smile \ufffd!"
    assert ask(always(chat("other")), tmp_path, CALL)[0] == found


def test_half_a_surrogate_pair_in_json_is_an_unusable_answer(tmp_path: Path) -> None:
    schema = Json({"type": "object", "properties": {"why": {"type": "string"}}, "required": ["why"]})
    found = ask(always(chat('{"why": "\\ud83d"}')), tmp_path, replace(CALL, output=schema))[0]
    assert isinstance(found, Unparsable)
    assert ask(always(chat("other")), tmp_path, replace(CALL, output=schema))[0] == found  # an old ledger has such rows


def test_half_a_surrogate_pair_in_a_question_is_a_permanent_failure(tmp_path: Path) -> None:
    found = ask(UnreliableServer(river), tmp_path, replace(CALL, messages=(("user", "Smile \ud83d"),)))[0]
    assert isinstance(found, EngineFailed)
    assert found.permanent


@pytest.mark.parametrize("output", [Text(), GRADE, YES_NO, Likelihood("x")])
def test_outcome_of_every_output_is_typed_where_the_server_sends_an_empty_object(output: Any, tmp_path: Path) -> None:
    server = always({})
    server.vllm = isinstance(output, Likelihood)
    with pytest.raises(EngineUnavailable, match="answered none of 5 calls"):
        ask(server, tmp_path, *(replace(CALL, output=output, sample=i) for i in range(3)))
