"""Load YAML recipes strictly; one error names every mistake with file, line and the key that was probably meant.

A recipe is checked against a pydantic schema that forbids unknown keys. It may extend one other recipe, and the
command line may override values (`key.sub=value`); the origin of every value is kept. `on`, `off`, `yes` and `no` are
text (YAML 1.2), and `5e-6` is a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gra.config.problems import (
    CommandLine,
    did_you_mean,
    explain,
    place,
)
from gra.config.section import KeyPath, Section
from gra.core.errors import RecipeError, user_path
from gra.core.files import read_regular
from gra.core.processes.secrets import HIDDEN, shown_name
from gra.core.text.plain_text import printable_line

_MOST_VALUES = 100_000
_MOST_BITS = 1_024  # of a whole number; Python does not even write numbers of many thousand digits
_PREFIX = "tag:yaml.org,2002:"
# Tags of scalars, and what a value of each is.
_TAGS = {
    f"{_PREFIX}str": "a text",
    f"{_PREFIX}int": "a whole number",
    f"{_PREFIX}float": "a number",
    f"{_PREFIX}bool": "true or false",
    f"{_PREFIX}null": "an empty value",
}
# A key of each kind of recipe that no later kind has.
_KINDS = {
    "arms": "an experiment, for `gra run`",
    "problems": "an experiment of a teacher and a student, for `gra symbiosis`",
    "tasks": "a suite, for `gra evaluate`",
    "seeds": "a synthesis recipe, for `gra synthesize`",
    "clients": "a federation, for `gra federate`",
    "model": "a training recipe, for `gra train`",
}
_TOO_DEEP = "this is nested too deeply, or an alias stands within what it names"
Where = Callable[[KeyPath], str]


S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Loaded(Generic[S]):
    """A checked recipe with the origin of each value ("file:line", "command line" or "default")."""

    recipe: S
    path: Path
    origins: dict[KeyPath, str]

    def show(self) -> str:
        """Return valid YAML with every value, defaults included, and its origin as a comment."""
        lines: list[str] = []
        _render(self.recipe.model_dump(), (), self.origins, lines)
        return "\n".join(lines)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 booleans and numbers: `010` and `1:30` are not numbers."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes texts which YAML 1.1 or `_Loader` would read as another type."""


def _one_line(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _one_line)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":int", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|nan)$", "-+.0123456789"),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), list(_first))


@dataclass
class _Tree:
    """Plain values, the origin of each, and the problems found so far."""

    values: Any
    origins: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    shows_values: bool = True  # an override may be a secret, so its value is not repeated

    def shown(self, value: str) -> str:
        """Return a value as a problem shows it."""
        return f"{value!r:.60}" if self.shows_values else HIDDEN


def load_recipe(
    path: Path | str,
    schema: type[S],
    overrides: Sequence[str] = (),
    *,
    check: Callable[[dict[str, Any], Where], list[str]] | None = None,
    elsewhere: Mapping[str, str] | None = None,
    overridden_by: str = "command line",
) -> Loaded[S]:
    """Read, merge and check one recipe.

    Args:
        path: the YAML file.
        schema: the `Section` its top level must satisfy.
        overrides: `key.sub=value` texts; the values are read as YAML and checked like the file's.
        check: what the schema cannot know; gets the values and where each stands, returns problems.
        elsewhere: keys that people write here and what to do instead.
        overridden_by: where the overrides come from, for messages.

    Raises:
        RecipeError: naming every problem at once with file and line.
    """
    path = Path(path)
    tree = _read(path)
    base = tree.values.pop("extends", None) if isinstance(tree.values, dict) else None
    if base is not None:
        tree = _extend(tree, path, base)
    for text in overrides:
        _override(tree, text, overridden_by)
    if kind := _another_kind(tree, schema):
        raise RecipeError(kind, path)
    problems, recipe = list(tree.problems), None
    try:
        recipe = schema.model_validate(tree.values)
    except ValidationError as error:
        problems += [explain(schema, tree.origins, path, item, elsewhere or {}) for item in error.errors()]
    if check is not None:
        problems += check(tree.values, lambda key: place(tree.origins, key, path))
    if problems or recipe is None:
        raise RecipeError(list(dict.fromkeys(problems)), path)
    return Loaded(recipe, path, tree.origins)


def as_overrides(changes: Mapping[str, Any]) -> list[str]:
    """Return values by dotted key as the texts that `load_recipe` takes."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]


def _another_kind(tree: _Tree, schema: type[BaseModel]) -> str | None:
    """Return the problem of a recipe of another kind; None when the kind fits."""
    own, found = kind_key(schema.model_fields), kind_key(tree.values)
    if own is None or found is None or own in tree.values:
        return None
    return f"this is {_KINDS[found]}; wanted here is {_KINDS[own]}"


def kind_key(keys: Collection[str]) -> str | None:
    """Return the key that shows the kind of a recipe with these keys, or None."""
    return next((key for key in _KINDS if key in keys), None)


def find_file(name: str, beside: Path | str) -> Path:
    """Find a file that a recipe names: in the working directory, beside the recipe, or shipped with GRA.

    Raises:
        RecipeError: it is in none of them.
    """
    shipped = Path(__file__).parent.parent / "_assets"
    places = [Path.cwd(), Path(beside).parent, Path(__file__).parent.parent.parent, shipped]
    for folder in places:
        if (folder / name).exists():
            return folder / name
    folder = (places[0] / name).parent
    near = did_you_mean(Path(name).name, [p.name for p in folder.glob("*")] if folder.is_dir() else [])
    raise RecipeError(f"`{name}` is not there (looked in the working directory and beside the recipe){near}", beside)


def _read(path: Path) -> _Tree:
    try:
        text = read_regular(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")])
        raise RecipeError(f"there is no such recipe file{near}", path) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError(f"line {line}: this is not UTF-8 text; save the file as UTF-8", path) from None
    except ValueError:
        raise RecipeError("its path has a character that no path can have; write another path", path) from None
    except OSError as error:
        raise RecipeError(f"the recipe cannot be read: {error.strerror or error}", path) from None
    tree = _Tree(None)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError("a recipe is a mapping of keys to values (`name: ...`), this file is not", path)
        tree.values = _plain(node, (), path, tree)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{at}this is not valid YAML ({problem})", path) from None
    except RecursionError:
        raise RecipeError(_TOO_DEEP, path) from None
    return tree


def _plain(node: yaml.Node, at: KeyPath, path: Path, tree: _Tree) -> Any:
    """Return the values of a node, with its aliases expanded."""
    where = f"{path}:{node.start_mark.line + 1}"
    tree.origins.setdefault(at, where)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in (f"{_PREFIX}map", f"{_PREFIX}seq"):
        tag = node.tag.replace(_PREFIX, "!!")
        tree.problems.append(f"line {node.start_mark.line + 1}: the tag `{tag}` is not used here; leave it out")
    if len(tree.origins) > _MOST_VALUES:
        raise RecipeError(f"this stands for more than {_MOST_VALUES:,} values (aliases of aliases?)", path)
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                tree.problems.append(f"line {line}: a key must be a word, not a list or a mapping")
                continue
            key = str(key_node.value)
            if problem := _unwritable(key):
                tree.problems.append(f"line {line}: the key {tree.shown(key)} {problem}")
                continue
            if key in values:
                first = tree.origins[(*at, key)].rsplit(":", 1)[-1]
                tree.problems.append(f"line {line}: the key `{key}` is given twice (first on line {first})")
            tree.origins[(*at, key)] = f"{path}:{line}"
            values[key] = _plain(value_node, (*at, key), path, tree)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*at, index), path, tree) for index, item in enumerate(node.value)]
    return _scalar(node, tree)


def _scalar(node: yaml.Node, tree: _Tree) -> Any:
    line = node.start_mark.line + 1
    if node.tag not in _TAGS:
        tree.problems.append(f"line {line}: the tag `{node.tag.replace(_PREFIX, '!!')}` is not used here; leave it out")
        return None
    try:
        value = _Loader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError):
        kind = _TAGS[node.tag]
        tree.problems.append(f"line {line}: {tree.shown(node.value)} is not {kind}; correct it, or leave the tag out")
        return None
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        tree.problems.append(f"line {line}: the number has too many digits")
        return None
    if isinstance(value, str) and (problem := _unwritable(value)):
        tree.problems.append(f"line {line}: {tree.shown(value)} {problem}")
        return None
    return value


def _unwritable(text: str) -> str | None:
    """Say why no file name, prompt or dataset can have this text; None when they can."""
    if "\0" in text:
        return "has a NUL character, which no name or text may have; leave it out"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "has half a surrogate pair, which is no character; write the character itself"
    return None


def _extend(tree: _Tree, path: Path, base: Any) -> _Tree:
    line = tree.origins[("extends",)].rsplit(":", 1)[-1]
    if not isinstance(base, str):
        raise RecipeError(f"line {line}: `extends` takes the path of one recipe", path)
    parent_path = path.parent / user_path(base, f"line {line}: `extends`")
    if not parent_path.is_file():
        raise RecipeError(f"line {line}: `extends: {base}` names a file that is not there", path)
    parent = _read(parent_path)
    if "extends" in parent.values:
        raise RecipeError(f"line {line}: {parent_path} extends another recipe; only one level is allowed", path)
    merged = _merge(parent.values, tree.values)
    inherited = [f"{parent_path}: {problem}" for problem in parent.problems]
    return _Tree(merged, parent.origins | tree.origins, inherited + tree.problems)


def _merge(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: _merge(base[key], value) if key in base else value for key, value in over.items()}
    return over


def _override(tree: _Tree, text: str, source: str) -> None:
    key, equals, value = text.partition("=")
    text = shown_name(key.strip())
    parts = _steps(key.strip().lstrip("-").split("."), tree.values)
    if not equals or not all(parts):
        word = text if equals else "a word without `=`"
        tree.problems.append(f"{source}: {word} is not an override; write key.sub=value")
        return
    try:
        parsed = _value(value) if value.strip() else ""
    except (yaml.YAMLError, ValueError, IndexError, RecursionError):
        tree.problems.append(f"{source}: the value of `{text}` is not valid YAML; quote it")
        return
    except RecipeError as error:
        tree.problems += [f"{source}: in `{text}`, {problem}" for problem in error.problems]
        return
    node = tree.values
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            tree.problems.append(f"{source}: `{key}` cannot be set, `{part}` is not a section")
            return
        node = child
    node[parts[-1]] = parsed
    origin = CommandLine(f"{source} ({text})")
    for depth in range(1, len(parts)):
        tree.origins.setdefault(tuple(parts[:depth]), origin)
    for stale in [at for at in tree.origins if at[: len(parts)] == tuple(parts)]:
        del tree.origins[stale]
    _mark(parsed, tuple(parts), origin, tree.origins)


def _steps(names: Sequence[str], node: Any) -> list[str]:
    """Split a dotted key into steps; a key of the recipe may have dots itself, as in the name of a model."""
    steps, left = [], list(names)
    while left:
        known = (n for n in range(len(left), 1, -1) if isinstance(node, dict) and ".".join(left[:n]) in node)
        taken = next(known, 1)
        steps.append(".".join(left[:taken]))
        node, left = node.get(steps[-1]) if isinstance(node, dict) else None, left[taken:]
    return steps


def _value(text: str) -> Any:
    """Parse the value of an override, as strictly as a file."""
    tree = _Tree(None, shows_values=False)
    node = yaml.compose(text, Loader=_Loader)
    value = _plain(node, (), Path(), tree) if node is not None else None
    if tree.problems:
        raise RecipeError([problem.removeprefix("line 1: ") for problem in tree.problems])
    return value


def _mark(value: Any, at: KeyPath, origin: str, origins: dict[KeyPath, str]) -> None:
    """Set one origin for a value and everything inside it."""
    origins[at] = origin
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        _mark(item, (*at, key), origin, origins)


def _render(value: Any, at: KeyPath, origins: Mapping[KeyPath, str], lines: list[str]) -> None:
    indent = "  " * len(at)
    for key, item in value.items():
        here = (*at, key)
        if isinstance(item, dict) and item:
            lines.append(f"{indent}{_inline(key)}:")
            _render(item, here, origins, lines)
        else:
            # A path may hold characters that YAML does not allow, even in a comment.
            origin = printable_line(origins.get(here, "default"))
            lines.append(f"{indent}{_inline(key)}: {_inline(item)}  # {origin}")


def _inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.strip().removesuffix("\n...")
