"""Turns of engines on the same cores: steps never overlap, every engine gets its turn, and none is stuck with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from gra.engines.vllm import core_turns
from gra.engines.vllm.core_turns import CORES_FILE, CoreTurns, open_turns

HOLDER = """
import sys, time
from pathlib import Path
from gra.engines.vllm.core_turns import CoreTurns
with CoreTurns(Path(sys.argv[1])).step():
    print("held", flush=True)
    time.sleep(60)
"""


def test_steps_never_overlap_and_every_engine_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_turns, "_TURN_S", 0.01)
    steps: list[tuple[str, float, float]] = []

    def compute(name: str, step_s: float, count: int) -> None:
        turns = CoreTurns(tmp_path / "cores")
        for _ in range(count):
            with turns.step():
                begun = time.monotonic()
                time.sleep(step_s)
                steps.append((name, begun, time.monotonic()))

    engines = [threading.Thread(target=compute, args=args) for args in (("large", 0.02, 20), ("small", 0.002, 120))]
    for engine in engines:
        engine.start()
    for engine in engines:
        engine.join()
    ordered = sorted(steps, key=lambda step: step[1])
    assert len(ordered) == 140
    assert all(ends <= begins for (_, _, ends), (_, begins, _) in pairwise(ordered))
    turns = [name for place, (name, *_) in enumerate(ordered) if place == 0 or ordered[place - 1][0] != name]
    # One engine after the other would make two turns. How many more there are depends on how busy the machine is.
    assert len(turns) >= 4, "a turn is a few steps, and none waits until the other has nothing to do"


def test_an_engine_without_work_lets_another_compute(tmp_path: Path) -> None:
    idle, other = CoreTurns(tmp_path / "cores"), CoreTurns(tmp_path / "cores")
    with idle.step():
        pass
    begun = time.monotonic()
    with other.step():
        assert time.monotonic() - begun < core_turns._TURN_S


def test_the_turn_of_a_killed_engine_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "cores")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    ended: list[float] = []

    def compute() -> None:
        with CoreTurns(tmp_path / "cores").step():
            ended.append(time.monotonic())

    waiting = threading.Thread(target=compute)
    waiting.start()
    time.sleep(0.1)
    assert not ended
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    waiting.join(10)
    assert ended


def test_without_a_file_that_can_be_opened_engines_compute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CORES_FILE, raising=False)
    assert open_turns() is None
    link = tmp_path / "link"
    os.symlink(tmp_path / "elsewhere", link)
    monkeypatch.setenv(CORES_FILE, str(link))
    assert open_turns() is None
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setenv(CORES_FILE, str(tmp_path / "cores"))
    assert open_turns() is not None
