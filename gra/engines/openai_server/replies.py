"""Parse what a server sends into typed values; no I/O. What does not fit raises `Garbled` and becomes a fault.

This is the only place that reads fields of a reply. Numbers are finite and in range, names are text, lists are lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gra.core.text.characters import well_formed

JsonObject = dict[str, Any]
_MOST_TOKENS = 10**9  # of one call; a larger count is no count
_LONGEST_NAME = 4096  # characters of a model's name; a longer one is no name
_ABOVE_ONE = 1e-3  # by which rounding may lift a log-probability above 0


class Garbled(Exception):
    """Report a reply that is not what the interface promises."""


class NoProbabilities(Exception):
    """Report a reply without the token probabilities that were asked for."""


class FinishKind(StrEnum):
    """What a finish reason means."""

    STOP = "stop"
    LENGTH = "length"
    REFUSAL = "refusal"
    TOOL_CALL = "tool_call"


# Of OpenAI, and of the services that keep their own names behind its interface. What is not here never is a good end.
_ENDINGS = {
    **dict.fromkeys(("stop", "stop_sequence", "end_turn", "eos", "eos_token", "complete"), FinishKind.STOP),
    **dict.fromkeys(("length", "max_tokens", "max_length", "model_length"), FinishKind.LENGTH),
    **dict.fromkeys(
        ("content_filter", "refusal", "safety", "recitation", "prohibited_content", "blocklist", "spii", "sensitive"),
        FinishKind.REFUSAL,
    ),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), FinishKind.TOOL_CALL),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Hold the error that a server reports; `status` is HTTP's, or the number in the body of a 200."""

    message: str
    param: str = ""
    code: str = ""
    kind: str = ""
    status: int = 0
    failed_generation: str = ""  # the answer that did not satisfy the schema, where the server shows it


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Describe a served model, as far as the server does."""

    name: str
    owner: str = ""
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Count a call's tokens; None: the server did not count them."""

    prompt: int | None
    completion: int | None
    cached: int = 0


@dataclass(frozen=True, slots=True)
class ChatReply:
    """Hold one chat completion; `alternatives` are the likeliest first tokens with their log-probabilities in nats."""

    text: str
    thinking: str
    ending: FinishKind
    alternatives: tuple[tuple[str, float], ...]
    counts: TokenCounts


def parse(body: bytes) -> Any:
    """Return the JSON value of a body; None when the body is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def read_problem(body: bytes, status: int = 0) -> Problem:
    """Return the problem that a body describes, in any of the forms in use; else the body as a message."""
    content = parse(body)
    if isinstance(content, list) and content and isinstance(content[0], dict):
        content = content[0]
    if isinstance(content, dict):
        return problem_in(content, status) or Problem(_sentence(content), status=status)
    return Problem(well_formed(body.decode(errors="replace")), status=status)


def problem_in(content: JsonObject, status: int = 0) -> Problem | None:
    """Return the problem that a JSON object describes; None when it describes none."""
    error = content.get("error")
    if isinstance(error, dict) and error:
        fields = error
    elif (error and not isinstance(error, bool)) or _is_problem(content):
        fields = content
    else:
        return None
    message = error if isinstance(error, str) and error else _sentence(fields)
    numbers = (_status(found) for found in (fields.get("code"), fields.get("status"), content.get("code")))
    return Problem(
        message,
        param=_text(fields.get("param")) or _named_field(fields.get("detail")),
        code=_text(fields.get("code")),
        kind=_text(fields.get("type")),
        status=status or next(filter(None, numbers), 0),
        failed_generation=_text(fields.get("failed_generation")),
    )


def _is_problem(content: JsonObject) -> bool:
    if content.get("choices"):
        return False
    return (
        "detail" in content
        or content.get("object") == "error"
        or ("code" in content and ("msg" in content or "message" in content))
    )


def _sentence(fields: JsonObject) -> str:
    """Return the sentence for people in an error object; all of it where it has none."""
    for name in ("message", "msg", "detail", "error_msg", "error", "errors"):
        if found := fields.get(name):
            return well_formed(found if isinstance(found, str) else _sentence_in(found))
    return well_formed(_shown(fields))


def _sentence_in(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(part, dict) and "msg" in part for part in value):
        return "; ".join(f"{_named_field([part])}: {_text(part['msg'])}".removeprefix(": ") for part in value)
    if isinstance(value, dict) and isinstance(value.get("message", value.get("msg")), str):
        return str(value.get("message", value.get("msg")))
    return _shown(value)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "an error that cannot be shown"


def _named_field(detail: Any) -> str:
    """Return the request's field that FastAPI names in a list of problems."""
    if not (isinstance(detail, list) and detail and isinstance(detail[0], dict)):
        return ""
    place = detail[0].get("loc")
    names = [part for part in place if isinstance(part, str)] if isinstance(place, list) else []
    return names[-1] if names and names[0] == "body" and len(names) > 1 else ""


def _status(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600 else 0


def _text(value: Any) -> str:
    return well_formed(value) if isinstance(value, str) else ""


def read_models(body: bytes) -> dict[str, ModelCard] | None:
    """Return the served models by name; None where a body is no list of models."""
    content = parse(body)
    listed = content.get("data", content.get("models")) if isinstance(content, dict) else content
    if not isinstance(listed, list):
        return None
    cards: dict[str, ModelCard] = {}
    for card in listed:
        if isinstance(card, dict) and 0 < len(name := _text(card.get("id"))) <= _LONGEST_NAME:
            length = card.get("max_model_len")
            known = isinstance(length, int) and not isinstance(length, bool) and 0 < length < _MOST_TOKENS
            cards[name] = ModelCard(name, _text(card.get("owned_by")), length if known else None)
    return cards


def read_chat(reply: JsonObject) -> ChatReply:
    """Return the chat completion in a reply.

    Raises:
        Garbled: the reply has no message, a part of another type than the interface says, or an unknown end.
    """
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(message := choice.get("message"), dict):
        raise Garbled(f"no completion but: {_sentence(reply)}")
    reason = choice.get("finish_reason")
    if not isinstance(reason, str | None):
        raise Garbled("a `finish_reason` that is not text")
    text, thinking = _content(message.get("content"))
    for name in ("reasoning_content", "reasoning"):
        if isinstance(found := message.get(name), str) and not thinking:
            thinking = well_formed(found)
    ending = FinishKind.REFUSAL if message.get("refusal") else _ENDINGS.get((reason or "").strip().lower())
    if ending is None:
        failure = choice.get("error")
        why = f" ({_sentence(failure)})" if isinstance(failure, dict) else ""
        raise Garbled(f"an answer that ended with finish_reason {json.dumps(reason)}{why}")
    return ChatReply(text, thinking.strip(), ending, _alternatives(choice), read_counts(reply))


def _content(content: Any) -> tuple[str, str]:
    """Return text and thinking of a message's content: text, nothing, or a list of typed parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return well_formed(content), ""
    if not isinstance(content, list):
        raise Garbled("a message that is not text")
    text: list[str] = []
    thinking: list[str] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(said)}:
                text.append(said)
            case {"type": "thinking", "thinking": str(said)}:
                thinking.append(said)
            case {"type": "thinking", "thinking": list(parts)}:
                thinking += map(_said, parts)
            case _:
                raise Garbled("a message that is not text")
    return well_formed("".join(text)), well_formed("".join(thinking))


def _said(part: Any) -> str:
    """Return the text of a part of thinking; thinking within thinking is none, to any depth."""
    match part:
        case {"type": "text", "text": str(said)}:
            return said
    raise Garbled("thinking that is not text")


def _alternatives(choice: JsonObject) -> tuple[tuple[str, float], ...]:
    """Return the first token's alternatives; none where the reply gives none."""
    match choice.get("logprobs"):
        case {"content": [first, *_]}:
            pass
        case None | {"content": None | []} | []:
            return ()
        case dict(other) if "content" not in other:
            return ()
        case _:
            raise Garbled("`logprobs` of a wrong type")
    if not isinstance(first, dict) or not isinstance(listed := first.get("top_logprobs") or [], list):
        raise Garbled("`top_logprobs` of a wrong type")
    entries = [*listed, first] if "logprob" in first else listed
    return tuple(_token(entry) for entry in entries)


def _token(entry: Any) -> tuple[str, float]:
    if not isinstance(entry, dict) or not isinstance(token := entry.get("token"), str):
        raise Garbled("a token that is not text")
    return token, _logprob(entry.get("logprob"))


def _logprob(value: Any) -> float:
    """Return a log-probability in nats: no more than 0; minus infinity is one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.nan
        if number <= _ABOVE_ONE:  # false for NaN
            return min(number, 0.0)
    raise Garbled("a log-probability that is none")


def read_counts(reply: JsonObject) -> TokenCounts:
    """Return how many tokens a reply says that a call took.

    Raises:
        Garbled: a count is negative, too large, or not a whole number.
    """
    usage = reply.get("usage")
    if usage is None:
        return TokenCounts(None, None)
    if not isinstance(usage, dict) or not isinstance(details := usage.get("prompt_tokens_details") or {}, dict):
        raise Garbled("`usage` of a wrong type")
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cached = _count(details.get("cached_tokens")) or 0
    # Cached tokens are a part of the prompt's; a larger number would make the price negative.
    return TokenCounts(prompt, completion, min(cached, prompt or 0))


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS:
        return value
    raise Garbled("a number of tokens that is none")


def read_token_ids(reply: JsonObject) -> list[int]:
    """Return the token ids in a reply of vLLM's tokenizer.

    Raises:
        Garbled: the reply holds none.
    """
    tokens = reply.get("tokens")
    if not isinstance(tokens, list) or not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
        raise Garbled("token ids that are none")
    return tokens


def read_prompt_logprobs(reply: JsonObject, before: int, answer: Sequence[int]) -> float:
    """Return the log-probability of an answer, in nats, from the probabilities of the prompt's tokens.

    Args:
        reply: of vLLM's completion endpoint.
        before: the number of tokens before the answer.
        answer: the answer's token ids.

    Raises:
        Garbled: the reply does not hold a finite probability of each token.
    """
    match reply.get("choices"):
        case [{"prompt_logprobs": list(positions)}, *_] if len(positions) == before + len(answer):
            pass
        case _:
            raise Garbled("no probabilities of the prompt's tokens")
    total = 0.0
    for token, at in zip(answer, positions[before:], strict=True):
        entry = at.get(str(token)) if isinstance(at, dict) else None
        if not isinstance(entry, dict):
            raise Garbled("no probability of a token of the prompt")
        total += _logprob(entry.get("logprob"))
    if not math.isfinite(total):
        raise Garbled("a token of the prompt that is impossible")
    return total
