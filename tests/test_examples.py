"""Every example runs: the scripts against a server in this process, the notebook on the smallest model."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from unreliable_server import UnreliableServer

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
COMMITTEE = ("model-a", "model-b", "model-c")


def run_against_a_server(script: str, arguments: list[str], folder: Path) -> tuple[int, str, UnreliableServer]:
    """Run an example in a folder of its own; its exit status, what it printed, and the server it asked."""

    async def run() -> tuple[int, str, UnreliableServer]:
        async with UnreliableServer(models=COMMITTEE) as server:
            job = await asyncio.create_subprocess_exec(
                sys.executable, str(EXAMPLES / script), "--base-url", server.base_url, *arguments, cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said, _ = await job.communicate()
            assert job.returncode is not None
            return job.returncode, said.decode(), server

    return asyncio.run(run())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_example_shows_its_help(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert f"python examples/{script.name}" in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "shown"),
    [
        ("from_dataframe.py", ["--model", "model-a"], "distilled-seed-000001"),
        ("own_verifier.py", ["--model", "model-a"], "accepted"),
        ("openai_server.py", ["--models", *COMMITTEE], "spent: "),
        ("openai_server.py", ["--models", *COMMITTEE, "--dry-run"], "what it will cost"),
    ],
)
def test_example_runs_against_a_server(script: str, arguments: list[str], shown: str, tmp_path: Path) -> None:
    status, said, server = run_against_a_server(script, arguments, tmp_path)
    assert status == 0, said
    assert shown in said
    assert bool(server.asked) == ("--dry-run" not in arguments)


def test_example_reports_a_missing_server_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "openai_server.py"), "--base-url", "http://127.0.0.1:9/v1", "--models",
         *COMMITTEE],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr


@pytest.mark.slow
@pytest.mark.models
def test_jupyter_example_goes_from_seeds_to_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    page = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    nbclient.execute(page, cwd=str(tmp_path), timeout=500)
    shown = json.dumps([cell.get("outputs", []) for cell in page.cells])
    assert "what it will cost" in shown
    assert "accepted" in shown
    assert (tmp_path / "out" / "train.jsonl").is_file()
    assert sum(len(cell.get("outputs", [])) for cell in page.cells) < 60  # progress does not flood the page
