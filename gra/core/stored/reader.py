"""Read files of a run folder, which may be damaged or come from another person, into values of known types.

Each reader raises one `DataError` that names the file and the value; no other exception leaves this module.
`gra.core.stored.types` says which types the files have.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from gra.core.errors import DataError
from gra.core.files import read_regular

_LARGEST = 200_000_000  # bytes of a JSON file
_LARGEST_YAML = 5_000_000
# By the type of pydantic's error.
_SENTENCES = {
    "dict_type": "is not a JSON object",
    "list_type": "is not a list",
    "string_type": "is not text",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "missing": "is missing",
}


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, whose expansion can be larger than any memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "it has an alias", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


def read_json(file: Path, kind: Any) -> Any:
    """Read a JSON file of a given type; a file that is not there is an empty object.

    Args:
        file: the file.
        kind: the type, as pydantic understands it.

    Raises:
        DataError: the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(damaged(file, f"it has more than {_LARGEST / 1e6:,.0f} MB"))
        text = read_regular(file)
    except (OSError, ValueError) as error:
        raise DataError(damaged(file, str(error))) from None
    return parse_json(text, kind, str(file))


def parse_json(text: str, kind: Any, where: str) -> Any:
    """Parse JSON of a given type.

    Raises:
        DataError: naming `where`.
    """
    try:
        content = json.loads(text)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair could not be written anywhere
    except (ValueError, RecursionError) as error:
        raise DataError(damaged(where, str(error))) from None
    return check_type(content, kind, where)


def check_type(content: Any, kind: Any, where: Path | str) -> Any:
    """Return the content when it has the type.

    Raises:
        DataError: naming `where` and the first value of another type.
    """
    try:
        _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = _SENTENCES.get(first["type"], first["msg"].removeprefix("Value error, "))
        if not place:
            message = f"it {message}"
        raise DataError(damaged(where, f"`{place}` {message}" if place else message)) from None
    return content


def load_plain_yaml(text: str) -> Any:
    """Parse YAML that consists of JSON values.

    Raises:
        ValueError: it is no YAML, has aliases or other values, or is too large.
    """
    if len(text) > _LARGEST_YAML:
        raise ValueError(f"it has more than {_LARGEST_YAML / 1e6:,.0f} MB")
    try:
        content = yaml.load(text, Loader=_PlainLoader)
        json.dumps(content, ensure_ascii=False).encode()
    except (yaml.YAMLError, RecursionError, TypeError, OverflowError, AttributeError, LookupError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return content


def damaged(where: Path | str, why: str) -> str:
    """Return the sentence about a damaged file."""
    return f"{where} is damaged ({why}); run the stage that writes it again"


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
