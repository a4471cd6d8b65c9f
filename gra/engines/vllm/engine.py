"""Run each model in one supervised vLLM child process, on GPU or CPU.

The child (`gra.engines.vllm.worker`) holds vLLM's asynchronous engine and exchanges JSON lines over a socket. After a
crash or an out-of-memory kill the calls in flight become faults. The child is started again, and the broker sends them
again. The child ends itself when this process dies.

On a GPU a model that is unloaded can sleep. At level 1 its weights stay in the machine's memory; at level 2 they are
read from the disk again. A woken child must give a fixed text the same likelihood as before, or it is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gra.core.errors import EngineUnavailable
from gra.core.files import make_folder, open_plain
from gra.core.processes.secrets import is_secret_name
from gra.engines.types import BATCHES, Call, Choice, Completion, EngineStats, Fault, Json, Likelihood, Reward
from gra.engines.vllm.core_turns import CORES_FILE

_MAX_LINE = 64 * 2**20
# What the interpreter, the loader and the libraries below vLLM read.
_INHERITED = {
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "CC", "CXX", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "CONDA_PREFIX",
}  # fmt: skip
_INHERITED_PREFIXES = (
    "PYTHON", "LC_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "TORCH", "PYTORCH_", "TRITON_", "VLLM_", "FLASHINFER_",
    "OMP_", "KMP_", "MKL_", "GOMP_", "MALLOC_", "ROCM_", "ROCR_", "HIP_", "HSA_", "AMD_", "TPU_", "XLA_", "NEURON_",
)  # fmt: skip
_RESTARTS = 3  # of a child that is lost repeatedly without an answer in between


@dataclass(frozen=True)
class VllmSettings:
    """Set what the child needs to load a model; sizes in GB, `threads` counts CPU threads (0 on a GPU).

    `adapters` are folders of LoRA adapters by their names in calls (`ModelId.adapter`).
    """

    path: Path
    max_model_len: int
    kv_cache_gb: float
    threads: int
    concurrency: int
    gpu_memory_utilization: float = 0.9
    start_timeout_s: float = 900.0
    sleep_level: int = 0  # of vLLM's sleep mode; 0: the child is ended instead
    adapters: Mapping[str, str] = field(default_factory=dict)
    lora_rank: int = 0  # the largest of the adapters'
    lora_modules: tuple[str, ...] = ()  # the adapted modules, by the last part of their names
    rewards: bool = False  # a reward model or classifier, which writes no text
    step_tokens: int = 0  # tokens that a step computes at most on a CPU; 0: vLLM's own limit
    cores_file: str = ""  # the file whose lock engines on the same cores pass on; empty: they compute at once


class VllmEngine:
    """Serve one model by vLLM in a child process."""

    def __init__(
        self, name: str, settings: VllmSettings, *, memory_gb: float, log_file: Path, asleep_gb: float = 0.0
    ) -> None:
        self.name = name
        self.concurrency = settings.concurrency
        self.ahead = (BATCHES - 1) * self.concurrency
        self.memory_gb = memory_gb
        self.asleep_gb = asleep_gb if settings.sleep_level else 0.0
        self.stats = EngineStats()
        self.settings = settings
        self._log_file = log_file
        self._child: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._pending: dict[int, asyncio.Future[Completion | Fault | None]] = {}
        self._next = 0
        self._restarts = 0
        self._asleep = False
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start the child and wait until its model is loaded, or wake it.

        Raises:
            EngineUnavailable: with the reason and where the engine's log is.
        """
        async with self._starting:
            if self._writer is not None and self._asleep:
                await self._wake()
            if self._writer is None:
                self._restarts = 0
                await self._launch()

    async def sleep(self) -> None:
        """Free the memory and keep the child; a child that cannot is ended, now and every time after."""
        async with self._starting:
            begun = time.monotonic()
            refused = await self._order({"do": "sleep", "level": self.settings.sleep_level})
            if refused is None:
                self._asleep = True
                self._log(f"asleep at level {self.settings.sleep_level} after {time.monotonic() - begun:.1f} s")
            else:
                await self._sleep_no_more(f"it could not sleep ({refused.message})")

    async def _wake(self) -> None:
        begun = time.monotonic()
        self._asleep = False
        refused = await self._order({"do": "wake", "level": self.settings.sleep_level})
        if refused is not None:
            await self._sleep_no_more(f"it did not wake as it was ({refused.message})")
            return
        self.stats.wakes += 1
        self.stats.woken_in = time.monotonic() - begun
        self._log(f"awake after {self.stats.woken_in:.1f} s")

    async def _sleep_no_more(self, why: str) -> None:
        note = f"the engine of `{self.name}` is ended from now on where it would sleep: {why}"
        self.stats.notes.append(note)
        self._log(note)
        self.asleep_gb = 0.0
        await self.unload()

    async def _order(self, order: dict[str, Any]) -> Fault | None:
        """Give the child an order; return the fault when it did not follow it."""
        try:
            async with asyncio.timeout(self.settings.start_timeout_s):
                done = await self._ask(order) if self._writer is not None else Fault("died", "its process is gone")
        except TimeoutError:
            return Fault("timeout", f"nothing happened in {self.settings.start_timeout_s:g} s")
        return done if isinstance(done, Fault) else None

    def _log(self, line: str) -> None:
        with open_plain(self._log_file, "a") as log:
            log.write(f"[gra] {line}\n")

    async def _launch(self) -> None:
        self._asleep = False
        await self._kill()  # a crash may have left some of the last child's processes
        begun = time.monotonic()
        make_folder(self._log_file.parent)
        ours, theirs = socket.socketpair()
        with open_plain(self._log_file, "ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gra.engines.vllm.worker", str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[theirs.fileno()], env=child_environment(self.settings), start_new_session=True,
            )  # fmt: skip
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=_MAX_LINE)
        settings = asdict(self.settings) | {"path": str(self.settings.path)}
        writer.write(json.dumps(settings).encode() + b"\n")
        hello: dict[str, Any] = {"ready": False, "error": "its process ended before the model was loaded"}
        try:
            async with asyncio.timeout(self.settings.start_timeout_s):
                line = await reader.readline()
                hello = json.loads(line) if line.endswith(b"\n") else hello
        except ConnectionError:
            pass  # it died before it read its settings
        except TimeoutError:
            hello["error"] = f"it was not ready after {self.settings.start_timeout_s:g} s"
        except asyncio.CancelledError:
            await self._kill()
            raise
        if not hello["ready"]:
            writer.close()
            await self._kill()
            raise EngineUnavailable(self._why_not(hello["error"]))
        self.stats.starts += 1
        self.stats.started_in = time.monotonic() - begun
        self._writer = writer
        self._reader_task = asyncio.create_task(self._read(reader))

    def _why_not(self, reason: str) -> str:
        return (
            f"vLLM could not load `{self.name}` from {self.settings.path}: {reason}. The engine's log is "
            f"{self._log_file}. Too little memory? Lower `engine.kv_cache_gb` or `engine.max_model_len`"
        )

    async def submit(self, call: Call) -> Completion | Fault:
        """Answer one call; a lost child becomes a fault and is started again."""
        if self._writer is None:
            await self._restart()
        if call.model.adapter and call.model.adapter not in self.settings.adapters:
            return Fault("error", f"`{self.name}` is served without the adapter {call.model.adapter}", permanent=True)
        reply = await self._ask(_request(call))
        assert reply is not None
        return reply

    async def _ask(self, request: dict[str, Any]) -> Completion | Fault | None:
        """Send one line to the child and wait for its answer; None when an order is done."""
        assert self._writer is not None
        self._next += 1
        number = self._next
        answer: asyncio.Future[Completion | Fault | None] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            self._writer.write(json.dumps({"id": number, **request}).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()
            return await answer
        except asyncio.CancelledError:
            if self._writer is not None:
                self._writer.write(json.dumps({"abort": number}).encode() + b"\n")
            raise
        finally:
            self._pending.pop(number, None)

    async def _restart(self) -> None:
        """Start a lost child again, once for all the calls that noticed."""
        async with self._starting:
            if self._writer is not None:
                return
            if self._restarts >= _RESTARTS:
                raise EngineUnavailable(
                    f"the engine of `{self.name}` was lost {self._restarts + 1} times without an answer in between; "
                    f"see {self._log_file}. Run the same command again to go on from what is recorded"
                )
            self._restarts += 1
            await self._launch()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        # A reset or half a line means that the child died. After a line that is too long nothing more can be read.
        with contextlib.suppress(ConnectionError, ValueError):
            while (line := await reader.readline()).endswith(b"\n"):
                self._deliver(json.loads(line))
        self._lose(Fault("died", f"the engine of `{self.name}` died with this call in flight"))

    def _deliver(self, reply: Mapping[str, Any]) -> None:
        waiting = self._pending.get(reply["id"])
        if waiting is None or waiting.done():
            return
        if "fault" in reply:
            waiting.set_result(Fault("error", reply["fault"], permanent=reply["permanent"]))
            return
        if "completion" not in reply:
            waiting.set_result(None)
            return
        completion = Completion(**reply["completion"])
        self._restarts = 0
        self.stats.calls += 1
        self.stats.prompt_tokens += completion.prompt_tokens
        self.stats.completion_tokens += completion.completion_tokens
        self.stats.cached_tokens += completion.cached_tokens
        waiting.set_result(completion)

    def _lose(self, fault: Fault) -> None:
        """Close the channel of a lost child and end every call in flight with a fault."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_result(fault)

    async def unload(self) -> None:
        """End the child; all its memory is free when this returns."""
        self._asleep = False
        if self._reader_task is not None:
            self._reader_task.cancel()
            self._reader_task = None
        self._lose(Fault("busy", f"the engine of `{self.name}` was ended with this call asleep or in flight"))
        await self._kill()

    async def _kill(self) -> None:
        if self._child is None:
            return
        # The child leads its own session, so this ends vLLM's engine core with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        await self._child.wait()
        self._child = None


def _request(call: Call) -> dict[str, Any]:
    request: dict[str, Any] = {
        "messages": [{"role": role, "content": content} for role, content in call.messages],
        "sampling": asdict(call.sampling),
        "adapter": call.model.adapter,
    }
    match call.output:
        case Json(schema):
            request["json"] = dict(schema)
        case Choice(labels):
            request["choice"] = list(labels)
        case Likelihood(answer):
            request["likelihood"] = answer
        case Reward(answer):
            request["reward"] = answer
    return request


def inherited_environment() -> dict[str, str]:
    """Return what a child needs of this process's environment; keys and tokens of services are not passed on."""
    return {
        name: value
        for name, value in os.environ.items()
        if (name in _INHERITED or name.startswith(_INHERITED_PREFIXES)) and not is_secret_name(name)
    }


def child_environment(settings: VllmSettings) -> dict[str, str]:
    """Return the child's environment: offline, quiet, and on a CPU with the right number of unpinned threads.

    vLLM's automatic binding keeps a core free and pins every engine of a machine to the same cores. Several engines
    would then share one core. So threads are counted here and left to the operating system instead.
    """
    environment = inherited_environment() | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if settings.threads:
        environment |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "OMP_NUM_THREADS": str(settings.threads),
            "KMP_BLOCKTIME": "5",
            # The model runs in the engine's own process. That saves one import of vLLM, 10 s of a start on two cores.
            # A third process would only set the threads, which are set above.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        if settings.cores_file:
            environment[CORES_FILE] = settings.cores_file
        openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
        if openmp.is_file() and "libiomp" not in environment.get("LD_PRELOAD", ""):
            environment["LD_PRELOAD"] = ":".join(filter(None, [environment.get("LD_PRELOAD"), str(openmp)]))
    return environment
