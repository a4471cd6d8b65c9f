"""A second process ends at once, and the dry run finds models that are not complete, before anything is spent."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import write_suite
from scripted_run import make_recipe, write_job
from synthesised import command
from training_tiny import PAIRS, make_student, row, write_recipe, write_rows

from gra.api.evaluation import default_name
from gra.cli.train import main as train_main
from gra.core.run_folder import RunFolder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def write_yaml(path: Path, **content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


def arm(folder: Path, **changes: Any) -> Path:
    """Write the recipe of an arm that asks no model, or of another one."""
    seeds = folder / "seeds.jsonl"
    rows = [{"instruction": f"Name river {n}.", "response": "The Nile.", "domain": "qa"} for n in range(4)]
    seeds.write_text("".join(json.dumps(seed) + "\n" for seed in rows), encoding="utf-8")
    recipe = {"name": "demo", "arm": "vanilla", "seeds": {"source": str(seeds)}, "tracking": {"wandb": "off"}}
    return write_yaml(folder / "arm.yaml", **recipe | changes)


def experiment(folder: Path, student: Path, **changes: Any) -> Path:
    """Write an experiment on one arm."""
    rows = write_rows(folder / "rows.jsonl", [row(*pair) for pair in PAIRS])
    suite = write_suite(folder / "suites")
    recipe = {
        "name": "whole", "arms": {"demo": str(arm(folder))}, "student": str(write_recipe(folder, student, rows)),
        "suite": str(suite), "baseline": "demo", "tracking": {"wandb": "off"},
    }  # fmt: skip
    return write_yaml(folder / "experiment.yaml", **recipe | changes)


def damaged(student: Path, folder: Path) -> Path:
    """Copy a model with one file cut off."""
    folder.mkdir()
    for file in student.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    whole = (student / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])
    return folder


@pytest.mark.parametrize("verb", ["synthesize", "run", "plan", "train", "evaluate", "contamination"])
def test_second_process_ends_at_once_and_leaves_the_first_alone(
    verb: str, tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, rows = tmp_path / "runs", write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])
    job, alone = experiment(tmp_path, student), arm(tmp_path)
    member = {"committee": {"models": {"one": str(student)}, "reviewers": 0}, "domains": ["qa"]}
    asking = write_yaml(tmp_path / "asking.yaml", **json.loads(alone.read_text()) | member | {"arm": "gra"})
    name, arguments = {
        "synthesize": ("demo", ["synthesize", alone, "--runs", runs]),
        "run": ("whole", ["run", job, "--runs", runs]),
        "plan": ("demo", ["plan", asking, "--runs", runs, "--sample", 1]),
        "train": ("model", ["--config", write_recipe(tmp_path, student, rows), "--output", runs / "model"]),
        "evaluate": ("eval", ["evaluate", tmp_path / "suites" / "suite.yaml", "--model", student, "--chat-template",
                              "builtin:plain", "--output", runs / "eval"]),
        "contamination": ("found", ["contamination", rows, tmp_path / "suites" / "questions.jsonl", "--output",
                                    runs / "found"]),
    }[verb]  # fmt: skip
    with RunFolder(runs / name).create().lock():
        if verb == "train":
            with pytest.raises(SystemExit) as end:
                train_main([*map(str, arguments)])
            assert end.value.code == 2
        else:
            assert command(*map(str, arguments)) == 2
        assert [path.name for path in (runs / name).rglob("*")] == [".lock"]
    said = capsys.readouterr().err
    assert said == f"error: {runs / name} is in use by process {os.getpid()}; wait for it, or choose another name or " \
                   "folder\n"  # fmt: skip


def test_dry_run_finds_an_incomplete_model(tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = damaged(student, tmp_path / "half")
    size = (student / "model.safetensors").stat().st_size
    sentence = f"error: {half}/model.safetensors has {size - 1000:,} bytes, by its own header it should have {size:,}"
    committee = {"models": {"one": str(half)}, "reviewers": 0}
    recipe = str(arm(tmp_path, arm="gra", committee=committee, domains=["qa"], dedup={"embedder": "org/unknown-model"}))
    runs = ["--runs", str(tmp_path / "runs")]
    assert command("synthesize", recipe, "--dry-run", *runs) == 2
    assert capsys.readouterr().err.startswith(sentence)
    assert command("synthesize", recipe, "--dry-run", *runs, f"committee.models.one={student}") == 0
    assert "not on this machine yet, the run fetches them first: org/unknown-model" in capsys.readouterr().err
    whole = str(experiment(tmp_path, half))
    for dry in (["--dry-run"], []):
        assert command("run", whole, *dry, *runs) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs" / "whole" / "arms").exists()  # nothing was made before


def test_experiment_checks_its_suite_before_it_spends(
    tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, runs = str(experiment(tmp_path, student)), ["--runs", str(tmp_path / "runs")]
    (tmp_path / "suites" / "questions.jsonl").write_text('{"id": "q"}\n')
    assert command("run", whole, *runs) == 2
    assert "questions.jsonl:1: " in capsys.readouterr().err
    assert not (tmp_path / "runs" / "whole" / "arms").exists()


@pytest.mark.parametrize(
    ("model", "adapter", "name"),
    [
        ("org/Some-Model@v1.0", None, "Some-Model-v1.0"),
        ("catalog:tiny", None, "tiny"),
        ("..", None, "runs"),
        (".", None, "here"),
        ("/", None, "model"),
        ("x", "../a b", "a-b"),
        ("x", "../.hidden/model", "hidden"),
    ],
)
def test_model_without_a_name_gets_a_folder_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, adapter: str | None, name: str
) -> None:
    (tmp_path / "runs" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "here")
    assert default_name(model, None if adapter is None else Path(adapter)) == name


def test_recipe_without_two_seeds_in_a_domain_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(tmp_path, make_recipe())
    lonely = [{"id": d, "domain": d, "instruction": f"Say {d}.", "response": d} for d in make_recipe().domains]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lonely))
    runs = ["--runs", str(tmp_path / "runs")]
    for verb in (["synthesize", "--dry-run"], ["synthesize"], ["plan"]):
        assert command(verb[0], str(tmp_path / "recipe.yaml"), *verb[1:], *runs) == 2
        assert "a candidate needs two parents, and no domain has two seeds" in capsys.readouterr().err


def test_unusable_ledger_is_found_before_engines_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(tmp_path, make_recipe())
    (tmp_path / "folder").mkdir()
    (tmp_path / "words").write_text("no ledger " * 300)
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version=99")
    for name, sentence in (("folder", "is not a file"), ("words", "not a ledger"), ("newer", "written by a newer GRA")):
        for verb in (["synthesize", "--dry-run"], ["synthesize"], ["plan"]):
            given = [str(tmp_path / "recipe.yaml"), f"ledger={tmp_path / name}", *verb[1:], "--runs", str(tmp_path)]
            assert command(verb[0], *given) == 2
            said = capsys.readouterr().err
            assert sentence in said
            assert "engines" not in said
