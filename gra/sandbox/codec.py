"""Encode values as JSON, for two processes of which one is not trusted.

Decoding makes plain data and runs no code.
Plain data (numbers, text, bytes, None, lists, tuples, sets, dicts, a few types of the standard library) is copied.
Every other value stays where it is, and a reference to it travels. Only the standard library is imported.
"""

from __future__ import annotations

import builtins
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

# Stores a value and returns its number.
Keep = Callable[[Any], int]
# Returns the value of a number. The second argument is the plain data that the value also is, or `ABSENT`.
Fetch = Callable[[int, Any], Any]
ABSENT = object()

_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque, "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
}  # fmt: skip
_DICTS = (dict, Counter, OrderedDict, defaultdict)
_BY_TEXT = {"decimal": "Decimal", "fractions": "Fraction"}


def encode(value: Any, keep: Keep) -> Any:
    """Return a value as JSON can hold it; `keep` stores what cannot be copied."""
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        # Longer ones as hexadecimal text: Python limits the digits it converts.
        return value if abs(value) < 1 << 63 else {"int": hex(value)}
    if kind is list:
        return [encode(item, keep) for item in value]
    if kind in _DICTS:
        return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in value.items()]}
    if kind in (tuple, set, frozenset, deque):
        return {kind.__name__: [encode(item, keep) for item in value]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    return _encode_other(value, kind, keep)


def _is_builtin(kind: type) -> bool:
    return kind.__module__ == "builtins" and getattr(builtins, kind.__name__, None) is kind


def _encode_other(value: Any, kind: type, keep: Keep) -> Any:
    if isinstance(value, ModuleType) and value.__name__ in sys.stdlib_module_names:
        return {"module": value.__name__}
    if kind is type and _is_builtin(value):
        return {"builtin": value.__name__}
    if _BY_TEXT.get(kind.__module__) == kind.__name__:
        return {kind.__module__: str(value)}
    below = next((base for base in (int, float, str, list, tuple, dict, set) if isinstance(value, base)), None)
    if below is None:
        return {"object": keep(value)}
    return {"object": keep(value), "below": encode(below(value), keep)}


def decode(data: Any, fetch: Fetch) -> Any:
    """Return the value that was encoded.

    Raises:
        ValueError, TypeError, KeyError: for data that `encode` does not write.
    """
    if isinstance(data, list):
        return [decode(item, fetch) for item in data]
    if not isinstance(data, dict):
        return data
    if "object" in data:
        below = decode(data["below"], fetch) if "below" in data else ABSENT
        return fetch(int(data["object"]), below)
    if len(data) != 1:
        raise ValueError("an encoded value has one tag")
    [(tag, content)] = data.items()
    if tag == "dict":
        return {decode(key, fetch): decode(item, fetch) for key, item in content}
    if tag in _SEQUENCES:
        return _SEQUENCES[tag]([decode(item, fetch) for item in content])
    return _decode_text(tag, content)


def _decode_text(tag: str, text: str) -> Any:
    if tag == "int":
        return int(text, 16)
    if tag in ("bytes", "bytearray"):
        return getattr(builtins, tag).fromhex(text)
    if tag == "module" and text in sys.stdlib_module_names:
        return import_module(text)
    if tag == "builtin" and isinstance(kind := getattr(builtins, text), type):
        return kind
    if tag in _BY_TEXT:
        return getattr(import_module(tag), _BY_TEXT[tag])(text)
    raise ValueError(f"there is no tag {tag}")
