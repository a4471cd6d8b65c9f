"""Readers of recipes answer hostile YAML with one sentence, before the kind of recipe is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gra.api.recipes import load_recipe
from gra.core.errors import GraError
from gra.forecast.plan import is_experiment
from gra.training.launch import launch_from_file

HOSTILE = {
    "a tag that does not fit": "name: !!bool maybe\n",
    "a date that does not exist": "name: 2024-99-99\n",
    "a number of 5,000 digits": f"seeds: {'1' * 5000}\n",
    "deep lists": "a: " + "[" * 20_000,
    "deep mappings": "a: " + "{a: " * 3000,
    "a tag of Python": "name: !!python/object/apply:os.getcwd []\n",
    "a list as a key": "? [1]\n: 3\n",
    "an alias of itself": "a: &a [*a]\n",
    "half a surrogate": 'name: "\\ud800"\n',
    "no YAML": "\x00",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", [load_recipe, launch_from_file])
def test_hostile_yaml_is_one_sentence(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HOSTILE[name], encoding="utf-8")
    assert not is_experiment(file)
    with pytest.raises(GraError) as found:
        read(file)
    assert found.value.exit_code == 2


def test_recipe_that_extends_itself_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("extends: recipe.yaml\n")
    with pytest.raises(GraError):
        load_recipe(file)
