"""Test the Ray engine on a local cluster of two nodes: calls spread over replicas, and replicas are lost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from paths import HELPERS

from gra.config.committee import BackendConfig
from gra.core.errors import EngineUnavailable, RecipeError
from gra.engines.broker import Broker, EnginePool
from gra.engines.ray import RayEngine, RaySettings
from gra.engines.types import Answer, Call, Completion, ModelId, SamplingSettings, Text
from gra.engines.vllm.engine import VllmEngine, VllmSettings
from gra.ledger.ledger import Ledger

CALL = Call(ModelId("m", "id", "t"), (("user", "echo"),), Text(), SamplingSettings(0.7, 0.95, 1.0, 64))
CLUSTER = RaySettings(replicas=2, gpus=0, cpus=1)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"replicas": 2}, "`replicas` belongs to a Ray cluster; add `kind: ray`"),
        ({"kind": "ray", "base_url": "http://host/v1"}, "`base_url` belongs to a server"),
        ({"kind": "ray", "address": "ray://head:10001"}, "`address` is the head's own, such as"),
        ({"kind": "ray", "gpus": 2}, "at most 1: a model is not split over several GPUs"),
    ],
)
def test_recipe_with_settings_that_exclude_each_other_is_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BackendConfig(**said)


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    engine = RayEngine("m", VllmSettings(tmp_path, 512, 1.0, 1, 8), CLUSTER, log_file=tmp_path / "engine.log")
    with pytest.raises(EngineUnavailable, match=r"pip install 'gra-synthesis\[ray\]'"):
        asyncio.run(engine.start())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each, as processes of this machine."""
    ray: ModuleType = pytest.importorskip("ray", reason="Ray is an extra of its own (ray)")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", ":".join(filter(None, [str(HELPERS), *sys.path])))
        # The head only leads; a node that is lost must not take the cluster with it.
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes = [made.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=made.address, namespace="gra", log_to_driver=False)
        yield SimpleNamespace(ray=ray, cluster=made, nodes=nodes)
        ray.shutdown()
        made.shutdown()


def stand_in(name: str, settings: VllmSettings, log_file: Path) -> VllmEngine:
    """The real engine and worker around a stand-in for vLLM, made where the replica lives."""
    from gra.engines.vllm import engine as vllm

    python = settings.path / "python"
    vllm.sys = SimpleNamespace(executable=str(python), prefix=sys.prefix)  # type: ignore[attr-defined]
    return VllmEngine(name, settings, memory_gb=0.0, log_file=log_file)


@pytest.fixture
def engine(cluster: Any, tmp_path: Path) -> RayEngine:
    cluster.ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (tmp_path / "mode").write_text("good")
    worker = HELPERS / "vllm_stand_in.py"
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {worker} "$3"\n')
    wrapper.chmod(0o755)
    settings = VllmSettings(tmp_path, 512, 1.0, 1, 8, start_timeout_s=60.0)
    return RayEngine("m", settings, CLUSTER, log_file=tmp_path / "logs" / "engine.log", make=stand_in)


def call(words: str) -> Call:
    return replace(CALL, messages=(("user", words),))


def test_calls_spread_over_the_replicas_and_a_lost_node_costs_its_calls_in_flight(
    cluster: Any, engine: RayEngine, ledger: Ledger
) -> None:
    async def scenario() -> None:
        pool = EnginePool({"m": engine}, 0.0)
        broker = Broker(ledger, pool, backoff_s=0.05)
        try:
            first = await asyncio.gather(*(broker.ask(call(f"echo {n}")) for n in range(20)))
            assert all(isinstance(outcome, Answer) for outcome in first)
            while sum(slot.up for slot in engine._slots) < 2:
                await asyncio.sleep(0.1)
            slow = [asyncio.create_task(engine.submit(call(f"slow {n}"))) for n in range(4)]
            await asyncio.sleep(0.5)
            assert sorted(slot.in_flight for slot in engine._slots) == [2, 2]
            await asyncio.to_thread(cluster.cluster.remove_node, cluster.nodes.pop(), False)
            asked = [asyncio.create_task(broker.ask(call(f"echo again {n}"))) for n in range(20)]
            await asyncio.wait(slow, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(1)
            done = {task for task in slow if task.done()}
            assert [task.result().kind for task in done] == ["died"] * 2
            assert all(isinstance(outcome, Answer) for outcome in await asyncio.gather(*asked))
            # Room again: the lost replica is replaced by now at the latest.
            cluster.nodes.append(cluster.cluster.add_node(num_cpus=1))  # it sets signals: in the main thread only
            async with asyncio.timeout(60):
                while sum(slot.up for slot in engine._slots) < 2:
                    await asyncio.sleep(0.1)
            for task in set(slow) - done:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
        finally:
            await pool.swapper.close()

    asyncio.run(scenario())
    assert engine.stats.starts == 3


def test_a_replica_that_does_not_load_is_one_sentence(engine: RayEngine, tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("bad weights")
    with pytest.raises(EngineUnavailable, match=r"could not load `m` from .*: ValueError: no such tensor"):
        asyncio.run(engine.start())


def test_a_cluster_without_room_is_named(engine: RayEngine) -> None:
    engine._cluster = replace(CLUSTER, gpus=1)
    engine._settings = replace(engine._settings, start_timeout_s=2.0)
    with pytest.raises(EngineUnavailable, match="each takes 1 GPUs and 1 CPUs, and the cluster has 0 GPUs and"):
        asyncio.run(engine.start())


def test_a_cancelled_call_is_given_up_in_the_replica(engine: RayEngine, tmp_path: Path) -> None:
    async def scenario() -> None:
        await engine.start()
        late = asyncio.create_task(engine.submit(call("slow and late")))
        async with asyncio.timeout(30):
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.05)
            late.cancel()
            while not (tmp_path / "aborted").exists():
                await asyncio.sleep(0.05)
        assert isinstance(await engine.submit(call("echo")), Completion)
        await engine.unload()

    asyncio.run(scenario())


def test_a_lost_head_ends_the_run_with_one_sentence(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gra.engines.ray._EVERY_S", 0.1)

    async def scenario() -> None:
        await engine.start()
        late = asyncio.create_task(engine.submit(call("slow and late")))
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.05)
        # Listens no more, as a head that is gone; the replicas do not know of it.
        engine._head = ("127.0.0.1", 1)
        try:
            with pytest.raises(EngineUnavailable, match=r"Ray cluster at 127\.0\.0\.1:1 no longer answers"):
                await late
            with pytest.raises(EngineUnavailable, match="run the same command again"):
                await engine.submit(call("echo"))
        finally:
            await engine.unload()

    asyncio.run(scenario())


def test_replicas_lost_with_the_head_use_up_no_attempts(
    cluster: Any, engine: RayEngine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gra.engines.ray._EVERY_S", 0.3)

    async def scenario() -> None:
        pool = EnginePool({"m": engine}, 0.0)
        broker = Broker(ledger, pool, backoff_s=0.01)
        try:
            assert isinstance(await broker.ask(call("echo")), Answer)
            engine._head = ("127.0.0.1", 1)
            late = asyncio.create_task(broker.ask(call("slow")))
            await asyncio.sleep(0.5)
            for slot in engine._slots:
                cluster.ray.kill(slot.actor)
            with pytest.raises(EngineUnavailable, match=r"head of the Ray cluster at 127\.0\.0\.1:1"):
                await late
        finally:
            await pool.swapper.close()

    asyncio.run(scenario())
    assert ledger.faults() == {}
