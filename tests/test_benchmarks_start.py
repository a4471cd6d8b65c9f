"""Every benchmark starts: its command line answers, what it imports is there, and the cheap ones run at a tiny size."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT

FOLDER = ROOT / "benchmarks"
FILES = sorted(FOLDER.glob("*.py"))
# Parts of other benchmarks, and a server that has no options.
WITHOUT_OPTIONS = {
    "instant_server.py", "review_pairs.py", "scripted_committee.py", "truth_items.py", "truth_table.py"
}  # fmt: skip


@pytest.fixture(autouse=True)
def _beside_benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Their folder comes first on the path, as when they are run; what they import by short names is dropped again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in set(sys.modules) - before:
        if name in {file.stem for file in FILES}:
            del sys.modules[name]


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_names_that_a_benchmark_imports_are_there(file: Path) -> None:
    """Imports inside functions count: they would fail only after a long run."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("gra", "scripted_committee"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                inside = (
                    importlib.util.find_spec(f"{node.module}.{alias.name}") if hasattr(module, "__path__") else None
                )
                assert hasattr(module, alias.name) or inside, f"{file}:{node.lineno}: {node.module}.{alias.name}"


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.name not in WITHOUT_OPTIONS], ids=lambda file: file.name
)
def test_benchmark_shows_its_help(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(file), run_name="__main__")
    assert not end.value.code
    assert "usage" in capsys.readouterr().out.lower()


def test_broker_measures_each_part(tmp_path: Path) -> None:
    broker = load("broker")
    assert set(broker.scripted(20)) == {"text", "review"}
    assert broker.memory(tmp_path / "told.sqlite", 30)["candidates"] == 30
    assert broker.resume(tmp_path, 20)["candidates"] == 20
    found = broker.finish(tmp_path, 50)
    assert 0 < found["rows"] <= 50
    assert broker.dedup(100)["rows"] == 100
    parts = {"scripted": {"text": 1.0, "review": 1.0}, "http": {"text": 1.0, "bare": 1.0}, "many": found}
    assert len(list(broker.table(parts))) == 6


def test_switching_simulates_every_policy() -> None:
    switching = load("switching")
    found = switching.compare(1, 3, 2, switching.Costs(), False)
    assert {"gra", "round-robin", "reload", "gra, restarts"} <= set(found)
    assert all(row["makespan_s"] > 0 for row in found.values())


def test_deduplication_is_measured(tmp_path: Path) -> None:
    load("dedup").main([300], folder=tmp_path, json_file=tmp_path / "found.json")
    assert (tmp_path / "found.json").is_file()


def test_annotation_texts_of_different_parts_share_no_template_and_no_name() -> None:
    annotation = load("annotation")
    parts = {part: annotation.make_texts(part, 40) for part in annotation.TEMPLATES}
    names = {part: {text[s.start : s.end] for text, spans in made for s in spans} for part, made in parts.items()}
    templates = {part: set(text.splitlines()) for part, text in annotation.TEMPLATES.items()}
    for one, other in (("store", "texts"), ("store", "test"), ("texts", "test")):
        assert not names[one] & names[other]
        assert not templates[one] & templates[other]
    row = annotation.as_row("x", *parts["texts"][0])
    assert all(entity["text"] in row["instruction"] for entity in json.loads(row["response"])["entities"])


def test_word_problems_have_the_stated_answer_and_parts_that_share_no_template() -> None:
    problems, checks = load("word_problems"), importlib.import_module("gra.experiment.symbiosis.problems")
    made = {part: problems.make_problems(part, 30) for part in problems.PARTS}
    for rows in made.values():
        for row in rows:
            *steps, last = row["response"].splitlines()
            assert 2 <= len(steps) <= 4
            assert checks.known_number(row["response"]) == last.removeprefix("Answer: ")
            assert all(checks.known_number(step) == step.rpartition(" ")[2] for step in steps)
            assert float(last.removeprefix("Answer: ")) > 0
    ours, held = ({row["instruction"] for row in rows} for rows in made.values())
    assert len(ours) == len(held) == 30
    shapes = [{"".join(c for c in text if not c.isdigit()) for text in each} for each in (ours, held)]
    assert not shapes[0] & shapes[1]
