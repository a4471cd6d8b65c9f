"""What is said to an OpenAI-compatible server, and how its replies are read; no I/O.

Servers differ in what they understand. Each question therefore has several forms, the most
constrained first; the engine goes down the list when the server declines one, and remembers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from gra.engines.types import Call, Choice, Completion, Json

Payload = dict[str, Any]
# As many of the likeliest tokens as OpenAI and vLLM give by default, then what stricter servers give.
_TOP_TOKENS = (20, 5)
# A label that is not among the likeliest tokens counts as impossible only when it can hardly weigh anything.
_NEGLIGIBLE = 0.01
_SCHEMA_NOTE = (
    "\n\nAnswer with one JSON object and nothing else: no explanation, no code fence. "
    "It must satisfy this JSON schema:\n{schema}"
)


@dataclass(frozen=True, slots=True)
class RequestForm:
    """One way to put a question: what is added to the request, and a note to the last message."""

    extra: Mapping[str, Any]
    note: str = ""
    enough: bool = True  # false: it is only sent to learn why the other forms were declined


PLAIN = RequestForm({})


def question(call: Call) -> str:
    """What forms are remembered by: one server may take one schema and not another."""
    match call.output:
        case Json(schema):
            return json.dumps(schema)
        case Choice(labels):
            return f"choice {labels}"
        case _:
            return "text"


def forms(call: Call, label_ids: Sequence[int] | None) -> tuple[RequestForm, ...]:
    """The ways to put a call, the most constrained first; `label_ids` are known where a server shows its tokenizer."""
    match call.output:
        case Json(schema):
            return _json_forms(json.dumps(schema))
        case Choice():
            return (*((_exact(tuple(label_ids)),) if label_ids else ()), *_top_forms(), RequestForm({}, enough=False))
        case _:
            return (PLAIN,)


@cache
def _json_forms(text: str) -> tuple[RequestForm, ...]:
    """By grammar, as any JSON object, by words alone."""
    schema = {"name": "answer", "strict": True, "schema": _closed(json.loads(text))}
    note = _SCHEMA_NOTE.format(schema=text)
    return (
        RequestForm({"response_format": {"type": "json_schema", "json_schema": schema}}),
        RequestForm({"response_format": {"type": "json_object"}}, note),
        RequestForm({}, note),
    )


def _closed(schema: Any) -> Any:
    """The schema with every object closed to properties it does not name, as strict servers demand."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    return closed | {"additionalProperties": False} if closed.get("type") == "object" else closed


@cache
def _exact(label_ids: tuple[int, ...]) -> RequestForm:
    """vLLM: the probabilities of just these tokens (older releases give the likeliest ones, which are read as well)."""
    ids = list(label_ids)
    extra = {"logprob_token_ids": ids, "allowed_token_ids": ids, "return_tokens_as_token_ids": True}
    return RequestForm({"logprobs": True, "top_logprobs": _TOP_TOKENS[0], **extra})


@cache
def _top_forms() -> tuple[RequestForm, ...]:
    return tuple(RequestForm({"logprobs": True, "top_logprobs": count}) for count in _TOP_TOKENS)


def payload(call: Call, form: RequestForm, model: str, length_key: str) -> Payload:
    """The body of a chat completion request."""
    messages = [{"role": role, "content": content} for role, content in call.messages]
    if form.note:
        messages[-1]["content"] += form.note
    body: Payload = {"model": model, "messages": messages}
    if isinstance(call.output, Choice):
        body |= {"temperature": 0.0, length_key: 1}
    else:
        sampling = call.sampling
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p, length_key: sampling.max_tokens}
        if sampling.repetition_penalty != 1.0:  # not part of OpenAI's own interface
            body["repetition_penalty"] = sampling.repetition_penalty
    return {**body, **form.extra}


class Garbled(Exception):
    """A reply that is not what the interface promises."""


class NoProbabilities(Exception):
    """The server took the call and gave no token probabilities."""


def read_completion(call: Call, reply: Mapping[str, Any], label_ids: Mapping[str, int] | None) -> Completion:
    """The completion in a chat completion reply.

    Raises:
        Garbled: the reply has no message.
        NoProbabilities: probabilities were asked for and none came.
    """
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise Garbled("the message is not text")
        finish = _finish(choice, message)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Garbled("the reply holds no message") from None
    scores: Mapping[str, float] = {}
    match call.output:
        case Choice(labels) if finish != "refusal":
            scores = label_probabilities(labels, choice, label_ids)
        case Json():
            text = only_object(text)
    return _completion(text, finish, reply, call, scores)


def _finish(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Literal["stop", "length", "refusal"]:
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        return "refusal"
    return "length" if choice.get("finish_reason") == "length" else "stop"


def _completion(
    text: str,
    finish: Literal["stop", "length", "refusal"],
    reply: Mapping[str, Any],
    call: Call,
    scores: Mapping[str, float],
) -> Completion:
    usage = reply.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    prompt = usage.get("prompt_tokens")
    said = usage.get("completion_tokens")
    return Completion(
        text,
        finish,
        # A server that does not count is counted for, roughly, so that a budget still ends.
        _estimate("".join(content for _, content in call.messages)) if prompt is None else int(prompt),
        _estimate(text) if said is None else int(said),
        int(details.get("cached_tokens") or 0),
        scores=scores,
    )


def _estimate(text: str) -> int:
    return math.ceil(len(text.encode(errors="replace")) / 4)


def label_probabilities(
    labels: Sequence[str], choice: Mapping[str, Any], label_ids: Mapping[str, int] | None
) -> dict[str, float]:
    """The probability of each label among the labels, from the first token's alternatives.

    A label that the server does not list is given 0 when all such labels together can weigh no more than one
    hundredth of what is listed. Otherwise it is left out, and the answer is not usable.

    Raises:
        NoProbabilities: the reply lists no alternatives.
    """
    try:
        first = choice["logprobs"]["content"][0]
        listed = {entry["token"]: math.exp(entry["logprob"]) for entry in [*first["top_logprobs"], first]}
    except (KeyError, IndexError, TypeError):
        raise NoProbabilities from None
    if not listed:
        raise NoProbabilities
    weights = dict.fromkeys(labels, 0.0)
    names = {label.casefold(): label for label in labels}
    if label_ids:
        names |= {f"token_id:{number}": label for label, number in label_ids.items()}
    for token, probability in listed.items():
        if (label := names.get(token.strip().casefold())) is not None:
            weights[label] += probability
    found = sum(weights.values())
    missing = [label for label, weight in weights.items() if weight == 0.0]
    if not found or len(missing) * min(listed.values()) > _NEGLIGIBLE * found:
        return {label: weight for label, weight in weights.items() if weight}
    return {label: weight / found for label, weight in weights.items()}


def only_object(text: str) -> str:
    """The JSON object in a text that holds exactly one, among reasoning, a code fence or polite words; else the text.

    Whether it satisfies the schema is checked later. A text with the beginning of a second object is left as it
    is: which one was meant, or whether it was cut off, cannot be known.
    """
    begin = text.find("{", max(text.rfind("</think>"), 0))
    if begin < 0 or (begin == 0 and text.endswith("}")):
        return text
    try:
        _, end = json.JSONDecoder().raw_decode(text, begin)
    except (ValueError, RecursionError):
        return text
    return text if "{" in text[end:] else text[begin:end]


def likelihood_payload(model: str, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Payload:
    """The body of a vLLM completion request that scores an answer instead of decoding one."""
    return {
        "model": model,
        "prompt": [*prompt_ids, *answer_ids],
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
    }


def read_likelihood(
    call: Call, reply: Mapping[str, Any], prompt_ids: Sequence[int], answer_ids: Sequence[int]
) -> Completion:
    """The likelihood of the answer, in nats, from the prompt's token probabilities.

    Raises:
        Garbled: the reply does not hold them.
    """
    try:
        positions = reply["choices"][0]["prompt_logprobs"][len(prompt_ids) :]
        logprob = sum(at[str(token)]["logprob"] for token, at in zip(answer_ids, positions, strict=True))
    except (KeyError, IndexError, TypeError, ValueError):
        raise Garbled("the reply holds no probabilities of the prompt's tokens") from None
    return _completion("", "stop", reply, call, {"logprob": float(logprob), "tokens": float(len(answer_ids))})
