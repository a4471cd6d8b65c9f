"""Texts of a received run folder reach the terminal without controlling it, and overrides keep their values."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paths import ROOT
from recorded_runs import MakeRun
from rich.console import Console
from scripted_run import make_recipe
from synthesised import command, synthesise

import gra
from gra.api.rows import rows_file
from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError, GraError, RecipeError
from gra.data.seeds.load import load_seeds
from gra.evaluation.compare.compare import compare
from gra.forecast.plan import is_experiment
from gra.runs.explain import _contamination, _cost, _exchange, _Limits
from gra.training.launch import launch_from_file

EVIL = "a\x1b[2Jb\x9bc\u202ed[/nope]"
RAW = ("\x1b[2J", "\x9b", "\u202e")


def shown(*parts: Any) -> str:
    console = Console(file=StringIO(), width=200, force_terminal=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_explain_shows_foreign_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = _Limits(20, 20)
    found = {"verdict": "suspect", "method": EVIL, "score": 0.5, "longest": 0, "matches": 1, "item": EVIL,
             "task": EVIL, "text": EVIL, "row_text": EVIL}  # fmt: skip
    usage = {EVIL: {"calls": 1, "prompt_tokens": 1, "completion_tokens": 1}}
    answer = SimpleNamespace(attempt=0, prompt_tokens=1, completion_tokens=1, role=EVIL, member=EVIL, model=EVIL,
                             key="k" * 20, request="", scores={EVIL: 0.5}, text=EVIL)  # fmt: skip
    text = shown(
        *_contamination(found, limits),
        _cost({"usage": usage, "calls": []}),
        *_exchange(answer),  # type: ignore[arg-type]
    )
    assert not any(raw in text for raw in RAW)
    assert "[/nope]" in text


def test_compare_table_takes_a_baseline_with_markup(make_run: MakeRun, tmp_path: Path) -> None:
    runs = {EVIL: make_run("a", range(20)), "b": make_run("b", range(10))}
    text = shown(compare(runs, EVIL, 0.02, tmp_path / "out").table())
    assert not any(raw in text for raw in RAW)
    assert "vs a" in text


def test_ledger_check_and_diff_take_a_path_with_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "x[nope]\x1b[2Jy"
    synthesise(folder)
    assert command("ledger", "check", str(folder)) == 0
    assert command("diff", str(folder), str(folder)) == 0
    text = capsys.readouterr().out
    assert "\x1b[2J" not in text
    assert "[nope]" in text


SECRET = "token-abc123"


@pytest.mark.parametrize(
    "override",
    [
        f"engine.api_key_env={SECRET}",
        f"engine.base_url=http://me:{SECRET}@h/v1",
        f"engine.base_url=http://h/v1?api_key={SECRET}",
        f"engine={{api_key: {SECRET}}}",
        f"engine.auth={SECRET}",
        f"engine.api_key={SECRET}",
        f"seed={SECRET}",
        f"arm={SECRET}",
        f"name=!!int {SECRET}",
        f"rounds.count=!!float {SECRET}",
        f'name="{SECRET}\\0"',
        SECRET,
        f"api_key {SECRET}",
        f"seed=[{SECRET}",
    ],
)
def test_value_of_an_override_is_never_repeated(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(ROOT / "recipes" / "smoke" / "gra.yaml", SynthesisRecipe, [override, "rounds.count=0"])
    assert SECRET not in str(caught.value)
    assert "command line" in str(caught.value)


@pytest.mark.parametrize(
    "value", ['!!int ""', '!!int "_"', '!!int "-"', '!!int "+"', '!!float ""', "!!timestamp x", "!!bool maybe",
              "0x" + "f" * 5000, "1" + "0" * 4200, '!!binary "?"']
)  # fmt: skip
def test_odd_yaml_values_are_one_sentence_everywhere(tmp_path: Path, value: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(f"name: x\nseed: {value}\n")
    for read in (
        lambda: load_recipe(file, SynthesisRecipe),
        lambda: gra.load_recipe(file),
        lambda: launch_from_file(file),
    ):
        with pytest.raises(GraError):
            read()
    with pytest.raises(RecipeError):
        load_recipe(ROOT / "recipes" / "smoke" / "gra.yaml", SynthesisRecipe, [f"seed={value}"])
    assert is_experiment(file) is False


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "x" * 5000])
def test_paths_that_cannot_be_are_one_sentence_from_python(tmp_path: Path, name: str) -> None:
    recipe = make_recipe()
    for use in (
        lambda: gra.load_run(name),
        lambda: gra.load_recipe(name),
        lambda: gra.compare({"a": name, "b": str(tmp_path)}, "a", output=tmp_path / "out"),
        lambda: gra.compare({"a": str(tmp_path)}, "a", output=name),
        lambda: gra.compare({"a": str(tmp_path)}, "a", contamination=[name]),
        lambda: gra.synthesize(recipe, seeds=[{"instruction": "a", "response": "b", "domain": "qa"}], runs=name),
    ):
        with pytest.raises(GraError):
            use()


def test_half_a_surrogate_pair_in_rows_is_judged_by_the_reader(tmp_path: Path) -> None:
    rows = [{"instruction": "a\ud83d", "response": "b", "domain": "qa"}]
    file = rows_file(rows, tmp_path, "seeds")
    assert json.loads(file.read_text())["instruction"] == "a\ud83d"
    with pytest.raises(DataError):
        load_seeds(file, ["qa"])
