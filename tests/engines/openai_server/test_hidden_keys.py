"""Servers that hide the API key in their replies: in escapes, in pieces that meet later, in base64."""

from __future__ import annotations

import base64
import json
import re
import time
import traceback
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_servers import CALL, always, ask, chat, submit

from gra.core.errors import EngineUnavailable
from gra.engines.openai_server.redaction import Redactor
from gra.engines.types import Answer, Json

KEY = "sk-Zq81-hJ2nVt0Lx7Kd4Wp9Rb3Ym6Cg5Fs/+q"
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)
PIECES = [KEY[at : at + 7] for at in range(0, len(KEY), 7)]
WHY = replace(CALL, output=Json({"type": "object", "properties": {"why": {"type": "string"}}, "required": ["why"]}))

# Each way returns a text that is not the key and is read as the key by JSON, Python, HTML or a browser.
HIDINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "JSON in capitals": lambda text: "".join(f"\\u{ord(c):04X}" for c in text),
    "JSON in JSON": lambda text: "".join(f"\\\\u{ord(c):04x}" for c in text),
    "JSON in JSON, its backslash escaped": lambda text: "".join(f"\\u005cu{ord(c):04x}" for c in text),
    "every second character": lambda text: "".join(f"\\u{ord(c):04x}" if i % 2 else c for i, c in enumerate(text)),
    "PHP": lambda text: text.replace("/", "\\/"),
    "Markdown": lambda text: text.replace("-", "\\-"),
    "Python": lambda text: "".join(f"\\x{ord(c):02x}" for c in text),
    "an address": urllib.parse.quote_plus,
    "an address, all of it": lambda text: "".join(f"%{ord(c):02x}" for c in text),
    "an address in an address": lambda text: "".join(f"%25{ord(c):02X}" for c in text),
    "HTML": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(c):x};" for c in text),
    "HTML in HTML": lambda text: "".join(f"&amp;#x0{ord(c):x};" for c in text),
}


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("MY_KEY", KEY)
    return {"api_key_env": "MY_KEY"}


def holds_part(text: str) -> bool:
    """Return whether a text holds a part of the key, also after its escapes are read, twice."""
    read = text
    for _ in range(3):
        if any(KEY[at : at + 8] in read for at in range(len(KEY) - 7)):
            return True
        read = re.sub(r"\\+u00([0-9a-fA-F]{2})", lambda escape: chr(int(escape[1], 16)), read)
    return False


def nowhere(folder: Path, *shown: Any) -> bool:
    """Return whether the key is neither in what is shown nor in a file of the folder."""
    files = [file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file()]
    return not any(holds_part(text) for text in (*map(repr, shown), *map(str, shown), *files))


@pytest.mark.parametrize("status", [200, 400, 422])
@pytest.mark.parametrize("hiding", HIDINGS)
def test_key_in_an_answer_that_a_server_withheld_is_recorded_nowhere(
    hiding: str, status: int, keyed: Any, tmp_path: Path
) -> None:
    text = json.dumps({"why": "SECRET"}).replace("SECRET", HIDINGS[hiding](KEY))
    error = {"code": "json_validate_failed", "message": "No.", "failed_generation": text}
    reply = {"error": error | ({"status": 400} if status == 200 else {})}
    found = ask(always(reply, status), tmp_path, WHY, **keyed)[0]
    assert isinstance(found, Answer) or "invalid" in found.why.lower()
    assert nowhere(tmp_path, found)


@pytest.mark.parametrize("hiding", HIDINGS)
def test_key_in_json_is_recorded_nowhere(hiding: str, keyed: Any, tmp_path: Path) -> None:
    hidden = HIDINGS[hiding](KEY)
    texts = [
        f'{{"why": "{hidden}"}}',
        f'{{"why": "x", "{hidden}": 1}}',
        f'{{"why": "{hidden}", "why": "x"}}',  # a reader sees the last of two names alone
        f'[{{"why": "{hidden}"}}]',
        f'{{"why": "{hidden}", "more": [',
        f'{{"why": "{hidden}"',
        f'Error: {{"error": {{"message": "{hidden}"}}}}',
    ]
    for sample, text in enumerate(texts):
        for call in (WHY, CALL):
            found = ask(always(chat(text)), tmp_path, replace(call, sample=sample), **keyed)[0]
            assert nowhere(tmp_path, found)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("hiding", HIDINGS)
def test_key_in_an_error_is_shown_nowhere(hiding: str, status: int, keyed: Any, tmp_path: Path) -> None:
    message = f'upstream said {{"detail": "{HIDINGS[hiding](KEY)}"}}'
    for body in (json.dumps([{"error": {"message": message, "code": message}}]), message, json.dumps(message)):
        try:
            shown = repr(submit(always(body.encode(), status), CALL, **keyed))
        except EngineUnavailable as error:
            shown = str(error)
        assert not holds_part(shown)


def test_key_is_not_in_the_traceback_of_an_error_that_ends_the_run(keyed: Any) -> None:
    with pytest.raises(EngineUnavailable, match="answered none of 5 calls") as caught:
        submit(always(chat(finish=KEY)), *[CALL] * 5, **keyed)
    assert not holds_part("".join(traceback.format_exception(caught.value)))


def test_key_in_pieces_of_thinking_is_removed_after_they_are_joined(keyed: Any, tmp_path: Path) -> None:
    said = [{"type": "text", "text": '{"why": "so"}'}]
    contents = [
        [*({"type": "thinking", "thinking": piece} for piece in PIECES), *said],
        [{"type": "thinking", "thinking": [{"type": "text", "text": piece} for piece in PIECES]}, *said],
        [{"type": "text", "text": part} for part in ("<think>", *PIECES, "</think>", '{"why": "so"}')],
        [{"type": "text", "text": part} for part in (*PIECES, "</think>", '{"why": "so"}')],
        [*({"type": "text", "text": f"{piece}<think>hm</think>"} for piece in PIECES), *said],
        [{"type": "thinking", "thinking": f"</think>{'<think>hm</think>'.join(PIECES)}<think>"}, *said],
        [{"type": "text", "text": f'{{"why": "{"<think>hm</think>".join(PIECES)}"}}'}],
    ]
    for sample, content in enumerate(contents):
        for call in (WHY, CALL):
            found = ask(always(chat(content)), tmp_path, replace(call, sample=sample), **keyed)[0]
            assert isinstance(found, Answer) or (sample == 5 and call is WHY)  # the object is not alone there
            assert nowhere(tmp_path, found)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_key_in_thinking_beside_the_answer_is_removed(name: str, keyed: Any, tmp_path: Path) -> None:
    for sample, thinking in enumerate((KEY, ESCAPED, f"{KEY[:9]} and {KEY[9:]}")):
        reply = {"choices": [{"message": {"content": '{"why": "so"}', name: thinking}, "finish_reason": "stop"}]}
        for call in (WHY, CALL):
            found = ask(always(reply), tmp_path, replace(call, sample=sample), **keyed)[0]
            assert isinstance(found, Answer)
            assert "***" in found.completion.thinking
            assert nowhere(tmp_path, found)


# --- the redactor alone -----------------------------------------------------------------------------------------------


@given(
    st.text(max_size=20),
    st.text(max_size=20),
    st.integers(0, len(KEY) - 8),
    st.integers(8, len(KEY)),
    st.sampled_from(sorted(HIDINGS)),
)
def test_redactor_removes_a_hidden_part_and_keeps_the_rest(
    before: str, after: str, begin: int, length: int, hiding: str
) -> None:
    hidden = HIDINGS[hiding](KEY[begin : begin + length])
    assert Redactor(KEY).text(f"{before} {hidden} {after}") == f"{before} *** {after}"


@pytest.mark.parametrize("before", ["", ":", "me:", "me, ", "Bearer "])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_redactor_removes_base64_of_the_key(before: str, encode: Callable[[bytes], bytes]) -> None:
    found = Redactor(KEY).text(f"Authorization: {encode(f'{before}{KEY}!'.encode()).decode()}.")
    assert "***" in found
    assert len(found) < len("Authorization: ***.") + 4 + 4 * len(before)


@pytest.mark.parametrize("character", ["%", "\\", "\\u00", "&#", "\\x", "%25"])
def test_character_before_the_key_does_not_hide_it(character: str) -> None:
    for key in ("73e8a9f2", "0073e8a9", "x73e8a9f", "u0073e8a"):
        assert key not in Redactor(key).text(f"see {character}{key} here")


@pytest.mark.parametrize("key", ["EMPTY", "not-needed", "ollama", "abc1234", "a-word-of-19-letter".replace("19", "xx")])
def test_short_key_stays_in_answers_and_is_removed_from_messages(key: str) -> None:
    assert Redactor(key).text(f"It is {key}.") == f"It is {key}."
    assert Redactor(key).message(f"It is {key}.") == "It is ***."


@pytest.mark.parametrize("key", ["abcd1234", "a-word-of-20-letters".replace("20", "xx")])
def test_shortest_secret_is_removed_from_answers(key: str) -> None:
    assert Redactor(key).text(f"It is {key}.") == "It is ***."


@pytest.mark.parametrize(
    "text",
    ["\\", "\\u005c", "\\\\u0073", "%25", "%", "&amp;", "&#0", "&#", KEY[:8], KEY, KEY[:7], "a", ESCAPED, "\\u00"],
    ids=lambda text: text[:8],
)
def test_redactor_needs_time_in_proportion_to_the_text(text: str) -> None:
    redactor, long = Redactor(KEY), text * (2**20 // len(text))
    begun = time.process_time()
    redactor.text(long)
    assert time.process_time() - begun < 8
    begun = time.process_time()
    assert len(redactor.message(long * 15)) <= 300
    assert time.process_time() - begun < 0.5


def test_ordinary_text_is_kept() -> None:
    texts = [
        "A path C:\\users\\new, 100% of it &amp; more \\u00e9\\n",
        '{"a": "\\u0041\\"\\\\"}',
        "\\frac{1}{2}",
        "***",
    ]
    for text in texts:
        assert Redactor(KEY).text(text) == text
