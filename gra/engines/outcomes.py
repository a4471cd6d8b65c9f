"""Turn a recorded answer into the outcome of the call: usable, or which kind of unusable.

The ledger holds one text an answer. The thinking that an engine returned apart is recorded before it, between tags, and
is split off again here. So is the thinking that a model wrote into its text, also in ledgers of earlier releases.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from gra.core.hashing import canonical_json
from gra.core.text.characters import well_formed
from gra.core.text.thinking import split_thinking
from gra.engines.json_check import Affirm, affirm
from gra.engines.types import (
    Answer,
    Call,
    Choice,
    Completion,
    Json,
    Likelihood,
    Outcome,
    Refused,
    Reward,
    Text,
    Truncated,
    Unparsable,
)
from gra.ledger.ledger import Recorded

_OPEN, _CLOSE = "<think>\n", "\n</think>\n\n"  # around thinking that was returned apart


def recorded_text(reply: Completion) -> str:
    """Return the text that the ledger records for an answer: its thinking, if any, and what the model said."""
    text = f"{_OPEN}{reply.thinking}{_CLOSE}{reply.text}" if reply.thinking else reply.text
    return well_formed(text)


def read_outcome(call: Call, recorded: Recorded) -> Outcome:
    """Return what a recorded answer means for the output that was asked for."""
    if recorded.finish == "refusal":
        return Refused(recorded.text, recorded.key)
    completion = Completion(
        recorded.text,
        "stop",
        recorded.prompt_tokens,
        recorded.completion_tokens,
        recorded.cached_tokens,
        recorded.seconds,
        recorded.scores,
    )
    match call.output:
        case Choice(labels):
            # One token is asked for, so a choice always ends at its length.
            if set(recorded.scores) != set(labels) or not sum(recorded.scores.values()) > 0:
                return Unparsable(recorded.text, "no probability for every label", recorded.key)
            return Answer(recorded.text, dict(recorded.scores), recorded.key, completion)
        case Likelihood():
            if not recorded.scores.get("tokens"):
                return Unparsable(recorded.text, "no likelihood", recorded.key)
            return Answer(recorded.text, dict(recorded.scores), recorded.key, completion)
        case Reward():
            if not math.isfinite(recorded.scores.get("reward", math.nan)):
                return Unparsable(recorded.text, "no reward", recorded.key)
            return Answer(recorded.text, dict(recorded.scores), recorded.key, completion)
        case _ if recorded.finish == "length":
            return Truncated(recorded.text, recorded.key)
        case _ if recorded.finish != "stop":
            why = "a tool was called" if recorded.finish == "tool_call" else f"it ended with `{recorded.finish}`"
            return Unparsable(recorded.text, why, recorded.key)
        case Json(schema):
            return _read_json(schema, recorded, completion)
        case Text():
            thinking, text = split_thinking(recorded.text)
            if not text.strip():
                why = "thinking without an answer" if thinking else "an empty answer"
                return Unparsable(recorded.text, why, recorded.key)
            text = text.strip()
            return Answer(text, text, recorded.key, replace(completion, text=text, thinking=thinking))


@cache
def _validator(schema: str) -> tuple[Affirm, Any]:
    # Made once: jsonschema would otherwise check the schema itself again for every answer, for milliseconds.
    import jsonschema

    return affirm(json.loads(schema)), jsonschema.Draft202012Validator(json.loads(schema))


def read_value(schema: Mapping[str, Any], text: str) -> Any:
    """Return the JSON value in an answer that satisfies a schema.

    Raises:
        ValueError: the text is not JSON, or not of this schema; with the reason.
    """
    import jsonschema

    try:
        value = json.loads(text)
        certainly, validator = _validator(json.dumps(schema))
        if not certainly(value):
            validator.validate(value)
        canonical_json(value).encode()  # half a surrogate pair is valid JSON but no text to ask about
    except jsonschema.ValidationError as error:
        raise ValueError(f"not the schema asked for: {error.message}") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"not JSON: {error}") from None
    return value


def _split_json(text: str) -> tuple[str, str]:
    """Return the thinking before a JSON object, and the object; tags in the object's values divide nothing."""
    if text.lstrip().startswith("{"):
        return "", text
    thinking, closed, value = text.partition(_CLOSE)
    if thinking.startswith(_OPEN) and closed and value.lstrip().startswith("{"):
        return thinking.removeprefix(_OPEN), value
    return split_thinking(text)


def _read_json(schema: Mapping[str, Any], recorded: Recorded, completion: Completion) -> Outcome:
    thinking, text = _split_json(recorded.text)
    try:
        value = read_value(schema, text)
    except ValueError as error:
        return Unparsable(recorded.text, str(error), recorded.key)
    return Answer(text, value, recorded.key, replace(completion, text=text, thinking=thinking))
