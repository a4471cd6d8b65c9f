"""Links in a run folder are refused where GRA writes, and new files get the rights that the umask leaves."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gra.config.tracking import TrackingConfig
from gra.core.errors import DataError
from gra.core.files import (
    allowed_mode,
    atomic_path,
    make_folder,
    open_plain,
    open_regular,
    read_regular,
    write_json,
    write_text,
)
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.ledger.budget import GpuTime
from gra.ledger.ledger import Ledger
from gra.tracking import start_tracking

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
    "wandb": lambda run: RunFolder(run).create(),
}
IN_PLACE = ("log.jsonl", ".lock", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "ledger.sqlite-journal")


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


@pytest.mark.parametrize("name", ["report", "compare", "dataset", "models/x", "eval/x", "contamination", "logs"])
def test_link_above_the_file_is_refused_by_every_way_to_write(tmp_path: Path, name: str) -> None:
    run, victim = RunFolder(tmp_path / "run").create(), tmp_path / "victim"
    run.record("synthesis", {}, [])
    victim.mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(victim)
    for write in (
        lambda file: write_text(file, "x"),
        lambda file: open_plain(file, "ab"),
        lambda file: make_folder(file),
        lambda file: Ledger(file, "one"),
        lambda file: View(file, quiet=True).event("note", text="x"),
        lambda file: RunFolder(file).create(),
        lambda file: start_tracking(TrackingConfig(), stage="s", name="n", group=None, config={}, folder=file),
    ):
        for file in (run / name / "file", run / name / "deeper" / "file"):
            with pytest.raises(DataError, match=f"{name} is a link"):
                write(file)
    with pytest.raises(DataError, match=f"{name} is a link"):
        RunFolder(run / name).create()
    assert not list(victim.iterdir())


def test_folder_of_wandb_that_is_a_link_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run").create()
    (run / "arms").mkdir()
    (run / "arms" / "wandb").symlink_to(tmp_path)
    with pytest.raises(DataError, match="wandb is a link"), run.lock():
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "wandb").symlink_to(tmp_path)
    with pytest.raises(DataError, match="wandb is a link"):
        start_tracking(TrackingConfig(), stage="s", name="n", group=None, config={}, folder=tmp_path / "other")


def test_links_that_the_user_made_around_run_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "one").mkdir(parents=True)
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3, "icons": {}}')  # of a web application
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")
    run = RunFolder(tmp_path / "runs" / "one").create()
    run.record("synthesis", {}, [])
    write_text(run / "report" / "index.html", "x")
    assert (tmp_path / "scratch" / "one" / "report" / "index.html").is_file()


def _lock_and_write(run: Path, name: str) -> None:
    WRITERS[name if name in WRITERS else "ledger.sqlite-wal"](run)


@pytest.mark.parametrize("name", IN_PLACE)
def test_file_with_a_second_name_is_not_changed_in_place(tmp_path: Path, target: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    os.link(target, tmp_path / "run" / name)
    with pytest.raises(DataError, match=f"{name} has a second name .a hard link.") as caught:
        _lock_and_write(tmp_path / "run", name)
    assert caught.value.exit_code == 2
    assert target.read_text() == KEEP


def test_file_with_a_second_name_is_replaced_where_files_are_written_whole(tmp_path: Path, target: Path) -> None:
    os.link(target, tmp_path / "x.json")
    write_json(tmp_path / "x.json", [])
    assert (target.read_text(), (tmp_path / "x.json").read_text()) == (KEEP, "[]\n")


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipe_or_folder_in_place_of_a_file_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / name)
    if name == "log.jsonl" and make is os.mkdir:  # the log never ends a run
        View(tmp_path / "run" / name).event("note", text="x")
        assert "ends here: Is a directory" in capsys.readouterr().err
        return
    with pytest.raises(DataError, match=f"{name}(: Is a directory| is no regular file)"):
        _lock_and_write(tmp_path / "run", name)


@pytest.mark.parametrize("mode", ["ab", "ab+", "a"])
def test_pipe_is_not_waited_for(tmp_path: Path, mode: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is no regular file"):
        open_plain(tmp_path / "pipe", mode)
    with pytest.raises(DataError, match="pipe is no regular file"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(DataError, match="null is no regular file"):
        read_regular(Path("/dev/null"))
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa\r\nb\rc")
    assert read_regular(tmp_path / "x", "utf-8-sig") == (tmp_path / "x").read_text("utf-8-sig")


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
