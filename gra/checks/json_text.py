"""Read an answer that is JSON, and compare the values in it.

JSON is read strictly: duplicate keys, NaN and Infinity are errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from gra.checks.markdown_blocks import unfenced
from gra.checks.text_units import spaced
from gra.core.text.characters import normalized

MISSING = object()
JSON_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: not isinstance(value, bool) and isinstance(value, int | float) and value == value // 1,
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def read_json(answer: str) -> Any:
    """Return the JSON value that an answer is; `MISSING` for anything else, duplicate keys and NaN included."""
    try:
        text = unfenced(answer.lstrip("\ufeff"))
        return composed(json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant))
    except (ValueError, RecursionError):
        return MISSING


def composed(value: Any) -> Any:
    """Return a value with its texts, keys included, in Unicode's composed form (NFC)."""
    if isinstance(value, str):
        return normalized("NFC", value)
    if isinstance(value, list):
        return [composed(part) for part in value]
    if isinstance(value, dict):
        return {composed(key): composed(part) for key, part in value.items()}
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def at_path(value: Any, path: str) -> Any:
    """Return what stands at a path of a JSON value; `MISSING` where there is nothing."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for part in path.split(".") if path else []:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isascii() and part.isdigit() and len(part) < 8 and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def equal_json(one: Any, other: Any, ignore_case: bool) -> bool:
    """Decide whether two JSON values are the same; 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, str) and isinstance(other, str) and ignore_case:
        return spaced(one) == spaced(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(equal_json(a, b, ignore_case) for a, b in zip(one, other, strict=True))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_json(one[key], other[key], ignore_case) for key in other)
    return bool(one == other)
