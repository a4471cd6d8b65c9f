"""One evaluation asked by several plain processes: `--shards N`, one GPU each where there are several.

Shard k of N takes every batch whose number leaves k when divided by N, with the model loaded for itself, and adds its
answers to the same folder; the first process then scores all of them. The batches are those that one process makes,
so the merged result is that of one process. A shard that dies costs its batch in flight: the same command, with
whatever number of shards, goes on from what is recorded. This module is also what a shard runs.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Any

from gra.core.errors import EngineUnavailable, GraError
from gra.core.hardware import gpu_count
from gra.core.processes.secrets import child_environment
from gra.evaluation.generate import Progress, Sitting, ask

Message = tuple[int, dict[str, Any] | None]  # (shard, what it said; None when its output ended)


def ask_in_shards(sitting: Sitting, progress: Progress, shards: int) -> None:
    """Ask what is not on record in several processes, and return when all of it is recorded.

    Raises:
        GraError: what a shard could not do, or that it died.
    """
    jobs = [pickle.dumps((sitting, (number, shards))) for number in range(shards)]
    said: SimpleQueue[Message] = SimpleQueue()
    children = [_start(number, shards) for number in range(shards)]
    try:
        for number, (child, job) in enumerate(zip(children, jobs, strict=True)):
            threading.Thread(target=_listen, args=(number, child.stdout, said), daemon=True).start()
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # it died already, which is told below
                child.stdin.write(len(job).to_bytes(8, "big") + job)
                child.stdin.flush()
        _follow(children, said, {task.name: len(task.items) for task in sitting.questions}, progress)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _start(number: int, shards: int) -> subprocess.Popen[bytes]:
    gpus = gpu_count()
    own = {"CUDA_VISIBLE_DEVICES": str(number % gpus)} if gpus > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ else {}
    threads = max(1, len(os.sched_getaffinity(0)) // shards)
    own |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, "-m", "gra.evaluation.shards"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment("HF_TOKEN", **own),
    )  # fmt: skip


def _listen(number: int, stream: IO[bytes] | None, said: SimpleQueue[Message]) -> None:
    assert stream is not None
    for line in stream:
        said.put((number, json.loads(line)))
    said.put((number, None))


def _follow(
    children: list[subprocess.Popen[bytes]],
    said: SimpleQueue[Message],
    sizes: dict[str, int],
    progress: Progress,
) -> None:
    """Add up what the shards have done until all of them have said that they are."""
    done: dict[str, dict[int, int]] = {name: {} for name in sizes}
    finished: set[int] = set()
    while len(finished) < len(children):
        number, message = said.get()
        if message is None:
            if number not in finished:
                code = children[number].wait()
                how = signal.Signals(-code).name if code < 0 else f"status {code}"
                raise EngineUnavailable(
                    f"shard {number} of {len(children)} ended with {how} before it was done (too little memory for so "
                    "many?); run the same command again to go on from what is recorded"
                )
        elif "error" in message:
            error = GraError(message["error"])
            error.exit_code = message["exit_code"]
            raise error
        elif "finished" in message:
            finished.add(number)
        else:
            done[message["task"]][number] = message["done"]
            progress(message["task"], sum(done[message["task"]].values()), sizes[message["task"]])


def _shard() -> None:
    """Read a job from standard input, do it, and say so on standard output, a JSON object a line."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print is no message
    size = int.from_bytes(sys.stdin.buffer.read(8), "big")
    sitting, share = pickle.loads(sys.stdin.buffer.read(size))
    threading.Thread(target=_end_with_the_parent, daemon=True).start()

    def say(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        ask(sitting, lambda task, done, _: say(task=task, done=done), share)
    except GraError as error:
        say(error=str(error), exit_code=error.exit_code)
    else:
        say(finished=True)
    channel.close()


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(130)


if __name__ == "__main__":
    _shard()
