"""Every synthesis recipe that comes with GRA is valid and can be cast, and the paper's hold its constants."""

from __future__ import annotations

from pathlib import Path

import pytest
from paths import ROOT
from typer.testing import CliRunner

from gra.cli.main import app
from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.models.entries import find_entry

SHIPPED = [
    path
    for folder in ("synthesis", "ablations", "systems")
    for path in sorted((ROOT / "recipes" / folder).glob("*.yaml"))
    if path.stem not in ("symbiosis", "federation")  # recipes of other kinds, dry-run in tests of their own
]
PAPER = [ROOT / "recipes" / "synthesis" / f"paper-{seeds}.yaml" for seeds in ("alpaca", "wizardlm", "condor")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_dry_run_finds_nothing_wrong_and_spends_nothing(path: Path, tmp_path: Path) -> None:
    # The seeds of most of these recipes are on the hub; a test is not. Labels of texts are seeds of their own.
    labeled = load_recipe(path, SynthesisRecipe).recipe.annotate is not None
    file = ROOT / "recipes" / "seeds" / ("annotate.jsonl" if labeled else "quickstart.jsonl")
    command = ["synthesize", str(path), "--dry-run", "--runs", str(tmp_path), f"seeds.source={file}"]
    command += ["--allow-code-execution"] if "kind: functions" in path.read_text(encoding="utf-8") else []
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output or done.exception
    assert f"valid, {40 if labeled else 70} seeds; nothing was spent" in done.output
    assert list(tmp_path.iterdir()) == []


def test_names_differ_so_that_no_recipe_overwrites_anothers_run() -> None:
    names = [load_recipe(path, SynthesisRecipe).recipe.name for path in SHIPPED]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_constants(path: Path) -> None:
    recipe = load_recipe(path, SynthesisRecipe).recipe
    committee = recipe.committee
    assert committee is not None
    entries = [find_entry(member.model) for member in committee.models.values()]
    assert [entry.hub_id if entry else "" for entry in entries] == [
        "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "internlm/internlm3-8b-instruct",
        "mistralai/Mistral-7B-Instruct-v0.3", "allenai/Llama-3.1-Tulu-3-8B",
    ]  # fmt: skip
    assert (recipe.arm, committee.reviewers, committee.assignment) == ("gra", 3, "random")
    assert recipe.domains == ["coding", "math", "qa", "reasoning", "role-play", "language", "creation"]
    assert (recipe.review.accept_mean, recipe.review.dispute_std, recipe.review.disputed) == (8.0, 1.5, "adjudicate")
    assert (recipe.review.ask, recipe.review.comments, recipe.review.control_items) == ("integers", "always", 0)
    assert (recipe.rounds.count, recipe.rounds.accept, recipe.rounds.quotas) == (5, 10_000, None)
    assert (recipe.dedup.embedder, recipe.dedup.threshold) == ("all-minilm-l6-v2", 0.9)


def test_the_seeds_differ() -> None:
    sources = [load_recipe(path, SynthesisRecipe).recipe.seeds.source for path in PAPER]
    assert [source.split("/")[0] for source in sources] == ["tatsu-lab", "WizardLMTeam", "internlm"]
