"""Exit codes of `gra synthesize`, as a shell sees them, against a server that fails on cue."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web
from paths import ROOT
from scripted_run import make_seeds, said
from unreliable_server import UnreliableServer

from gra.engines.types import Call, Completion


def answering(call: Call) -> Completion:
    return said("It is so.")


def written(folder: Path) -> Path:
    rows = [
        {"id": s.id, "domain": s.domain, "instruction": s.instruction, "response": s.response} for s in make_seeds()
    ]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "codes", "arm": "distilled", "domains": ["qa", "math"], "seeds": {"source": "seeds.jsonl"},
        "teacher": "model-a", "engine": {"kind": "openai", "max_attempts": 1}, "tracking": {"wandb": "off"},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def synthesize(folder: Path, server: UnreliableServer, address: str = "served") -> tuple[int, str]:
    """Run the command; its exit status and what it printed."""

    async def run() -> tuple[int, str]:
        async with server:
            job = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gra.cli.main", "synthesize", str(written(folder)),
                "--runs", str(folder / "runs"), f"engine.base_url={server.base_url}",
                f"engine.served_as={address}", cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            text, _ = await job.communicate()
            assert job.returncode is not None
            return job.returncode, text.decode()

    return asyncio.run(run())


def rows(folder: Path) -> int:
    return int(pq.read_metadata(folder / "runs" / "codes" / "dataset" / "train.parquet").num_rows)


def failing(status: int, message: str, topic: str = "") -> UnreliableServer:
    """Return a server that refuses every call about a topic."""

    def instead(request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        if body.get("messages") and topic in body["messages"][-1]["content"]:
            return web.json_response({"error": {"message": message}}, status=status)
        return None

    return UnreliableServer(script=answering, instead=instead)


def test_lost_answers_are_4_and_the_next_start_on_a_healthy_server_is_0(tmp_path: Path) -> None:
    status, text = synthesize(tmp_path, failing(500, "out of memory", "owls"))
    assert status == 4, text
    assert "out of memory" in text
    assert "Traceback" not in text
    assert rows(tmp_path) == 4
    status, text = synthesize(tmp_path, UnreliableServer(script=answering))
    assert status == 0, text
    assert rows(tmp_path) == 6


def test_refusal_of_the_account_is_4_and_uses_up_no_seed(tmp_path: Path) -> None:
    status, text = synthesize(tmp_path, failing(402, "Insufficient balance"))
    assert status == 4, text
    assert "Insufficient balance" in text
    assert synthesize(tmp_path, UnreliableServer(script=answering))[0] == 0
    assert rows(tmp_path) == 6


def test_run_without_an_accepted_row_is_6(tmp_path: Path) -> None:
    def leaky(call: Call) -> Completion:
        return said("The answer is here.<|im_end|>")

    status, text = synthesize(tmp_path, UnreliableServer(script=leaky))
    assert status == 6, text
    assert "no row" in text
    assert rows(tmp_path) == 0


@pytest.mark.parametrize("override", ["engine.max_attempts=0", "teacher=", "no.such.key=1"])
def test_wrong_input_is_2_and_asks_nothing(tmp_path: Path, override: str) -> None:
    server = UnreliableServer()

    async def run() -> int:
        async with server:
            job = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gra.cli.main", "synthesize", str(written(tmp_path)),
                f"engine.base_url={server.base_url}", override, cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            return await job.wait()

    assert asyncio.run(run()) == 2
    assert not server.asked
