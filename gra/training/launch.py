"""Read how a run is distributed over processes, from a launch file (recipes/accelerate/) or from the launcher.

`accelerate launch` describes itself to its processes in environment variables. A dry run on a machine without GPUs
reads the launch file.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from gra.config.plain_yaml import plain_yaml
from gra.core.errors import RecipeError
from gra.core.files import read_regular

Strategy = Literal["single", "cpu", "ddp", "zero2", "zero3", "fsdp2"]
FOLDER = "recipes/accelerate"


@dataclass(frozen=True)
class Launch:
    """The strategy (the name of a shipped launch file), and the numbers of processes and machines."""

    strategy: Strategy
    processes: int = 1
    machines: int = 1
    offload: bool = False  # the optimizer's state is in the machine's memory

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed owns precision and sharding."""
        return self.strategy in ("zero2", "zero3")

    @property
    def shards_weights(self) -> bool:
        """Whether the model is sharded, so that no process holds all of it."""
        return self.strategy in ("zero3", "fsdp2")

    def describe(self) -> dict[str, Any]:
        """Return strategy, processes and machines for the plan and the manifest."""
        return {"strategy": self.strategy, "processes": self.processes, "machines": self.machines}

    def command(self, *arguments: str) -> str:
        """Return the shell command that launches `train.py` in this way."""
        counts = ["--num_processes", str(self.processes)] if self.processes > 1 else []
        counts += ["--num_machines", str(self.machines)] if self.machines > 1 else []
        words = ["accelerate", "launch", "--config_file", f"{FOLDER}/{self.strategy}.yaml", *counts, "train.py"]
        return shlex.join([*words, *arguments])


def launch_from_file(path: Path, processes: int | None = None, machines: int | None = None) -> Launch:
    """Read a launch file.

    Args:
        path: The file.
        processes: The launcher's flag that overrides the file, if given.
        machines: As `processes`.

    Raises:
        RecipeError: When the file is not there or is no launch file of a kind that is supported.
    """
    try:
        content = plain_yaml(read_regular(path))
    except OSError as error:
        raise RecipeError(f"the launch file cannot be read ({error.strerror})", path) from None
    except (ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"the launch file is not valid YAML ({error})", path) from None
    if not isinstance(content, dict) or "distributed_type" not in content:
        raise RecipeError(f"this is not a launch file of accelerate; see {FOLDER}/", path)
    plugin = content.get("deepspeed_config") or {}
    launch = Launch(
        _strategy(path, str(content["distributed_type"]), plugin, bool(content.get("use_cpu"))),
        int(content.get("num_processes", 1)),
        int(content.get("num_machines", 1)),
        plugin.get("offload_optimizer_device", "none") != "none",
    )
    return replace(launch, processes=processes or launch.processes, machines=machines or launch.machines)


def launch_from_environment(environment: Mapping[str, str] = os.environ, *, cpu: bool) -> Launch:
    """Return how this process was launched.

    Args:
        environment: Of the process.
        cpu: Whether it trains on the CPU.
    """
    processes = int(environment.get("WORLD_SIZE", 1))
    local = int(environment.get("LOCAL_WORLD_SIZE", processes))
    strategy: Strategy = "ddp" if processes > 1 else "cpu" if cpu else "single"
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        strategy = "zero3" if environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else "zero2"
    elif environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        strategy = "fsdp2"
    offload = environment.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none")
    return Launch(strategy, processes, max(1, processes // local), strategy.startswith("zero") and offload != "none")


def command_after(launch: Launch, config: Path, output: Path, more: Sequence[str] = ()) -> str:
    """Return the command that trains `config` in the same way into `output`."""
    return launch.command("--config", str(config), "--output", str(output), *more)


def _strategy(path: Path, kind: str, plugin: Mapping[str, Any], cpu: bool) -> Strategy:
    if kind == "DEEPSPEED":
        stage = plugin.get("zero_stage")
        if stage == 2:
            return "zero2"
        if stage == 3:
            return "zero3"
        raise RecipeError(f"`deepspeed_config.zero_stage: {stage}` is not supported; write 2 or 3", path)
    if kind == "NO":
        return "cpu" if cpu else "single"
    known: dict[str, Strategy] = {"MULTI_GPU": "ddp", "MULTI_CPU": "ddp", "FSDP": "fsdp2"}
    if kind not in known:
        raise RecipeError(f"`distributed_type: {kind}` is not supported; see {FOLDER}/", path)
    return known[kind]
