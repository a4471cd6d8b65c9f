"""The whole job on real weights: real vLLM, real training, real evaluation, on the smallest model of the catalog."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from paths import ROOT


def gra(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gra.cli.main", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return recipes/smoke.yaml with the committee's arm alone; a second student takes half a minute."""
    content = yaml.safe_load((ROOT / "recipes" / "smoke.yaml").read_text())
    content |= {"arms": {"gra": content["arms"]["gra"]}, "baseline": "gra"}
    file = tmp_path_factory.mktemp("recipe") / "smoke.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def smoke(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real run of the smallest job, shared by the tests of this module."""
    folder = tmp_path_factory.mktemp("smoke")
    done = gra("run", str(recipe), "--runs", str(folder), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "smoke"


pytestmark = pytest.mark.models


def test_every_candidate_is_in_the_lineage_once(smoke: Path) -> None:
    lineage = pq.read_table(smoke / "arms" / "gra" / "lineage.parquet").to_pylist()
    ids = [row["candidate_id"] for row in lineage]
    assert ids
    assert len(set(ids)) == len(ids)
    assert all(row["state"] and row["reason"] for row in lineage)
    manifest = json.loads((smoke / "arms" / "gra" / "manifest.json").read_text())["synthesis"]
    accepted = [row for row in lineage if row["state"] == "accepted"]
    assert manifest["states"]["accepted"] == len(accepted) > 0
    assert manifest["tokens_by_role"]["generator"]["completion_tokens"] > 0
    assert set(manifest["shared_weights"]["smollm2-135m-instruct"]) == {"writer", "reader", "examiner", "judge"}


def test_student_is_trained_on_the_dataset(smoke: Path) -> None:
    rows = pq.read_table(smoke / "arms" / "gra" / "dataset" / "train.parquet").to_pylist()
    assert all(row["prompt"][0]["role"] == "user" and row["completion"][0]["content"] for row in rows)
    metrics = json.loads((smoke / "models" / "gra-seed0" / "metrics.json").read_text())
    assert metrics["steps"] == 3
    assert (smoke / "models" / "gra-seed0" / "adapter_model.safetensors").is_file()


def test_run_writes_comparison_and_report(smoke: Path) -> None:
    comparison = json.loads((smoke / "compare" / "compare.json").read_text())
    assert comparison
    page = (smoke / "report" / "index.html").read_text()
    assert "smoke" in page
    assert (smoke / "eval" / "untuned" / "records.parquet").is_file()


def test_second_run_spends_nothing(smoke: Path, recipe: Path) -> None:
    assert gra("verify", str(smoke), cwd=ROOT).returncode == 0
    explained = gra("explain", str(smoke), "r1-000000", cwd=ROOT)
    assert explained.returncode == 0, explained.stderr
    assert "r1-000000" in explained.stdout
    before = (smoke / "arms" / "gra" / "dataset" / "train.parquet").read_bytes()
    again = gra("run", str(recipe), "--runs", str(smoke.parent), cwd=ROOT)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "already made" in again.stderr
    assert "gra-seed0 already holds this student" in again.stderr
    assert (smoke / "arms" / "gra" / "dataset" / "train.parquet").read_bytes() == before


def test_verify_finds_a_changed_file(smoke: Path) -> None:
    card = smoke / "arms" / "gra" / "dataset" / "README.md"
    original = card.read_text()
    card.write_text(original + "\n")
    found = gra("verify", str(smoke), cwd=ROOT)
    card.write_text(original)
    assert found.returncode == 5
    assert "README.md" in found.stderr
