"""Read YAML that is not a recipe, with one kind of error."""

from __future__ import annotations

from typing import Any

import yaml


def plain_yaml(text: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        yaml.YAMLError: for every text that PyYAML cannot read, also where it raises other errors itself.
    """
    try:
        return yaml.safe_load(text)
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None
