"""A folder that a program has filled is removed, however deep, long, locked or linked its content is."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_layers import DOCKER, PLAIN_FOLDER, weaker_sandbox

from gra.sandbox import removal
from gra.sandbox import sandbox as sandbox_module
from gra.sandbox.job import Limits, SandboxJob
from gra.sandbox.removal import remove_tree

LONG = "n" * 255


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder to remove; the working folder is restored afterwards."""
    made, before = tmp_path / "filled", os.getcwd()
    made.mkdir()
    yield made
    os.chdir(before)


def nest(folder: Path, name: str, depth: int, mode: int = 0o700) -> None:
    """Make folders inside each other, deeper than a path can be long."""
    handle = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, mode, dir_fd=handle)
        inner = os.open(name, os.O_PATH, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)


@pytest.mark.parametrize(("name", "depth", "mode"), [(LONG, 20, 0o700), ("a", 1200, 0o700), (LONG, 40, 0o300)])
def test_nested_folders_are_removed(folder: Path, name: str, depth: int, mode: int) -> None:
    nest(folder, name, depth, mode)
    assert remove_tree(folder) == []
    assert not folder.exists()


def test_locked_and_odd_entries_are_removed(folder: Path) -> None:
    for mode in (0, 0o100, 0o200, 0o300, 0o500):
        inner = folder / f"d{mode}" / "inner"
        inner.mkdir(parents=True)
        (inner / "file").touch(mode=0)
        inner.chmod(mode)
        inner.parent.chmod(mode)
    (folder / os.fsdecode(b"\xff\xfe \n\x1b[31m")).touch()
    os.mkfifo(folder / "pipe")
    os.symlink("/nowhere", folder / "dangling")
    folder.chmod(0)
    assert remove_tree(folder) == []
    assert not folder.exists()


def test_links_are_removed_and_not_followed(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o500)
    (kept / "file").write_text("safe")
    (folder / "a").mkdir()
    os.symlink(kept, folder / "a" / "link")
    os.symlink(kept, folder / "link")
    os.link(kept / "file", folder / "hard")
    assert remove_tree(folder) == []
    assert (kept / "file").read_text() == "safe"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o500
    os.symlink(kept, folder)
    assert remove_tree(folder) != []
    assert (kept / "file").exists()


def test_missing_folder_is_no_failure(tmp_path: Path) -> None:
    assert remove_tree(tmp_path / "none") == []


def test_entries_that_appear_during_the_removal_are_removed(folder: Path) -> None:
    def write() -> None:
        for number in range(2000):
            try:
                (folder / f"d{number % 7}").mkdir(exist_ok=True)
                (folder / f"d{number % 7}" / str(number)).touch()
            except OSError:
                return

    writer = threading.Thread(target=write)
    writer.start()
    first = remove_tree(folder)
    writer.join()
    assert all(" could not be removed: " in problem for problem in first)
    assert remove_tree(folder) == []
    assert not folder.exists()


@pytest.mark.parametrize("call", ["rmdir", "unlink", "listdir", "open", "rename"])
def test_refused_steps_are_sentences(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "file").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(removal.os, call, refuse)
    problems = remove_tree(folder)
    monkeypatch.undo()
    assert problems
    assert all(str(folder) in problem for problem in problems)
    assert any("Operation not permitted" in problem for problem in problems)
    assert remove_tree(folder) == []


steps = st.lists(
    st.tuples(st.sampled_from(["mkdir", "touch", "symlink", "chmod", "enter", "up"]), st.integers(0, 3)), max_size=30
)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_any_tree_is_removed(sequence: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as around:
        top, other = Path(around, "top"), Path(around, "other")
        top.mkdir()
        other.mkdir()
        place = top
        actions: dict[str, Callable[[Path], object]] = {
            "mkdir": Path.mkdir, "touch": Path.touch, "symlink": lambda path: path.symlink_to(other),
            "chmod": lambda path: path.chmod(0o000, follow_symlinks=True) if not path.is_symlink() else None,
        }  # fmt: skip
        for action, number in sequence:
            try:
                if action == "enter":
                    inner = place / str(number)
                    place = inner if inner.is_dir() and not inner.is_symlink() else place
                elif action == "up":
                    place = place.parent if place != top else top
                else:
                    actions[action](place / str(number))
            except OSError:
                pass
        assert remove_tree(top) == []
        assert os.listdir(around) == ["other"]


DEEP = """
import os
for _ in range(20):
    os.mkdir("n" * 255)
    os.chdir("n" * 255)
"""


@pytest.mark.parametrize("missing", [(), DOCKER, PLAIN_FOLDER])
def test_nested_folders_of_an_answer_do_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sandbox = weaker_sandbox(monkeypatch, *missing, limits=Limits(cpu_s=2))
    outcomes = sandbox.run_all([SandboxJob(DEEP, "pass"), SandboxJob("x = 1", "assert x == 1")])
    assert [outcome.verdict for outcome in outcomes] == ["passed", "passed"]
    assert list(tmp_path.iterdir()) == []


def test_folder_that_stays_is_logged_and_the_verdict_stands(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sandbox = weaker_sandbox(monkeypatch)
    monkeypatch.setattr(sandbox_module, "remove_tree", lambda folder: [f"a file in {folder} could not be removed: x"])
    with caplog.at_level(logging.WARNING):
        assert sandbox.run(SandboxJob("x = 1", "assert x == 1")).verdict == "passed"
    assert "could not be removed" in caplog.text
