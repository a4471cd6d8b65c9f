"""docs/recipes.md names every key of every kind of recipe, with its default, and every choice."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from paths import ROOT
from pydantic.fields import FieldInfo

import gra.config
from gra.config.arms import ARMS
from gra.config.review import ReviewConfig
from gra.config.section import Section
from gra.evaluation.scorers.kinds import TASK_KINDS

TEXT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BUILT_IN = ("math", "format", "consistency", "tests", "functions")


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    for module in pkgutil.iter_modules(gra.config.__path__):
        importlib.import_module(f"gra.config.{module.name}")
    for kind in base.__subclasses__():
        if kind.__module__.startswith("gra.config."):
            yield kind
            yield from sections(kind)


def own_fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The fields that a section adds to those of the section it extends."""
    inherited = {name for parent in section.__mro__[1:] for name in getattr(parent, "model_fields", {})}
    return {name: field for name, field in section.model_fields.items() if name not in inherited}


def shown_default(field: FieldInfo) -> str:
    """A default as the document writes it."""
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, Section):
        return "see below"
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" if isinstance(item, str) else str(item) for item in value)
    return f"`{value}`" if isinstance(value, str) else str(value)


def choices(annotation: Any) -> Iterator[str]:
    """The values that a field chooses from."""
    if get_origin(annotation) is Literal:
        yield from (str(value) for value in get_args(annotation))
    elif get_origin(annotation) is not None:
        for part in get_args(annotation):
            yield from choices(part)


def rows_of(section: type[Section]) -> dict[str, tuple[str, str]]:
    """Default and meaning by key, from the section's table."""
    found = re.findall(rf"<!-- keys: {section.__name__} -->\n((?:\|.*\n)+)", TEXT)
    assert len(found) == 1, f"docs/recipes.md has {len(found)} tables of {section.__name__}"
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found[0].splitlines()[2:]]
    assert all(len(row) == 3 for row in cells), section
    return {key.strip("`"): (default, meaning) for key, default, meaning in cells}


SECTIONS = list(dict.fromkeys(sections()))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_document_names_every_key_with_its_default(section: type[Section]) -> None:
    rows, fields = rows_of(section), own_fields(section)
    assert list(rows) == list(fields)
    for name, field in fields.items():
        default, meaning = rows[name]
        assert default == shown_default(field), f"{section.__name__}.{name}"
        assert len(meaning) > 5, f"{section.__name__}.{name} has no meaning"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_document_names_every_choice(section: type[Section]) -> None:
    for name, field in own_fields(section).items():
        default, meaning = rows_of(section)[name]
        for choice in choices(field.annotation):
            assert f"`{choice}`" in meaning or f"`{choice}`" in default, f"{section.__name__}.{name}: {choice}"


def test_document_names_every_arm_task_kind_and_verifier() -> None:
    for name in (*ARMS, *TASK_KINDS, *BUILT_IN):
        assert f"`{name}`" in TEXT, name
    assert set(BUILT_IN) <= {name for name in BUILT_IN if ReviewConfig(verifiers=[{"kind": name, "mode": "score"}])}


def test_document_has_no_table_of_an_unknown_section() -> None:
    assert set(re.findall(r"<!-- keys: (\w+) -->", TEXT)) == {section.__name__ for section in SECTIONS}
