"""Digests, atomic files, the lock of a run folder, and verification."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.core.errors import DataError, Mismatch, writing
from gra.core.files import atomic_path, write_json
from gra.core.hashing import canonical_json, digest, file_digest
from gra.core.run_folder import MANIFEST, RunFolder, RunLocked, environment
from gra.core.stored.reader import check_type
from gra.core.stored.types import Share

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=10,
)  # fmt: skip


def test_the_canonical_form_is_pinned() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "naïve ☃"}) == '{"a":"naïve ☃","b":[1,2.5,null]}'
    assert digest([]) == hashlib.sha256(b"[]").hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), json_values, max_size=5))
def test_order_does_not_change_a_digest_and_content_does(value: dict[str, Any]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)
    assert digest({**value, "one more": 1}) != digest(value)
    assert json.loads(canonical_json(value)) == value


def test_json_files_are_readable_and_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "naïve"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "name": "naïve"\n}\n'


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run").create()
    (folder / "data").mkdir()
    (folder / "data" / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    folder.record("synthesis", {"fingerprint": "f1", "rows": 2}, [folder / "data" / "a.txt", folder / "b.txt"])
    return folder


def test_a_stage_is_complete_for_the_same_inputs_and_unharmed_files_only(run: RunFolder) -> None:
    found = run.completed("synthesis", "f1")
    assert found is not None
    assert found["rows"] == 2
    assert found["files"]["data/a.txt"] == file_digest(run / "data" / "a.txt")
    assert run.completed("synthesis", "f2") is None
    assert run.completed("training", "f1") is None
    (run / "b.txt").write_text("changed")
    assert run.completed("synthesis", "f1") is None


def test_sections_of_other_stages_stay(run: RunFolder) -> None:
    run.record("training", {"fingerprint": "t"}, [])
    assert run.completed("synthesis", "f1") is not None
    assert run.completed("training", "t") is not None
    assert run.manifest()["manifest_version"] == 1


def test_dropped_section_takes_its_files_along_and_no_others(run: RunFolder) -> None:
    (run / "model.bin").write_text("m")
    run.record("training", {"fingerprint": "t"}, [run / "model.bin"])
    before = run.manifest()
    run.drop("training")
    run.drop("evaluation")
    assert not (run / "model.bin").exists()
    assert run.manifest() == {name: section for name, section in before.items() if name != "training"}
    assert run.verify() == 2


def test_verify_counts_files_and_names_every_one_that_is_wrong(run: RunFolder) -> None:
    assert run.verify() == 2
    (run / "b.txt").write_text("changed")
    (run / "data" / "a.txt").unlink()
    with pytest.raises(Mismatch) as caught:
        run.verify()
    assert "data/a.txt (stage synthesis) is missing" in str(caught.value)
    assert "b.txt (stage synthesis) was changed after it was written" in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_folder_without_or_with_a_damaged_manifest(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        RunFolder(tmp_path).verify()
    (run / MANIFEST).write_text('{"synthesis": {')
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        run.verify()
    (run / MANIFEST).write_text("[1]")
    with pytest.raises(DataError, match=r"manifest\.json is damaged \(it is not a JSON object\)"):
        run.verify()
    (run / MANIFEST).write_text('{"synthesis": 5}')
    with pytest.raises(DataError, match=r"manifest\.json is damaged \(`synthesis` is not a JSON object\)"):
        run.completed("synthesis", "f")


def _edit(run: RunFolder, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((run / MANIFEST).read_text())
    change(content)
    (run / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["synthesis"].update(rows=9), "the section `synthesis` of manifest.json was changed"),
        (lambda m: m["synthesis"].pop("rows"), "the section `synthesis` of manifest.json was changed"),
        (lambda m: m["synthesis"]["environment"].update(cpus=1), "the section `synthesis` of manifest.json"),
        (lambda m: m["synthesis"].update(seal=5), "the section `synthesis` of manifest.json was changed"),
        (lambda m: m["synthesis"].pop("seal"), "manifest.json was changed after it was written, outside"),
        (lambda m: m.update(seal="x"), "manifest.json was changed after it was written, outside"),
        (lambda m: m.pop("seal"), "manifest.json was changed after it was written, outside"),
        (lambda m: m.update(manifest_version=2), "manifest.json was changed after it was written, outside"),
        (lambda m: m.pop("training"), "manifest.json was changed after it was written, outside"),
        (lambda m: m.update(more={"files": {}}), "manifest.json was changed after it was written, outside"),
    ],
)
def test_changed_value_of_the_manifest_is_named(
    run: RunFolder, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    odd = {"\ud800": float("nan"), 7: (1, 2.5), "b": "\ud800", "a": "naïve"}
    run.record("training", {"fingerprint": "t", "odd": odd}, [])
    assert run.verify() == 2
    _edit(run, lambda content: content)  # in other bytes
    assert run.verify() == 2
    _edit(run, change)
    with pytest.raises(Mismatch, match=re.escape(words)):
        run.verify()


def test_manifest_of_an_earlier_release_has_no_seals_and_gets_them_with_its_next_section(run: RunFolder) -> None:
    _edit(run, lambda content: (content.pop("seal"), content["synthesis"].pop("seal")))
    assert run.verify() == 2
    run.record("training", {"fingerprint": "t"}, [])
    assert run.verify() == 2
    _edit(run, lambda content: content["synthesis"].update(rows=9))
    with pytest.raises(Mismatch, match=r"manifest\.json was changed"):
        run.verify()


def test_new_section_does_not_hide_a_changed_one(run: RunFolder) -> None:
    _edit(run, lambda content: content["synthesis"].update(rows=9))
    run.record("training", {"fingerprint": "t"}, [])
    with pytest.raises(Mismatch, match="section `synthesis`"):
        run.verify()


@pytest.mark.parametrize("name", ["../outside", "/etc/hosts", "a/../../b", "", "nul\\u0000"])
def test_manifest_with_files_outside_the_folder_is_refused(run: RunFolder, name: str) -> None:
    (run / MANIFEST).write_text(f'{{"other": {{"files": {{"{name}": "0"}}}}}}')
    with pytest.raises(DataError, match="is not the name of a file in this folder"):
        run.manifest()


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be made \(.*\); choose another with --runs"):
        RunFolder(tmp_path / "file" / "run").create()


HOLD = """
import sys, time
from pathlib import Path
from gra.core.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_cannot_work_on_one_run_and_a_dead_one_does_not_hold_it(run: RunFolder) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"in use by process {holder.pid}; wait for it") as caught, run.lock():
            pass
        assert caught.value.exit_code == 2
    finally:
        holder.kill()
        holder.wait()
    with run.lock():
        assert (run / ".lock").read_text() == str(os.getpid())
    with run.lock():
        pass


def test_what_a_killed_process_had_begun_to_write_is_cleared_away_at_the_next_start(run: RunFolder) -> None:
    dying = "import os, sys; from pathlib import Path; from gra.core.files import atomic_path\n"
    dying += "with atomic_path(Path(sys.argv[1])) as file:\n    file.write_text('half'); os._exit(9)"
    target = run / "dataset" / "train.parquet"
    assert subprocess.run([sys.executable, "-c", dying, str(target)], check=False).returncode == 9
    (begun,) = target.parent.iterdir()
    assert begun.read_text() == "half"
    with run.lock():
        assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; free some space .*what is done is kept"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, r"secret: Permission denied; check its rights, or choose another place"),
        (errno.EROFS, "Read-only file system; choose a folder"),
    ],
)
def test_what_a_disk_refuses_is_one_sentence(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(DataError, match=words), writing(tmp_path):
        raise OSError(number, os.strerror(number), "secret")
    with pytest.raises(BlockingIOError), writing(tmp_path):
        raise OSError(errno.EAGAIN, "not the disk's")


def test_the_environment_is_recorded() -> None:
    found = environment()
    assert found["gra"]
    assert found["python"].startswith("3.")
    assert "torch" in found["packages"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("share", "accepted"), [(1.0000000000000002, True), (-1e-17, True), (1.001, False), (-0.01, False)]
)
def test_a_share_may_lie_beyond_its_bounds_by_rounding(share: float, accepted: bool) -> None:
    if accepted:
        assert check_type(share, Share, "manifest.json") == share
    else:
        with pytest.raises(DataError, match=r"manifest\.json is damaged"):
            check_type(share, Share, "manifest.json")
