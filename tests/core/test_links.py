"""Links in a run folder are refused where GRA writes, and new files get the rights that the umask leaves."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gra.core.errors import DataError
from gra.core.files import allowed_mode, atomic_path, open_plain, write_json, write_text
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.ledger.budget import GpuTime
from gra.ledger.ledger import Ledger

KEEP = "{}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    file = tmp_path / "outside.txt"
    file.write_text(KEEP)
    return file


def _log(run: Path) -> None:
    View(run / "log.jsonl", quiet=True).event("note", text="x")


def _lock(run: Path) -> None:
    with RunFolder(run).lock():
        pass


WRITERS: dict[str, Callable[[Path], object]] = {
    ".lock": _lock,
    "log.jsonl": _log,
    "ledger.sqlite": lambda run: Ledger(run / "ledger.sqlite", "one"),
    "ledger.sqlite-wal": lambda run: Ledger(run / "ledger.sqlite", "one"),
    "ledger.sqlite-journal": lambda run: GpuTime(run / "ledger.sqlite", "one"),
    "recipe.resolved.yaml": lambda run: write_text(run / "recipe.resolved.yaml", "x"),
    "manifest.json": lambda run: RunFolder(run).record("synthesis", {}),
    "dataset": _lock,
    "arms": lambda run: RunFolder(run).create(),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("exists", [True, False])
def test_link_is_refused_and_its_target_is_left(tmp_path: Path, target: Path, name: str, exists: bool) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if not exists:
        target.unlink()
    (run / name).symlink_to(target)
    with pytest.raises(DataError, match=f"{name} is a link"):
        WRITERS[name](run)
    assert target.exists() == exists
    assert not exists or target.read_text() == KEEP


def test_link_deep_in_the_folder_is_refused(tmp_path: Path, target: Path) -> None:
    run = RunFolder(tmp_path / "run").create()
    (run / "arms" / "gra").mkdir(parents=True)
    (run / "arms" / "gra" / "dataset").symlink_to(tmp_path)
    with pytest.raises(DataError, match="dataset is a link"), run.lock():
        pass


def test_run_folder_that_is_a_link_itself_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch" / "wandb").mkdir()
    (tmp_path / "scratch" / "wandb" / "latest-run").symlink_to(tmp_path)  # as W&B makes it
    with RunFolder(tmp_path / "run").create().lock():
        write_json(tmp_path / "run" / "x.json", {})
    assert (tmp_path / "scratch" / "x.json").is_file()


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda mask: (os.umask(mask), None)[1]
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
def test_files_have_the_rights_that_the_umask_leaves(
    tmp_path: Path, umask: Callable[[int], None], mask: int, mode: int
) -> None:
    umask(mask)
    assert allowed_mode(0o666) == mode
    write_json(tmp_path / "a.json", {})
    with atomic_path(tmp_path / "b") as temporary:
        temporary.write_text("x")
    with open_plain(tmp_path / "c", "a+") as file:
        file.write("x")
    for name in ("a.json", "b", "c"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_half_a_surrogate_pair_is_written_and_logged(tmp_path: Path) -> None:
    view = View(tmp_path / "log.jsonl", quiet=True)
    view.event("note", text="half \ud83d")
    assert (tmp_path / "log.jsonl").read_bytes().count(b"\n") == 1
    write_text(tmp_path / "x", "half \ud83d")
    assert (tmp_path / "x").read_text() == "half ?"


def test_ledger_without_links_is_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "one")
    asyncio.run(ledger.conclude("r1-000000", {}, "s"))
    assert ledger.candidate_record("r1-000000", "s") == {}
    ledger.close()
