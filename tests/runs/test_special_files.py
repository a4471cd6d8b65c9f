"""Links that lead a writer out of a run folder, and pipes and folders in place of its files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reported_run import write_run
from synthesised import command, synthesise

from gra.core.errors import DataError, GraError, RecipeError
from gra.core.files import write_json
from gra.core.run_folder import RunFolder
from gra.data.contamination.report import check_dataset
from gra.data.seeds.files import read_rows
from gra.evaluation.compare.compare import compare
from gra.evaluation.rows import read_rows as read_samples
from gra.evaluation.suite import load_suite
from gra.models.catalog import resolve
from gra.reports import figures
from gra.reports.html import write_report
from gra.runs.diff import diff
from gra.runs.explain import explain
from gra.runs.push import _check_dataset
from gra.runs.verify import verify
from gra.training.launch import launch_from_file
from gra.training.run import _refuse_shared_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("made")
    write_run(base / "experiment")
    synthesise(base / "one")
    return base


@pytest.fixture
def whole(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def never_wait() -> Iterator[None]:
    """End a test that waits for a pipe."""

    def late(*arguments: object) -> None:
        raise TimeoutError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["report", "report/figures"])
@pytest.mark.parametrize("manifest", [None, "{}"])
def test_report_is_not_written_through_a_link(whole: Path, tmp_path: Path, name: str, manifest: str | None) -> None:
    run, victim = whole / "one", tmp_path / "victim"
    victim.mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(victim)
    if manifest is not None:
        (run / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=f"{name} is a link"):
        write_report(run, title="t", command="c")
    assert command("report", str(run)) == 2
    assert not list(victim.iterdir())


def test_comparison_and_search_are_not_written_through_a_link(whole: Path, tmp_path: Path) -> None:
    run, victim = whole / "experiment", tmp_path / "victim"
    victim.mkdir()
    evaluated = {name: run / "eval" / name for name in ("untuned", "gra-seed0")}
    (run / "mine").symlink_to(victim)
    with pytest.raises(DataError, match="mine is a link"):
        compare(evaluated, "untuned", 0.05, run / "mine")
    with pytest.raises(DataError, match="mine is a link"):
        compare(evaluated, "untuned", 0.05, run / "mine" / "deeper")
    with pytest.raises(DataError, match="mine is a link"):
        check_dataset(run / "arms" / "gra" / "dataset", [], run / "mine")
    shutil.rmtree(run / "compare")
    (run / "compare").symlink_to(victim)
    with pytest.raises(DataError, match="compare is a link"):
        compare(evaluated, "untuned", 0.05, run / "compare")
    assert not list(victim.iterdir())


def test_dataset_behind_a_link_is_not_pushed(whole: Path, tmp_path: Path) -> None:
    (whole / "one" / "dataset").rename(tmp_path / "dataset")
    (whole / "one" / "dataset").symlink_to(tmp_path / "dataset")
    with pytest.raises(DataError, match="dataset is a link"):
        _check_dataset(whole / "one")


def _explain(base: Path) -> None:
    explain(base / "one", "r1-000003", full=True)


def _compare(base: Path) -> None:
    run = base / "experiment" / "eval"
    compare({name: run / name for name in ("untuned", "gra-seed0")}, "untuned", 0.05, base / "compared")


VERBS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "verify": ("one", lambda base: verify(base / "one")),
    "report": ("one", lambda base: write_report(base / "one", title="t", command="c")),
    "explain": ("one", _explain),
    "diff": ("one", lambda base: diff(base / "one", base / "one")),
    "push": ("one", lambda base: _check_dataset(base / "one")),
    "compare": ("experiment/eval/untuned", _compare),
}


@pytest.mark.parametrize("verb", VERBS)
def test_pipe_in_place_of_any_file_is_one_sentence(whole: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(figures, "draw", lambda *arguments: None)
    run, act = VERBS[verb]
    for file in [file for file in sorted((whole / run).rglob("*")) if file.is_file()]:
        kept = file.with_name("kept")
        file.rename(kept)
        os.mkfifo(file)
        with pytest.raises(DataError, match=f"{file.name} is no regular file"):
            act(whole)
        file.unlink()
        kept.rename(file)
    (whole / run / "more").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="more is no regular file"):
        act(whole)


@pytest.mark.parametrize("verb", VERBS)
def test_folder_in_place_of_any_file_ends_well_or_with_a_sentence(
    whole: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(figures, "draw", lambda *arguments: None)
    run, act = VERBS[verb]
    for file in [file for file in sorted((whole / run).rglob("*")) if file.is_file()]:
        kept = whole / "kept"
        file.rename(kept)
        file.mkdir()
        with contextlib.suppress(GraError):
            act(whole)
        file.rmdir()
        kept.rename(file)


def test_pipe_as_a_ledger_outside_of_the_run_is_one_sentence(whole: Path) -> None:
    run = whole / "one"
    (run / "ledger.sqlite").rename(whole / "ledger.sqlite")
    verify(run)
    os.mkfifo(whole / "ledger.sqlite-wal")
    with pytest.raises(DataError, match="sqlite-wal is no regular file"):
        verify(run)


def test_copy_made_of_hard_links_can_be_read_and_is_not_changed(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, copy = whole / "one", whole / "copy"
    writer = sqlite3.connect(run / "ledger.sqlite")  # a log beside the ledger, as a killed run leaves it
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE faults SET message = message")
    assert (run / "ledger.sqlite-shm").exists()
    shutil.copytree(run, copy, copy_function=os.link)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert command("verify", str(copy)) == 0
    assert command("explain", str(copy), "r1-000003", "--full") == 0
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    writer.close()
    with pytest.raises(DataError, match="second name"), RunFolder(copy).lock():
        pass


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoints/checkpoint-1/optimizer.pt"])
def test_training_does_not_write_into_a_file_with_a_second_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "model" / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    _refuse_shared_files(tmp_path / "model")
    os.link(tmp_path / "victim", tmp_path / "model" / name)
    with pytest.raises(DataError, match=f"{name} has a second name"):
        _refuse_shared_files(tmp_path / "model")


READERS: dict[str, Callable[[Path], object]] = {
    "recipe.yaml": load_suite,
    "launch.yaml": launch_from_file,
    "seeds.jsonl": lambda file: list(read_rows(file)),
    "seeds.jsonl.gz": lambda file: list(read_rows(file)),
    "seeds.json": lambda file: list(read_rows(file)),
    "seeds.csv": lambda file: list(read_rows(file)),
    "seeds.parquet": lambda file: list(read_rows(file)),
    "samples.jsonl": lambda file: list(read_samples(file)),
}


@pytest.mark.parametrize("name", READERS)
def test_pipe_as_an_input_is_one_sentence(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} (is no regular file|cannot be read: it is a folder or a device)"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "model.safetensors", "chat_template.jinja", "generation_config.json"]
)
def test_pipe_in_a_model_folder_is_one_sentence(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    os.mkfifo(tmp_path / name)
    with pytest.raises(RecipeError, match=f"{name} is no regular file"):
        resolve(str(tmp_path))


def test_json_for_a_terminal_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    from gra.cli.options import show_json

    show_json({"text": "\x1b\x7f\x9b\u202e\u2028naïve"})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert not {*shown} & {chr(code) for code in (*range(10), *range(11, 32), 127)}


def test_every_json_of_the_command_line_goes_through_one_function() -> None:
    folder = Path(sys.modules["gra.cli.options"].__file__ or "").parent
    for file in folder.glob("*.py"):
        assert "print(json.dumps" not in file.read_text().replace("print(json.dumps(content, indent=2).replace(", "")
