"""Several runs made one dataset: what two wrote is kept once and what goes is listed; and the script of shards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import ROOT

from gra.core.errors import DataError, Mismatch, RecipeError
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.data.export import PREFERENCE_SCHEMA, TRAIN_SCHEMA
from gra.data.merge import merge
from gra.runs.verify import verify

SCRIPT = ROOT / "recipes" / "cluster" / "shards.sh"


class Letters:
    """Embeds a text by how often each letter occurs in it."""

    def encode(self, texts: list[str]) -> Any:
        counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def row(number: int, text: str, score: float | None) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": text}], "completion": [{"role": "assistant", "content": "yes"}],
        "id": f"r1-{number:06d}", "domain": "math", "score": score, "round": 1,
    }  # fmt: skip


def make_run(folder: Path, rows: list[tuple[str, float | None]]) -> Path:
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    train = [row(number, text, score) for number, (text, score) in enumerate(rows)]
    pairs = [
        {
            "prompt": r["prompt"], "chosen": r["completion"], "rejected": [{"role": "assistant", "content": "no"}],
            "id": r["id"], "domain": "math", "score_chosen": 9.0, "score_rejected": 1.0, "reason": "worse",
        }
        for r in train
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(train, schema=TRAIN_SCHEMA), dataset / "train.parquet")
    pq.write_table(pa.Table.from_pylist(pairs, schema=PREFERENCE_SCHEMA), dataset / "preferences.parquet")
    files = [dataset / "train.parquet", dataset / "preferences.parquet"]
    RunFolder(folder).record("synthesis", {"name": folder.name}, files)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        make_run(tmp_path / "big-0", [("add two numbers", 8.0), ("name a fish", 9.0)]),
        make_run(tmp_path / "big-1", [("add two numbers", 9.5), ("draw a box", None)]),
        make_run(tmp_path / "big-2", [("a fish name", 8.5)]),
    ]


@pytest.mark.parametrize("block", [1, 2, 2048])
def test_what_two_runs_wrote_is_kept_once_and_the_better_one_stays(
    runs: list[Path], tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gra.data.merge._BLOCK", block)
    out = tmp_path / "big"
    assert merge(runs, out, Letters(), 0.9, View()) == {"rows": 3, "dropped": 2}  # type: ignore[arg-type]
    assert "rows embedded 5/5" in capsys.readouterr().err
    train = pq.read_table(out / "dataset" / "train.parquet").to_pylist()
    assert [r["id"] for r in train] == ["big-0/r1-000001", "big-1/r1-000000", "big-1/r1-000001"]
    assert train[0]["prompt"] == [{"role": "user", "content": "name a fish"}]
    dropped = pq.read_table(out / "dropped.parquet").to_pylist()
    assert [(d["id"], d["repeats"], d["stage"]) for d in dropped] == [
        ("big-0/r1-000000", "big-1/r1-000000", "text"), ("big-2/r1-000000", "big-0/r1-000001", "embedding")
    ]  # fmt: skip
    from datasets import load_dataset

    pairs = load_dataset(str(out / "dataset"), "preferences", split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(pairs["id"]) == sorted(r["id"] for r in train)
    assert verify(out).files == 4
    with (out / "dataset" / "train.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(Mismatch):
        verify(out)


def test_runs_that_cannot_be_merged_are_named(runs: list[Path], tmp_path: Path) -> None:
    letters: Any = Letters()
    with pytest.raises(RecipeError, match="in it or around it"):
        merge(runs, tmp_path, letters, 0.9)
    with pytest.raises(RecipeError, match="in it or around it"):
        merge(runs, runs[0] / "merged", letters, 0.9)
    twin = make_run(tmp_path / "elsewhere" / "big-0", [("x", 8.0)])
    with pytest.raises(RecipeError, match="two of the runs are called `big-0`"):
        merge([*runs, twin], tmp_path / "big", letters, 0.9)
    with pytest.raises(RecipeError, match="in it or around it"):
        merge(runs, runs[0], letters, 0.9)
    third = make_run(tmp_path / "third", [("x", 8.0)])
    with pytest.raises(RecipeError, match="third holds what `synthesis` wrote; give the merged dataset a folder of"):
        merge(runs, third, letters, 0.9)
    (tmp_path / "begun").mkdir()
    with pytest.raises(DataError, match="begun holds no finished dataset"):
        merge([tmp_path / "begun"], tmp_path / "big", letters, 0.9)
    with (runs[1] / "dataset" / "train.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="is not the file that its manifest knows"):
        merge(runs, tmp_path / "big", letters, 0.9)


STAND_IN = """#!/bin/bash
# gra synthesize RECIPE name=NAME seed=N … --runs DIR: notes what it was asked, and works until it is told not to.
for word in "$@"; do case $word in name=*) name=${word#name=};; esac; done
folder=${!#}/$name
mkdir -p "$folder"
echo "$@" >> "$folder/asked"
[ -e "$folder/long" ] || exit 0
trap 'echo interrupted >> "$folder/asked"; exit 130' TERM
while :; do sleep 0.05; done
"""


def test_a_run_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    odd = make_run(tmp_path / "b", [("What is rain?", 9.0)]).rename(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    with pytest.raises(RecipeError, match="is not UTF-8"):
        merge([odd], tmp_path / "out", Letters(), 0.95)  # type: ignore[arg-type]


def shard(tmp_path: Path, number: int) -> subprocess.Popen[bytes]:
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "gra").write_text(STAND_IN)
    (programs / "gra").chmod(0o755)
    (tmp_path / "disk").mkdir(exist_ok=True)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(number), "LOCAL": str(tmp_path / "disk"),
    }  # fmt: skip
    command = [str(SCRIPT), "recipe.yaml", "big", "seeds.limit=5"]
    return subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)


def test_a_shard_works_on_the_local_disk_and_its_folder_comes_back(tmp_path: Path) -> None:
    assert shard(tmp_path, 3).wait(20) == 0
    assert shard(tmp_path, 3).wait(20) == 0  # goes on from what came back
    asked = (tmp_path / "runs" / "big-3" / "asked").read_text().splitlines()
    assert asked == [f"synthesize recipe.yaml name=big-3 seed=3 seeds.limit=5 --runs {tmp_path}/disk/gra-big-3"] * 2


def test_a_shard_that_is_warned_ends_resumably_and_its_folder_comes_back(tmp_path: Path) -> None:
    (tmp_path / "runs" / "big-4").mkdir(parents=True)
    (tmp_path / "runs" / "big-4" / "long").touch()
    task = shard(tmp_path, 4)
    end = time.monotonic() + 20
    while not (tmp_path / "disk" / "gra-big-4" / "big-4" / "asked").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.2)
    task.send_signal(signal.SIGTERM)
    assert task.wait(20) == 130
    assert (tmp_path / "runs" / "big-4" / "asked").read_text().splitlines()[-1] == "interrupted"
