"""Convert a row of a published form of instruction data to its instruction and response, one function a form.

Text beside the instruction is joined to it with a blank line. A system message comes before it, an input or a context
after it. Nothing is cut or converted in any other way, and a row with text that has no place is bad.
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
_AFTER = ("input", "context")  # texts that an instruction is about


def _gra(row: Row, turns: Turns) -> list[Exchange] | BadRow:
    return _instruction(row, "response")


def _alpaca(row: Row, turns: Turns) -> list[Exchange] | BadRow:
    return _instruction(row, "output")


def _self_instruct(row: Row, turns: Turns) -> list[Exchange] | BadRow:
    """Return an exchange for every instance: an input and the output that belongs to it."""
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances:
        return BadRow("`instances` is missing, empty or not a list")
    found: list[Exchange] = []
    for instance in instances:
        if not isinstance(instance, Mapping):
            return BadRow("an instance in `instances` is not an `input` and an `output`")
        rest = {key: value for key, value in row.items() if key != "instances"}
        if lost := [key for key in ("output", *_AFTER) if rest.get(key)]:
            return BadRow(f"`{lost[0]}` would be lost: rows with `instances` have their texts there")
        made = _instruction({**rest, **instance, "instruction": row.get("instruction")}, "output")
        if isinstance(made, BadRow):
            return made
        found += made
    return found


def _instruction(row: Row, response: str) -> list[Exchange] | BadRow:
    pair = _pair(row, "instruction", response)
    if isinstance(pair, BadRow):
        return pair
    if row.get("history"):
        return BadRow("`history` would be lost: a seed is one exchange")
    for key in ("system", *_AFTER):
        if row.get(key) is not None and not isinstance(row[key], str):
            return BadRow(f"`{key}` is not text")
    parts = [row.get("system"), pair[0], *(row.get(key) for key in _AFTER)]
    return [("\n\n".join(part.strip() for part in parts if part and part.strip()), pair[1])]


def _prompt_completion(row: Row, turns: Turns) -> list[Exchange] | BadRow:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _conversation([*prompt, *completion], "prompt` and `completion", "role", "content", turns)
    pair = _pair(row, "prompt", "completion")
    return pair if isinstance(pair, BadRow) else [pair]


def _sharegpt(row: Row, turns: Turns) -> list[Exchange] | BadRow:
    return _conversation(row.get("conversations"), "conversations", "from", "value", turns)


def _messages(row: Row, turns: Turns) -> list[Exchange] | BadRow:
    return _conversation(row.get("messages"), "messages", "role", "content", turns)


def _pair(row: Row, instruction: str, response: str) -> Exchange | BadRow:
    for key in (instruction, response):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return BadRow(f"`{key}` is missing, empty or not text")
    return row[instruction].strip(), row[response].strip()


def _conversation(turns_said: Any, key: str, who: str, what: str, turns: Turns) -> list[Exchange] | BadRow:
    """Return a question and its answer, with a system message in front if there is one."""
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
    return [("\n\n".join(filter(None, (system, question))), answer)]


SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Row, Turns], list[Exchange] | BadRow]]] = {
    "gra": (("instruction", "response"), _gra),
    "alpaca": (("instruction", "output"), _alpaca),
    "self_instruct": (("instruction", "instances"), _self_instruct),
    "sharegpt": (("conversations",), _sharegpt),
    "messages": (("messages",), _messages),
    "prompt_completion": (("prompt", "completion"), _prompt_completion),
}


def recognized(row: Row) -> list[str]:
    """Return the forms whose keys a row has."""
    return [name for name, (keys, _) in SHAPES.items() if all(key in row for key in keys)]
