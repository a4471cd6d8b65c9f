"""The whole job on real weights, stopped in each phase: the same command goes on and finishes correctly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from paths import ROOT

# The line that a phase begins with, and the seconds until the kill.
PHASES = [
    ("▸ engines", 8.0),
    ("reviewer examiner: AUC", 2.0),
    ("smoke-gra accepted", 0.5),
    ("▸ train: gra-seed0", 14.0),
    ("▸ evaluate: vanilla-seed0", 3.0),
]

# Each test starts the job six times; ten minutes are enough on a quiet machine.
pytestmark = [pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(1800)]


def run_until(sign: str, wait: float, folder: Path, how: signal.Signals = signal.SIGKILL) -> int:
    """Start the job and signal it with all it started, `wait` seconds after it printed `sign`; its exit status."""
    said = folder / "said.txt"
    with said.open("wb") as out:
        job = subprocess.Popen(
            [sys.executable, "-m", "gra.cli.main", "run", str(ROOT / "recipes" / "smoke.yaml"), "--runs", str(folder)],
            cwd=ROOT, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
        while job.poll() is None:
            if sign and sign in said.read_text(errors="replace"):
                time.sleep(wait)
                os.killpg(job.pid, how)
                return job.wait(60)
            time.sleep(0.1)
    return job.returncode


def test_job_killed_in_every_phase_finishes_correctly(tmp_path: Path) -> None:
    ends = [run_until(sign, wait, tmp_path) for sign, wait in PHASES]
    assert ends == [-signal.SIGKILL] * len(PHASES)
    assert run_until("", 0, tmp_path) == 0, (tmp_path / "said.txt").read_text()[-3000:]
    run = tmp_path / "smoke"
    verified = subprocess.run(
        [sys.executable, "-m", "gra.cli.main", "verify", str(run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    lineage = pq.read_table(run / "arms" / "gra" / "lineage.parquet").to_pylist()
    assert len({row["candidate_id"] for row in lineage}) == len(lineage) > 0
    assert json.loads((run / "models" / "gra-seed0" / "metrics.json").read_text())["steps"] == 3
    for student in ("untuned", "vanilla-seed0", "gra-seed0"):
        records = pq.read_table(run / "eval" / student / "records.parquet").to_pylist()
        assert len({(row["task"], row["item"]) for row in records}) == len(records) > 0
    assert (run / "report" / "index.html").is_file()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_job_says_how_to_resume(tmp_path: Path, how: signal.Signals) -> None:
    for sign, wait in PHASES:
        status = run_until(sign, wait, tmp_path, how)
        said = (tmp_path / "said.txt").read_text(errors="replace")
        assert (sign, status) == (sign, 130), said[-3000:]
        assert "run the same command again" in said
        assert "Traceback" not in said, said[-3000:]
    assert run_until("", 0, tmp_path) == 0, (tmp_path / "said.txt").read_text()[-3000:]
