"""Write sentences for the problems of a recipe: where, what, and the key that was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from gra.core.processes.secrets import HIDDEN, is_secret_name, looks_secret

KeyPath = tuple[str | int, ...]


class CommandLine(str):
    """Origin of a value that was given as an override; its value may be a secret and is never repeated."""

    __slots__ = ()


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """Return a hint at the choice that is close to `word`; empty without one."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda c: "is required and is not given",
    "int_type": lambda c: "must be a whole number",
    "float_type": lambda c: "must be a number",
    "string_type": lambda c: "must be text (put quotes around it)",
    "bool_type": lambda c: "must be true or false",
    "list_type": lambda c: "must be a list",
    "dict_type": lambda c: "must be a mapping of keys to values",
    "model_type": lambda c: "must be a section with keys of its own",
    "finite_number": lambda c: "must be a finite number",
    "too_short": lambda c: f"must have at least {c['min_length']}, has {c['actual_length']}",
    "literal_error": lambda c: f"must be one of {c['expected']}",
    "greater_than_equal": lambda c: f"must be at least {c['ge']}",
    "greater_than": lambda c: f"must be more than {c['gt']}",
    "less_than_equal": lambda c: f"must be at most {c['le']}",
    "less_than": lambda c: f"must be less than {c['lt']}",
}


def place(origins: Mapping[KeyPath, str], key: KeyPath, path: Path) -> str:
    """Return the place of a value for a message: "line 3", "base.yaml:3" or "command line (...)"."""
    origin = _origin(origins, key)
    return f"line {origin.removeprefix(f'{path}:')}" if origin.startswith(f"{path}:") else origin


def _origin(origins: Mapping[KeyPath, str], key: KeyPath) -> str:
    while key and key not in origins:
        key = key[:-1]
    return origins.get(key, "")


def explain(
    schema: type[BaseModel], origins: Mapping[KeyPath, str], path: Path, item: Any, elsewhere: Mapping[str, str]
) -> str:
    """Turn one pydantic error into a sentence with its place."""
    loc: KeyPath = ()
    for part in item["loc"]:
        if (*loc, part) in origins or isinstance(part, int) or not _is_union_tag(part):
            loc = (*loc, part)
    name = ".".join(HIDDEN if looks_secret(str(part)) else str(part) for part in loc)
    where = f"{found}: " if (found := place(origins, loc, path)) or origins else ""  # none when made in Python
    if item["type"] == "extra_forbidden":
        fields = _fields_at(schema, loc[:-1])
        listing = "" if len(fields) > 12 else f" (known here: {', '.join(fields)})"
        key = str(loc[-1])
        section = _section_at(schema, loc[:-1])
        if section is not None and (new := getattr(section, "renamed", {}).get(key)) is not None:
            return f"{where}`{name}` has a new name: write {new}"
        known = elsewhere.get(key)
        hint = f"; {known}" if known else did_you_mean(key, fields) or listing
        return f"{where}unknown key `{name}`{hint}"
    sentence = _SENTENCES.get(item["type"])
    context = item.get("ctx") or {}
    text = sentence(context) if sentence else item["msg"].removeprefix("Value error, ")
    value = item.get("input")
    given = not isinstance(_origin(origins, loc), CommandLine) and isinstance(value, (str, int, float, bool))
    shown = f", not {_shown(name, value)}" if given and sentence else ""
    near = did_you_mean(f"{value!r:.200}".strip("'"), re.findall(r"'([^']*)'", context.get("expected", "")))
    return f"{where}`{name}` {text}{shown}{near}" if name else f"{where}{text}{shown}"


def _shown(name: str, value: object) -> str:
    secret = isinstance(value, str) and (looks_secret(value) or is_secret_name(name))
    return HIDDEN if secret else f"{value!r:.200}"


def _is_union_tag(part: str) -> bool:
    # Within a union pydantic adds the branch's type to the location.
    return part in {"str", "int", "float", "bool", "none"} or part[:1].isupper() or "[" in part


def _fields_at(schema: type[BaseModel], loc: KeyPath) -> list[str]:
    """List the field names of the section at `loc`."""
    section = _section_at(schema, loc)
    return list(section.model_fields) if section is not None else []


def _section_at(schema: type[BaseModel], loc: KeyPath) -> type[BaseModel] | None:
    """Find the section class at `loc`."""
    current: Any = schema
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            info = current.model_fields.get(str(part))
            current = info.annotation if info else None
        elif get_origin(current) in (dict, list):
            current = get_args(current)[-1]
        current = _section_of(current)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _section_of(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _section_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            inner = _section_of(option)
            if get_origin(inner) in (dict, list) or (isinstance(inner, type) and issubclass(inner, BaseModel)):
                return inner
    return annotation
