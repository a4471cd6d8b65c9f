"""Ask a model in several plain processes: `--shards N`, one GPU each where there are several.

Shard k of N loads the model for itself and asks every batch whose number modulo N is k.
It adds its answers to the same folder; the first process then scores all of them. The batches are the same as in one
process, and so is the result. A shard that dies loses its batch in flight.
The same command, with any number of shards, continues from the recorded answers.
This module is also the program that a shard runs.
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
from gra.evaluation.generate import EvaluationRun, Progress, ask

Message = tuple[int, dict[str, Any] | None]  # (shard, its message; None when its output ended)


def ask_in_shards(run: EvaluationRun, progress: Progress, shards: int) -> None:
    """Ask the samples without a recorded answer in several processes, and return when all are recorded.

    Raises:
        GraError: when a shard fails or dies.
    """
    jobs = [pickle.dumps((run, (number, shards))) for number in range(shards)]
    messages: SimpleQueue[Message] = SimpleQueue()
    children = [_start(number, shards) for number in range(shards)]
    try:
        for number, (child, job) in enumerate(zip(children, jobs, strict=True)):
            threading.Thread(target=_listen, args=(number, child.stdout, messages), daemon=True).start()
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # it died already, which is reported below
                child.stdin.write(len(job).to_bytes(8, "big") + job)
                child.stdin.flush()
        _follow(children, messages, {task.name: len(task.samples) for task in run.tasks}, progress)
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


def _listen(number: int, stream: IO[bytes] | None, messages: SimpleQueue[Message]) -> None:
    assert stream is not None
    for line in stream:
        messages.put((number, json.loads(line)))
    messages.put((number, None))


def _follow(
    children: list[subprocess.Popen[bytes]],
    messages: SimpleQueue[Message],
    sizes: dict[str, int],
    progress: Progress,
) -> None:
    """Report the progress of all shards until each has reported its end."""
    done: dict[str, dict[int, int]] = {name: {} for name in sizes}
    finished: set[int] = set()
    while len(finished) < len(children):
        number, message = messages.get()
        if message is None:
            if number not in finished:
                code = children[number].wait()
                how = signal.Signals(-code).name if code < 0 else f"status {code}"
                raise EngineUnavailable(
                    f"shard {number} of {len(children)} ended with {how} before it was done (too little memory for "
                    "all of them?); run the same command again to go on from the recorded answers"
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
    """Read a job from standard input, do it, and report on standard output, a JSON object a line."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries is no message
    size = int.from_bytes(sys.stdin.buffer.read(8), "big")
    run, share = pickle.loads(sys.stdin.buffer.read(size))
    threading.Thread(target=_end_with_the_parent, daemon=True).start()

    def say(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        ask(run, lambda task, done, _: say(task=task, done=done), share)
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
