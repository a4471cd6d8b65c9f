"""Check quickly whether an answer has the shape that its schema asks for.

jsonschema takes as long for a review of six integers as broker and ledger together. Nearly all answers are right, so
`affirm` goes first. What it does not affirm is not yet wrong: jsonschema decides, and gives the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Affirm = Callable[[Any], bool]
_SILENT = {"title", "description", "default", "$schema"}  # keywords that demand nothing
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "minLength": lambda value, bound: len(value) >= bound,
    "maxLength": lambda value, bound: len(value) <= bound,
    "minItems": lambda value, bound: len(value) >= bound,
    "maxItems": lambda value, bound: len(value) <= bound,
    "enum": lambda value, bound: value in bound,
}
# By exact Python type; that 3.0 is an integer to JSON Schema is left to jsonschema.
_TYPES: dict[str, tuple[type, set[str]]] = {
    "string": (str, {"minLength", "maxLength", "enum"}),
    "integer": (int, {"minimum", "maximum"}),
    "boolean": (bool, set()),
    "array": (list, {"minItems", "maxItems"}),
    "object": (dict, set()),
}


def affirm(schema: Mapping[str, Any]) -> Affirm:
    """Return a check that is true only of valid values, and never true for a schema with unknown keywords."""
    kind, known = _TYPES.get(str(schema.get("type")), (None, set()))
    rest = {name: demand for name, demand in schema.items() if name not in _SILENT | {"type"}}
    if kind is dict:
        return _object(rest)
    items = _each(rest.pop("items")) if kind is list and "items" in rest else None
    if kind is None or not rest.keys() <= known:
        return lambda _: False
    bounds = [(_BOUNDS[name], bound) for name, bound in rest.items()]

    def holds(value: Any) -> bool:
        return type(value) is kind and all(within(value, bound) for within, bound in bounds)

    return holds if items is None else lambda value: holds(value) and items(value)


def _each(schema: Mapping[str, Any]) -> Affirm:
    member = affirm(schema)
    return lambda values: all(map(member, values))


def _object(demands: Mapping[str, Any]) -> Affirm:
    if not demands.keys() <= {"properties", "required", "additionalProperties"}:
        return lambda _: False
    members = {name: affirm(schema) for name, schema in demands.get("properties", {}).items()}
    required = frozenset(demands.get("required", ()))
    others = demands.get("additionalProperties", True) is True  # else each is left to jsonschema

    def holds(value: Any) -> bool:
        if type(value) is not dict or not required <= value.keys():
            return False
        return all(members[name](found) if name in members else others for name, found in value.items())

    return holds
