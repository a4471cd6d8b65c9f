"""One function a published form of instruction data: from a row to its instruction and response, or what is wrong.

Text beside the instruction (Alpaca's input, a system message) goes with it, after or before it with a blank line
between. Nothing is cut, joined or converted in any other way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from gra.data.seeds.files import BadRow, Row

Turns = Literal["only", "first"]
Exchange = tuple[str, str]
_SPEAKERS = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip


def _gra(row: Row, turns: Turns) -> Exchange | BadRow:
    for lost in ("input", "context"):
        if row.get(lost):
            return BadRow(f"`{lost}` would be lost: rows with `instruction` and `response` have no place for it")
    return _pair(row, "instruction", "response")


def _alpaca(row: Row, turns: Turns) -> Exchange | BadRow:
    pair = _pair(row, "instruction", "output")
    extra = row.get("input")
    if isinstance(pair, BadRow) or extra is None:
        return pair
    if not isinstance(extra, str):
        return BadRow("`input` is not text")
    return "\n\n".join(filter(None, (pair[0], extra.strip()))), pair[1]


def _prompt_completion(row: Row, turns: Turns) -> Exchange | BadRow:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _conversation([*prompt, *completion], "prompt` and `completion", "role", "content", turns)
    return _pair(row, "prompt", "completion")


def _sharegpt(row: Row, turns: Turns) -> Exchange | BadRow:
    return _conversation(row.get("conversations"), "conversations", "from", "value", turns)


def _messages(row: Row, turns: Turns) -> Exchange | BadRow:
    return _conversation(row.get("messages"), "messages", "role", "content", turns)


def _pair(row: Row, instruction: str, response: str) -> Exchange | BadRow:
    for key in (instruction, response):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return BadRow(f"`{key}` is missing, empty or not text")
    return row[instruction].strip(), row[response].strip()


def _conversation(turns_said: Any, key: str, who: str, what: str, turns: Turns) -> Exchange | BadRow:
    """A question and its answer, with a system message in front if there is one."""
    if not isinstance(turns_said, list) or not turns_said:
        return BadRow(f"`{key}` is missing, empty or not a list")
    said: list[tuple[str, str]] = []
    for turn in turns_said:
        if not isinstance(turn, Mapping) or not isinstance(turn.get(what), str) or not isinstance(turn.get(who), str):
            return BadRow(f"a turn of `{key}` is not a `{who}` and a `{what}`, both text")
        if turn[who] not in _SPEAKERS:
            return BadRow(f"`{turn[who]}` speaks in `{key}`; known are {', '.join(_SPEAKERS)}")
        said.append((_SPEAKERS[turn[who]], turn[what].strip()))
    system = said.pop(0)[1] if said[0][0] == "system" else ""
    if [speaker for speaker, _ in said[:2]] != ["user", "assistant"]:
        return BadRow(f"`{key}` does not begin with a question and its answer")
    if len(said) > 2 and turns == "only":
        return BadRow(f"`{key}` has {len(said)} turns; `seeds.turns: first` takes the first question and its answer")
    (_, question), (_, answer) = said[:2]
    if not question or not answer:
        return BadRow(f"the question or the answer in `{key}` is empty")
    return "\n\n".join(filter(None, (system, question))), answer


SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Row, Turns], Exchange | BadRow]]] = {
    "gra": (("instruction", "response"), _gra),
    "alpaca": (("instruction", "output"), _alpaca),
    "sharegpt": (("conversations",), _sharegpt),
    "messages": (("messages",), _messages),
    "prompt_completion": (("prompt", "completion"), _prompt_completion),
}


def recognised(row: Row) -> list[str]:
    """The forms whose keys a row has."""
    return [name for name, (keys, _) in SHAPES.items() if all(key in row for key in keys)]
