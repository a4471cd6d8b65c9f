"""Any recipe file is read or refused with a RecipeError: random bytes, random YAML, and mutated shipped recipes.

Run longer as: GRA_FUZZ_EXAMPLES=100000 pytest tests/config/test_fuzz.py
"""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import ROOT

from gra.config.experiment import ExperimentRecipe
from gra.config.loader import load_recipe
from gra.config.section import Section
from gra.config.suite import SuiteConfig
from gra.config.synthesis import SynthesisRecipe
from gra.config.training import TrainRecipe
from gra.core.errors import RecipeError

KINDS: list[type[Section]] = [SynthesisRecipe, TrainRecipe, SuiteConfig, ExperimentRecipe]
SHIPPED = {
    SynthesisRecipe: [*ROOT.glob("recipes/quickstart/*.yaml"), *ROOT.glob("recipes/synthesis/*.yaml")],
    TrainRecipe: sorted(ROOT.glob("recipes/*/*/config_*.yaml")),
    SuiteConfig: sorted(ROOT.glob("eval/suites/*.yaml")),
    ExperimentRecipe: [ROOT / "recipes/quickstart.yaml", ROOT / "recipes/study.yaml"],
}
long = settings(
    max_examples=int(os.environ.get("GRA_FUZZ_EXAMPLES", 20)),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NASTY: list[Any] = [
    *(None, True, "", " ", "\x00", "\ud800", "~nosuchuser/x", "../../x", "!!bool maybe", "{{ x }}", "[red]", "\x1b[2J"),
    *(0, -1, 10**30, 1e308, float("inf"), float("nan"), [], {}, [[]], {"": ""}, {"a": {"b": {"c": []}}}),
    *("é" * 1000, ["x"] * 100, b"bytes"),
]
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(NASTY))
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def load(folder: Path, content: bytes, kind: type[Section], overrides: list[str] | None = None) -> None:
    """Load a recipe; any exception but RecipeError fails the test."""
    file = folder / "recipe.yaml"
    file.write_bytes(content)
    try:
        loaded = load_recipe(file, kind, overrides or [])
    except RecipeError as refused:
        message = str(refused)
    else:
        message = loaded.show()
    assert message


@long
@given(content=st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_any_bytes_are_a_recipe_or_an_error(tmp_path: Path, content: bytes, kind: type[Section]) -> None:
    load(tmp_path, content, kind)


@long
@given(text=st.text("abc:-[]{}&*!|>%@`'\"#, \n\t0123?<=~.é", max_size=120), kind=st.sampled_from(KINDS))
def test_any_yaml_marks_are_a_recipe_or_an_error(tmp_path: Path, text: str, kind: type[Section]) -> None:
    load(tmp_path, text.encode(), kind)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of every value in a tree."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inside for place in places(item, (*at, key)))]


def mutated(tree: Any, luck: random.Random, new: Any) -> Any:
    """Put a value somewhere in a tree, drop a key, or rename one."""
    at = luck.choice(places(tree))
    if not at:
        return new
    *path, last = at
    node = tree
    for key in path:
        node = node[key]
    match luck.choice(["replace", "drop", "rename"]):
        case "drop":
            del node[last]
        case "rename" if isinstance(node, dict):
            node[f"{last}x"] = node.pop(last)
        case _:
            node[last] = new
    return tree


@long
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), new=trees, changes=st.integers(1, 3))
def test_a_mutated_recipe_is_a_recipe_or_an_error(
    tmp_path: Path, kind: type[Section], seed: int, new: Any, changes: int
) -> None:
    luck = random.Random(seed)
    tree = yaml.safe_load(luck.choice(SHIPPED[kind]).read_text(encoding="utf-8"))
    tree.pop("extends", None)
    for _ in range(changes):
        if isinstance(tree, dict | list) and tree:
            tree = mutated(tree, luck, copy.deepcopy(new))
    content = yaml.dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    load(tmp_path, content, kind)


@long
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10**6),
    key=st.sampled_from(
        ["name", "seed", "rounds.accept", "engine", "train.max_steps", "tasks", "", ".", "a..b", "\x00"]
    ),
    value=st.one_of(
        st.text(max_size=30), st.sampled_from(["[", "{a: 1", "!!python/object:os.system x", "&a [*a]", "1e999"])
    ),
)
def test_any_override_is_taken_or_an_error(
    tmp_path: Path, kind: type[Section], seed: int, key: str, value: str
) -> None:
    content = random.Random(seed).choice(SHIPPED[kind]).read_bytes()
    load(tmp_path, content.replace(b"extends:", b"# extends:"), kind, [f"{key}={value}"])


@pytest.mark.parametrize("kind", KINDS)
def test_deep_nesting_is_an_error(tmp_path: Path, kind: type[Section]) -> None:
    load(tmp_path, b"[" * 100_000, kind)
    load(tmp_path, b"a: " * 2_000 + b"1", kind)
    load(tmp_path, "\n".join("  " * depth + "a:" for depth in range(2_000)).encode(), kind)
