"""What the command line says of itself: groups, an example for every verb, exit codes, old spellings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from paths import ROOT
from synthesised import command
from typer.testing import CliRunner

from gra.cli import compare, evaluate, train
from gra.cli.main import app
from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import ExitCode, GraError
from gra.synthesis.committee import verifiers

GROUPS = ["Make", "Measure", "Look into a run", "Share datasets", "This machine"]


def verbs(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, verb in group.commands.items():
        found.append(((*path, name), verb))
        found += verbs(verb, (*path, name)) if hasattr(verb, "commands") else []
    return found


VERBS = verbs(typer.main.get_command(app))


@pytest.mark.parametrize(("path", "verb"), VERBS, ids=[" ".join(path) for path, _ in VERBS])
def test_help_of_each_verb_has_an_example_that_parses(path: tuple[str, ...], verb: Any) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Example:" in shown.output
    line = next(line for line in verb.epilog.splitlines() if line.strip().startswith("gra "))
    words = shlex.split(line)
    assert words[1 : 1 + len(path)] == list(path)
    if not hasattr(verb, "commands"):
        verb.make_context("gra", words[1 + len(path) :])  # raises for an option or argument that is not there


def test_help_lists_every_verb_once_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    shown = capsys.readouterr().out
    assert [line[:-1] for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")] == [
        "Options",
        *GROUPS,
    ]
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2:3].isalpha()]
    for (name, *rest), _ in VERBS:
        assert rest or listed.count(name) == 1


def test_exit_codes_are_the_documented_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0, "FAILED": 1, "WRONG_INPUT": 2, "BUDGET_SPENT": 3, "UNAVAILABLE": 4, "MISMATCH": 5,
        "NO_ROWS": 6,
        "INTERRUPTED": 130,
    }  # fmt: skip
    command()
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"{int(code)} {code.meaning}" in shown for code in ExitCode)

    def kinds(error: type[GraError]) -> list[type[GraError]]:
        return [error, *(kind for each in error.__subclasses__() for kind in kinds(each))]

    assert {int(kind.exit_code) for kind in kinds(GraError)} <= set(map(int, ExitCode))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["synthesise"], "No such command 'synthesise'."),
        (["synthesize"], "Missing argument"),
        (["plan", "x.yaml", "--rusn", "a"], "No such option"),
        (["evaluate", "x.yaml"], "Missing option '--model'"),
        (["evaluate", "x.yaml", "--model", "m", "--limit", "0"], "Invalid value for '--limit'"),
        (["compare", "a", "b", "--margin", "1.5"], "1.5 is not a number between 0 and 1"),
        (["evaluate", "x.yaml", "--model", "m", "--device", "gpu"], "'gpu' is not one of"),
    ],
)
def test_wrong_command_line_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("error: ")
    assert said.endswith("(see --help)\n")


@pytest.mark.parametrize("main", [train.main, evaluate.main_run, compare.main_compare])
def test_bare_script_is_a_wrong_command_line(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "Missing" in capsys.readouterr().err


def test_overrides_and_options_can_be_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ROOT / "recipes" / "smollm2-135m" / "sft" / "config_lora.yaml"
    train.main(["train.max_steps=3", "--config", str(recipe), "name=mine", "--show-config", "lora.r=8"])
    shown = capsys.readouterr().out
    assert "name: mine  # command line (name)" in shown
    assert "max_steps: 3  # command line" in shown
    assert "r: 8  # command line" in shown


@pytest.mark.parametrize("flag", ["--accept-license", "--accept-licence"])
def test_license_is_accepted_in_both_spellings(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def resolve(name: str, **options: Any) -> None:
        seen.append(options["accept_licenses"])
        raise GraError("seen")

    monkeypatch.setattr("gra.models.catalog.resolve", resolve)
    suite = ROOT / "eval" / "suites" / "smoke.yaml"
    assert command("evaluate", str(suite), "--model", "m", flag, "gemma", flag, "other") == 1
    assert command("models", "m", "--fetch", flag, "gemma") == 1
    assert seen == [["gemma", "other"], ["gemma"]]
    assert "--accept-licence" not in CliRunner().invoke(app, ["evaluate", "--help"]).output


PLUGIN = """
import gra

@gra.verifier("no-rivers")
def check(instruction, response):
    return "river" not in response.lower()
"""
ASKING = """
name: demo
arm: gra
domains: [qa]
seeds: {source: seeds.jsonl}
committee: {models: {a: org/model}, reviewers: 0}
engine: {kind: openai, base_url: "http://localhost:1/v1"}
review: {verifiers: [{kind: no-rivers, mode: filter}]}
tracking: {wandb: "off"}
"""


@pytest.fixture
def verifier_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the verifiers that a test registers."""
    monkeypatch.setattr(verifiers, "_MAKERS", dict(verifiers._MAKERS))
    before = list(verifiers.VERIFIER_KINDS)
    verifiers.VERIFIER_KINDS[:] = [kind for kind in before if kind in verifiers.BUILT_IN_VERIFIERS]
    yield
    verifiers.VERIFIER_KINDS[:] = before


@pytest.mark.usefixtures("verifier_kinds")
def test_plugin_registers_a_verifier_for_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = '{"instruction": "Name a river.", "response": "The Nile.", "domain": "qa"}\n'
    Path("seeds.jsonl").write_text(rows + rows.replace("river", "lake"))
    Path("recipe.yaml").write_text(ASKING)
    Path("mine.py").write_text(PLUGIN)
    Path("broken.py").write_text("import nothing_of_this_name")
    assert command("synthesize", "recipe.yaml", "--dry-run") == 2
    assert (
        "must be one of 'math', 'format', 'consistency', 'tests' or 'functions', not 'no-rivers'"
        in capsys.readouterr().err
    )
    assert command("synthesize", "recipe.yaml", "--dry-run", "--plugin", "missing.py") == 2
    assert "`--plugin missing.py` names no file" in capsys.readouterr().err
    assert command("synthesize", "recipe.yaml", "--dry-run", "--plugin", "broken.py") == 2
    assert "`--plugin broken.py` failed with ModuleNotFoundError" in capsys.readouterr().err
    assert command("synthesize", "recipe.yaml", "--dry-run", "--plugin", "mine.py", "dedup.embedder=org/e") == 0
    assert "valid, 2 seeds" in capsys.readouterr().err
    assert load_recipe("recipe.yaml", SynthesisRecipe).recipe.review.verifiers[0].kind == "no-rivers"


def test_foreign_names_are_printed_without_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gra.ledger.ledger import Ledger

    Ledger(tmp_path / "ledger.sqlite", run="[bold]x[/bold]\x1b[2J").close()
    with Ledger(tmp_path / "ledger.sqlite", run="[bold]x[/bold]\x1b[2J")._db as db:
        db.execute("INSERT INTO faults VALUES ('[bold]x[/bold]\x1b[2J', 'r', 'm', 'c', 'k', 't', 0)")
    assert command("ledger", "check", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "[bold]x[/bold]\ufffd[2J" in shown
    assert "\x1b[2J" not in shown
    assert command("explain", f"{tmp_path}/\x1b[2J", "r1") == 2
    assert "\x1b" not in capsys.readouterr().err
