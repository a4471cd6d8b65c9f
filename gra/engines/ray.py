"""Run replicas of the vLLM engine on the nodes of a Ray cluster.

Each replica is an actor with a vLLM engine of its own, on any node that has room for it. A call goes to the replica
with the fewest calls in flight. The calls in flight of a lost replica become faults, which the broker sends again. The
other replicas continue, and another one is started as soon as the cluster has room. A lost head ends the run with one
sentence. The weights must be at the same path on every node, and this package must be installed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gra.core.errors import EngineUnavailable
from gra.engines.types import BATCHES, Call, Completion, Engine, EngineStats, Fault, calls_at_once
from gra.engines.vllm.engine import VllmEngine, VllmSettings

# The replicas that may be lost in a row without an answer from any.
_LOSSES = 5
# The head is gone after this number of failed connections in a row. The times are their interval and their limit.
# Together they take less than a minute, after which Ray would end the process without an error of this program.
_MISSED = 5
_EVERY_S, _PATIENCE_S = 4.0, 4.0


@dataclass(frozen=True)
class RaySettings:
    """Name the cluster, the number of replicas, and what each takes of it."""

    replicas: int
    gpus: float
    cpus: float
    address: str | None = None  # None: the cluster that this machine belongs to


def vllm_replica(name: str, settings: VllmSettings, log_file: Path) -> Engine:
    """Return the engine of one replica, on the node where the replica runs."""
    if not settings.path.is_dir():
        raise EngineUnavailable(
            f"the node {socket.gethostname()} has no weights of `{name}` at {settings.path}; put the model cache "
            "(GRA_CACHE, HF_HOME) on a folder that all nodes see"
        )
    return VllmEngine(name, settings, memory_gb=0.0, log_file=log_file)


class _Replica:
    """Run one engine on some node, as a Ray actor."""

    def __init__(self, make: Callable[..., Engine], name: str, settings: VllmSettings, log_file: Path) -> None:
        self._make, self._arguments = make, (name, settings, log_file)

    async def start(self) -> None:
        self._engine = self._make(*self._arguments)
        await self._engine.start()

    async def submit(self, call: Call) -> Completion | Fault:
        return await self._engine.submit(call)

    async def unload(self) -> None:
        await self._engine.unload()


@dataclass
class _Slot:
    """Hold the place of one replica, and the actor that fills it now."""

    number: int
    actor: Any = None
    up: bool = False
    in_flight: int = 0
    filling: asyncio.Task[None] | None = field(default=None, repr=False)


class RayEngine:
    """Serve one model by replicas on a Ray cluster."""

    def __init__(
        self, name: str, settings: VllmSettings, cluster: RaySettings, *, log_file: Path,
        make: Callable[..., Engine] = vllm_replica,
    ) -> None:  # fmt: skip
        self.name = name
        self.concurrency = settings.concurrency * cluster.replicas
        self.ahead = (BATCHES - 1) * self.concurrency
        self.memory_gb = 0.0  # the cluster's memory is not this machine's
        self.stats = EngineStats()
        self._settings, self._cluster, self._log_file, self._make = settings, cluster, log_file, make
        self._slots: list[_Slot] = []
        self._changed = asyncio.Event()
        self._failure: EngineUnavailable | None = None
        self._lost = 0
        self._starting = asyncio.Lock()
        self._head = ("", 0)  # host and port
        self._head_monitor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the replicas; it is ready when the first one is.

        Raises:
            EngineUnavailable: when there is no Ray, no cluster, or no replica comes up.
        """
        async with self._starting:
            if self._slots:
                return
            begun = time.monotonic()
            self._head = _connect(self._cluster.address)
            self._failure, self._lost = None, 0
            self._head_monitor = asyncio.create_task(self._monitor_head())
            self._slots = [_Slot(number) for number in range(self._cluster.replicas)]
            for slot in self._slots:
                self._fill(slot)
            try:
                await self._free_slot()
            except BaseException:
                await self.unload()
                raise
            self.stats.started_in = time.monotonic() - begun

    async def submit(self, call: Call) -> Completion | Fault:
        """Answer one call; a lost replica becomes a fault, and another is started in its place."""
        from ray.exceptions import RayActorError

        if not self._slots:
            await self.start()
        slot = await self._free_slot()
        slot.in_flight += 1
        asked, actor = None, slot.actor
        try:
            asked = actor.submit.remote(call)
            reply = await self._reply(asked)
        except RayActorError as error:
            self._replace_replica(slot, actor)
            await (
                self._with_head()
            )  # without it all are lost, and sending the call to another would use up its attempts
            why = str(error).partition("\n")[0]
            return Fault("died", f"a replica of `{self.name}` was lost with this call in flight: {why}")
        except asyncio.CancelledError:
            if asked is not None:
                _cancel(asked)
            raise
        finally:
            slot.in_flight -= 1
            self._changed.set()
        if isinstance(reply, Completion):
            self._lost = 0
            self.stats.calls += 1
            self.stats.prompt_tokens += reply.prompt_tokens
            self.stats.completion_tokens += reply.completion_tokens
            self.stats.cached_tokens += reply.cached_tokens
        return reply

    async def _reply(self, asked: Any) -> Completion | Fault:
        """Return what a replica answers, or raise the failure when the cluster is gone."""
        assert self._head_monitor is not None
        reply: asyncio.Future[Completion | Fault] = asyncio.ensure_future(asked)
        either: set[asyncio.Future[Any]] = {reply, self._head_monitor}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not reply.done() and self._failure is not None:
                raise self._failure
            return await reply
        finally:
            reply.cancel()

    async def _monitor_head(self) -> None:
        """Wait until the head of the cluster is gone, and store that as the failure."""
        missed = 0
        while missed < _MISSED:
            await asyncio.sleep(_EVERY_S)
            missed = 0 if await _answers(*self._head) else missed + 1
        host, port = self._head
        self._failure = EngineUnavailable(
            f"the head of the Ray cluster at {host}:{port} no longer answers; what was recorded is safe: start the "
            "cluster (`ray start --head`) and run the same command again to go on"
        )
        self._changed.set()

    async def _with_head(self) -> None:
        """Wait until the head answers.

        Raises:
            EngineUnavailable: when it is gone.
        """
        while not await _answers(*self._head):
            if self._failure is not None:
                raise self._failure
            await asyncio.sleep(_EVERY_S / 4)

    async def _free_slot(self) -> _Slot:
        """Return the replica with the fewest calls; while others still start, none gets more than its share."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.start_timeout_s):
                while (best := self._best_slot()) is None or (
                    best.in_flight >= BATCHES * self._settings.concurrency and not all(slot.up for slot in self._slots)
                ):
                    if self._failure is not None:
                        raise self._failure
                    self._changed.clear()
                    await self._changed.wait()
        if (best := self._best_slot()) is not None:
            return best
        raise EngineUnavailable(
            f"no replica of `{self.name}` came up in {self._settings.start_timeout_s:g} s; each takes "
            f"{self._cluster.gpus:g} GPUs and {self._cluster.cpus:g} CPUs, and the cluster has {_resources()}"
        )

    def _best_slot(self) -> _Slot | None:
        return min((slot for slot in self._slots if slot.up), key=lambda slot: slot.in_flight, default=None)

    def _replace_replica(self, slot: _Slot, actor: Any) -> None:
        """Replace a lost replica, once for all the calls that noticed."""
        if slot.actor is not actor or slot not in self._slots:
            return
        slot.up, slot.actor = False, None
        self._lost += 1
        if self._lost > _LOSSES:
            self._failure = EngineUnavailable(
                f"{self._lost} replicas of `{self.name}` were lost without an answer in between; see "
                f"{self._log_file.parent} on the nodes. Run the same command again to go on from what is recorded"
            )
            self._changed.set()
            return
        self._fill(slot)

    def _fill(self, slot: _Slot) -> None:
        slot.filling = asyncio.create_task(self._start_replica(slot))

    async def _start_replica(self, slot: _Slot) -> None:
        import ray

        try:
            await self._with_head()  # without it Ray would block the whole event loop
        except EngineUnavailable:
            return
        log = self._log_file.with_stem(f"{self._log_file.stem}-{slot.number}")
        options = {"num_gpus": self._cluster.gpus, "num_cpus": self._cluster.cpus, "max_restarts": 0}
        actor = ray.remote(_Replica).options(max_concurrency=calls_at_once(self) + 8, **options).remote(
            self._make, self.name, self._settings, log
        )  # fmt: skip
        slot.actor = actor
        try:
            await actor.start.remote()  # waits as long as the cluster has no room for it
            slot.up = True
            self.stats.starts += 1
        except ray.exceptions.RayActorError:
            self._replace_replica(slot, actor)
        except EngineUnavailable as error:  # the engine's own reason
            self._failure = EngineUnavailable(str(error.args[0] if error.args else error))
        self._changed.set()

    async def unload(self) -> None:
        """End every replica; the cluster has its resources back when this returns."""
        import ray

        slots, self._slots = self._slots, []
        gone = self._head_monitor is not None and self._head_monitor.done()
        if self._head_monitor is not None:
            self._head_monitor.cancel()
        for slot in slots:
            if slot.filling is not None and not slot.filling.done():
                slot.filling.cancel()
            if slot.actor is None:
                continue
            with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                if slot.up and not gone:
                    async with asyncio.timeout(30):
                        await slot.actor.unload.remote()
            ray.kill(slot.actor)
        await asyncio.gather(*(slot.filling for slot in slots if slot.filling), return_exceptions=True)


def _connect(address: str | None) -> tuple[str, int]:
    """Join the cluster, unless this process already has; return host and port of its head."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise EngineUnavailable(
            "`engine.kind: ray` needs the package ray, which is not installed; `pip install 'gra-synthesis[ray]'` here "
            "and on every node"
        ) from None
    try:
        if not ray.is_initialized():
            ray.init(address=address or "auto", namespace="gra", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "that this machine belongs to"
        raise EngineUnavailable(
            f"there is no Ray cluster {where} ({str(error).splitlines()[0]}); start one with `ray start --head`, join "
            "the other nodes with `ray start --address=HEAD:6379`, or set `engine.address`"
        ) from error
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


async def _answers(host: str, port: int) -> bool:
    """Return whether a process listens at an address."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _resources() -> str:
    import ray

    found = ray.cluster_resources()
    return f"{found.get('GPU', 0):g} GPUs and {found.get('CPU', 0):g} CPUs"


def _cancel(asked: Any) -> None:
    """Make the replica drop a call whose waiters were all canceled."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        ray.cancel(asked)
