"""The real worker process of the vLLM engine around a stand-in for vLLM: `python vllm_stand_in.py SOCKET_FD`.

The folder that stands for the weights says in `mode` how it behaves. The worker's process ids and the aborted calls are
written into it. A grandchild plays vLLM's engine core, which does not notice when its parent is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from gra.engines.vllm import worker as vllm_worker


class _Engine:
    errored = False


class StandIn:
    """Answer by the first word of the prompt, such as echo, environment, die, slow or garbled."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.folder = Path(settings["path"])
        self.engine = _Engine()
        self.tasks: dict[int, asyncio.Task[None]] = {}
        core = subprocess.Popen(["sleep", "600"])
        with (self.folder / "pids").open("a") as pids:
            pids.write(f"{os.getpid()} {core.pid}\n")
        mode = (self.folder / "mode").read_text()
        if mode == "bad weights":
            raise ValueError("no such tensor\nwith a second line")
        if mode == "killed while loading":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "slow to load":
            time.sleep(1.5)  # blocks, as loading weights does

    async def load_adapters(self) -> None:
        """There is nothing to read."""

    async def remember(self) -> None:
        """There is nothing to say."""

    async def sleep(self, level: int) -> None:
        if (self.folder / "mode").read_text() == "no sleep":
            raise RuntimeError("not on this machine")
        self._note(f"sleep{level}")

    async def wake(self, level: int) -> None:
        mode = (self.folder / "mode").read_text()
        if mode == "bad dreams":
            raise RuntimeError("it does not say what it said")
        if mode == "dies waking":
            os.kill(os.getpid(), signal.SIGKILL)
        self._note(f"wake{level}")

    def _note(self, order: str) -> None:
        with (self.folder / "orders").open("a") as orders:
            orders.write(f"{order}\n")

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        prompt = request["messages"][-1]["content"]
        word = prompt.split()[0]
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "break":  # what AsyncLLM does once its engine core is gone
            self.engine.errored = True
            raise RuntimeError("engine core died")
        if word == "odd":
            raise RuntimeError("this one call failed")
        if word == "wrong":
            raise ValueError("labels do not differ")
        if word == "slow":
            try:
                (self.folder / "begun").touch()
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                with (self.folder / "aborted").open("a") as aborted:
                    aborted.write(f"{prompt}\n")
                raise
        text = "x" * 2_000_000 if word == "huge" else prompt
        if word == "environment":
            text = " ".join(os.environ)
        if word == "garbled":
            return {"id": request["id"], "completion": {"text": "x" * 70_000_000}}
        if word == "adapter":
            text = request["adapter"] or "none"
        return {"id": request["id"], "completion": {
            "text": text, "finish": "stop", "prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1,
            "seconds": 0.0, "scores": {label: 0.5 for label in request.get("choice", [])},
        }}  # fmt: skip


if __name__ == "__main__":
    vllm_worker.Worker = StandIn  # type: ignore[assignment, misc]
    vllm_worker.main()
