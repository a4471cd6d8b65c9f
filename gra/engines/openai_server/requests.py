"""Write the requests to an OpenAI-compatible server and turn its replies into completions; no I/O.

Servers differ in what they take. Each question therefore has several forms, the most constrained first; which one is
used is decided in `negotiation`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gra.core.text.thinking import split_thinking
from gra.engines.openai_server.replies import (
    ChatReply,
    FinishKind,
    JsonObject,
    NoProbabilities,
    TokenCounts,
    read_counts,
    read_prompt_logprobs,
)
from gra.engines.types import Call, Choice, Completion, Finish, Json

Payload = dict[str, Any]
# As many of the likeliest tokens as OpenAI and vLLM give by default, then what stricter servers give.
_TOP_TOKENS = (20, 5)
# A label that is not among the likeliest tokens counts as impossible only when it can hardly weigh anything.
_NEGLIGIBLE = 0.01
_FINISH: dict[FinishKind, Finish] = {
    FinishKind.STOP: "stop",
    FinishKind.LENGTH: "length",
    FinishKind.REFUSAL: "refusal",
    FinishKind.TOOL_CALL: "tool_call",
}
_SCHEMA_NOTE = (
    "\n\nAnswer with one JSON object and nothing else: no explanation, no code fence. "
    "It must satisfy this JSON schema:\n{schema}"
)


@dataclass(frozen=True, slots=True)
class RequestForm:
    """Describe one way to put a question: what is added to the request, and a note to the last message."""

    extra: Mapping[str, Any]
    note: str = ""
    enough: bool = True  # false: it is only sent to learn why the other forms were declined


PLAIN = RequestForm({})


def question(call: Call) -> str:
    """Return what forms are remembered by: a server may take one schema and not another."""
    match call.output:
        case Json(schema):
            return json.dumps(schema)
        case Choice(labels):
            return f"choice {labels}"
        case _:
            return "text"


def forms(call: Call, label_ids: Sequence[int] | None) -> tuple[RequestForm, ...]:
    """Return the ways to put a call, the most constrained first.

    Args:
        call: What is asked.
        label_ids: The first token of each label, where the server shows its tokenizer.
    """
    match call.output:
        case Json(schema):
            return _json_forms(json.dumps(schema))
        case Choice():
            return (*((_exact(tuple(label_ids)),) if label_ids else ()), *_top_forms(), RequestForm({}, enough=False))
        case _:
            return (PLAIN,)


@cache
def _json_forms(text: str) -> tuple[RequestForm, ...]:
    """Return three forms: by grammar, as any JSON object, by words alone."""
    schema = {"name": "answer", "strict": True, "schema": _closed(json.loads(text))}
    note = _SCHEMA_NOTE.format(schema=text)
    return (
        RequestForm({"response_format": {"type": "json_schema", "json_schema": schema}}),
        RequestForm({"response_format": {"type": "json_object"}}, note),
        RequestForm({}, note),
    )


def _closed(schema: Any) -> Any:
    """Return the schema with every object closed to properties it does not name, as strict servers demand."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    return closed | {"additionalProperties": False} if closed.get("type") == "object" else closed


@cache
def _exact(label_ids: tuple[int, ...]) -> RequestForm:
    """Return vLLM's form for the probabilities of these tokens alone.

    Older releases give the likeliest tokens instead, which are read as well.
    """
    ids = list(label_ids)
    extra = {"logprob_token_ids": ids, "allowed_token_ids": ids, "return_tokens_as_token_ids": True}
    return RequestForm({"logprobs": True, "top_logprobs": _TOP_TOKENS[0], **extra})


@cache
def _top_forms() -> tuple[RequestForm, ...]:
    return tuple(RequestForm({"logprobs": True, "top_logprobs": count}) for count in _TOP_TOKENS)


def sampling_fields(call: Call) -> dict[str, float]:
    """Return the sampling settings that a call wants sent, by their names in the interface."""
    if isinstance(call.output, Choice):
        return {"temperature": 0.0}
    sampling = call.sampling
    fields = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.repetition_penalty != 1.0:  # not part of OpenAI's own interface
        fields["repetition_penalty"] = sampling.repetition_penalty
    return {name: value for name, value in fields.items() if value is not None}


def payload(
    call: Call, form: RequestForm, model: str, length_key: str, omitted: Collection[str] = frozenset()
) -> Payload:
    """Return the body of a chat completion request, without the sampling settings that the server does not take."""
    messages = [{"role": role, "content": content} for role, content in call.messages]
    if form.note:
        messages[-1]["content"] += form.note
    body: Payload = {"model": model, "messages": messages}
    body |= {name: value for name, value in sampling_fields(call).items() if name not in omitted}
    body[length_key] = 1 if isinstance(call.output, Choice) else call.sampling.max_tokens
    return {**body, **form.extra}


def read_completion(call: Call, reply: ChatReply, label_ids: Mapping[str, int] | None) -> Completion:
    """Return the completion in a chat completion reply.

    Raises:
        NoProbabilities: probabilities were asked for and none came.
    """
    scores: Mapping[str, float] = {}
    text, thinking = reply.text, reply.thinking
    match call.output:
        case Choice(labels) if reply.ending is not FinishKind.REFUSAL:
            scores = label_probabilities(labels, reply.alternatives, label_ids)
        case Json():
            if not text.lstrip().startswith("{"):
                found, text = split_thinking(text)
                thinking = thinking or found
            text = only_object(text)
    return _completion(text, _FINISH[reply.ending], reply.counts, call, scores, thinking)


def refused(call: Call) -> Completion:
    """Return the completion of a call that a server refused in place of answering it."""
    return _completion("", "refusal", TokenCounts(None, None), call, {})


def undone(call: Call, text: str) -> Completion:
    """Return the completion of a call whose answer a server withheld, because it did not satisfy the schema."""
    return _completion(text, "stop", TokenCounts(None, None), call, {})


def _completion(
    text: str, finish: Finish, counts: TokenCounts, call: Call, scores: Mapping[str, float], thinking: str = ""
) -> Completion:
    # Tokens that a server does not count are estimated, so that a budget still ends. A prompt always has some.
    prompt = counts.prompt or _estimate("".join(content for _, content in call.messages))
    answered = counts.completion or _estimate(text + thinking)
    return Completion(text, finish, prompt, answered, counts.cached, scores=scores, thinking=thinking)


def _estimate(text: str) -> int:
    return math.ceil(len(text.encode(errors="replace")) / 4)


def label_probabilities(
    labels: Sequence[str], alternatives: Sequence[tuple[str, float]], label_ids: Mapping[str, int] | None
) -> dict[str, float]:
    """Return the probability of each label among the labels, from the first token's alternatives.

    A label that the server does not list is given 0 when it can hardly weigh anything. That is so when all such labels
    together weigh at most one hundredth of the listed ones. Otherwise the label is left out, and the answer is not
    usable.

    Args:
        labels: The labels that were asked for.
        alternatives: Tokens with their log-probabilities, in nats.
        label_ids: The first token of each label, where the server shows its tokenizer.

    Raises:
        NoProbabilities: there are no alternatives.
    """
    if not alternatives:
        raise NoProbabilities
    listed = {token: math.exp(logprob) for token, logprob in alternatives}
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
    """Return the JSON object in a text that holds exactly one, such as in a code fence; else the text.

    Whether it satisfies the schema is checked later. A text with the beginning of a second object is left as it is. It
    is not known which one was meant.
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
    """Return the body of a vLLM completion request that scores an answer instead of decoding one."""
    return {
        "model": model,
        "prompt": [*prompt_ids, *answer_ids],
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
    }


def read_likelihood(call: Call, reply: JsonObject, prompt_tokens: int, answer_ids: Sequence[int]) -> Completion:
    """Return the likelihood of the answer, in nats, from the probabilities of the prompt's tokens.

    Raises:
        Garbled: the reply does not hold them.
    """
    logprob = read_prompt_logprobs(reply, prompt_tokens, answer_ids)
    scores = {"logprob": logprob, "tokens": float(len(answer_ids))}
    return _completion("", "stop", read_counts(reply), call, scores)
