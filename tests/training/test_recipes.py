"""The shipped recipes, launch files and commands: each is dry-run, on a machine without GPUs, weights or hub."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT
from training_tiny import load, make_student, row

from gra.training.launch import Launch, launch_from_environment, launch_from_file

KINDS = ("sft", "preference", "distill", "fusion")
RECIPES = sorted(path for kind in KINDS for path in (ROOT / "recipes").rglob(f"{kind}/*.yaml"))
LAUNCHES = sorted((ROOT / "recipes/accelerate").glob("*.yaml"))
NAMES = [
    # A quantized recipe of 7B and more takes seconds, and differs from its LoRA twin in the weights' format alone.
    pytest.param(name, marks=pytest.mark.slow) if "qlora" in name and "smollm2" not in name else name
    for name in (str(path.relative_to(ROOT)) for path in RECIPES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a student where documented commands look for them."""
    folder = tmp_path_factory.mktemp("work")
    rows = [row(f"Question {number}?", f"Answer {number}.") for number in range(40)]
    pairs = [
        {"prompt": item["prompt"], "chosen": item["completion"], "rejected": [{"role": "assistant", "content": "No."}]}
        for item in rows
    ]
    for run in ("NAME", "demo", "gra", "quickstart-gra", "teacher"):
        dataset = folder / "runs" / run / "dataset"
        dataset.mkdir(parents=True)
        _parquet(dataset / "train.parquet", rows)
        _parquet(dataset / "preferences.parquet", pairs)
    for name in ("smollm2-135m-lora", "qwen2.5-7b-full"):
        make_student(folder / "runs" / name / "model")
    _make_adapter(folder / "runs" / "smollm2-135m-lora" / "model")
    resolved = (ROOT / "recipes/smollm2-135m/sft/config_lora.yaml").read_text(encoding="utf-8")
    (folder / "runs/smollm2-135m-lora/model/recipe.resolved.yaml").write_text(resolved, encoding="utf-8")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def _make_adapter(folder: Path) -> None:
    """Write an adapter of zeros for the model of the recipe, whose weights are not needed for that."""
    import torch
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors.torch import save_file

    from gra.models.configuration import find_configuration
    from gra.training.adapters import with_adapter
    from gra.training.model_fit import empty_model

    config = LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRA_OFFLINE", "1")
        model = with_adapter(empty_model(find_configuration("HuggingFaceTB/SmolLM2-135M").config), config)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: torch.zeros(tensor.shape) for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    config.save_pretrained(folder)


@pytest.fixture(autouse=True)
def _alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, and the folder of the commands."""
    monkeypatch.setenv("GRA_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(folder)


PLANS: dict[tuple[str, ...], dict[str, Any]] = {}  # the dry runs already made in `folder`, by their words


def dry_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `train.py --dry-run` says of a documented command."""
    from gra.cli.train import main

    if tuple(words) not in PLANS:
        main([*words, "--dry-run", "--json"])
        PLANS[tuple(words)] = dict(json.loads(capsys.readouterr().out))
    return copy.deepcopy(PLANS[tuple(words)])


def launcher_options(words: list[str]) -> Any:
    """What accelerate's own parser reads in the words behind `accelerate launch`."""
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser().parse_args(words)


def planned(command: str) -> list[str]:
    """train.py's words for a dry run of a documented command on the machines that it is meant for."""
    words = shlex.split(command, comments=True)
    if words[:2] == ["gra", "train"]:
        return ["--config", *words[2:]]
    script = next((at for at, word in enumerate(words) if word.startswith("recipes/cluster/")), None)
    if script is not None:
        shape = ["--launch", "recipes/accelerate/zero2.yaml", "--num-processes", "16", "--num-machines", "2"]
        return [*words[script + 1 :], *shape]
    at = words.index("train.py")
    if words[0] != "accelerate":
        return words[at + 1 :]
    launcher = launcher_options(words[2:])
    shape = ["--launch", launcher.config_file] if launcher.config_file else []
    for flag, value in (("processes", launcher.num_processes), ("machines", launcher.num_machines)):
        shape += [f"--num-{flag}", str(value)] if value else []
    return [*words[at + 1 :], *shape]


# --- recipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_dry_run_with_its_own_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / name).read_text()
    (command,) = re.findall(r"^# (accelerate launch .*)$", text, flags=re.M)
    assert f"train.py --config {name} " in command
    plan = dry_run(planned(command), capsys)
    assert plan["rows"]["train"]["rows"] > 0
    assert plan["steps"] > 0
    assert plan["memory"]["gb_per_process"] > plan["memory"]["parts_gb"].get("weights", 0)
    assert not any("memory" in unknown for unknown in plan["unknown"])
    if "qlora" not in name:
        assert plan["warnings"] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_header_names_a_gpu_that_the_run_fits(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / name).read_text()
    (command,) = re.findall(r"^# (accelerate launch .*)$", text, flags=re.M)
    said = re.search(r"(\d+) GB", " ".join(line[2:] for line in text.splitlines() if line.startswith("#")))
    if said is None:
        pytest.skip("made for a CPU")
    plan = dry_run(planned(command), capsys)
    assert plan["memory"]["gb_per_process"] <= int(said[1])


def test_all_students_of_the_papers_size_and_of_ours_are_there() -> None:
    variants = {(path.parts[-3], path.stem) for path in RECIPES if path.parts[-2] == "sft"}
    papers = {(s, f"config_{v}") for s in ("qwen2.5-7b", "llama-3.1-8b") for v in ("full", "lora", "qlora")}
    small = {"qwen2.5-0.5b", "qwen2.5-1.5b", "smollm2-135m", "smollm2-360m", "gemma-3-270m"}
    assert papers | {(s, f"config_{v}") for s in small for v in ("full", "lora")} <= variants


@pytest.mark.parametrize("folder_", ["qwen2.5-7b", "llama-3.1-8b"])
def test_the_papers_recipes_have_the_papers_constants(folder_: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Gao et al. 2025, appendix: batch 256, 5e-6, cosine, 3 % warm-up, 4096 tokens, one epoch, bfloat16, ZeRO-2."""
    for variant in ("full", "lora", "qlora"):
        path = ROOT / "recipes" / folder_ / "sft" / f"config_{variant}.yaml"
        recipe = load(path).recipe
        options = recipe.train
        assert (options["lr_scheduler_type"], options["warmup_steps"], options["max_length"]) == ("cosine", 0.03, 4096)
        assert (options["num_train_epochs"], options["bf16"]) == (1, True)
        assert recipe.adapts == (variant != "full")
        (command,) = re.findall(r"^# (accelerate launch .*)$", path.read_text(), flags=re.M)
        assert dry_run(planned(command), capsys)["batch"] == 256
        if variant == "full":
            assert "zero2.yaml" in command
            assert options["learning_rate"] == 5e-6


# --- launch files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_accelerate_and_the_planner_read_every_launch_file(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    launch = launch_from_file(path)
    assert config.num_processes == launch.processes == yaml.safe_load(path.read_text())["num_processes"]
    assert launch.strategy == path.stem
    assert f"recipes/accelerate/{path.name} train.py" in path.read_text()
    assert launch_from_file(path, 16, 2) == Launch(launch.strategy, 16, 2)


def test_environment_of_a_launch_describes_it() -> None:
    zero3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    several = {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
    assert launch_from_environment({}, cpu=True) == Launch("cpu")
    assert launch_from_environment({}, cpu=False) == Launch("single")
    assert launch_from_environment(several, cpu=False) == Launch("ddp", 16, 2)
    assert launch_from_environment(several | zero3, cpu=False) == Launch("zero3", 16, 2)
    assert launch_from_environment({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "8"}, cpu=False) == Launch("fsdp2", 8)
    again = Launch("zero2", 16, 2).command("--config", "a b.yaml")
    assert again == (
        "accelerate launch --config_file recipes/accelerate/zero2.yaml --num_processes 16 --num_machines 2 "
        "train.py --config 'a b.yaml'"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("name: x", "not a launch file"),
        ("distributed_type: TPU", "`distributed_type: TPU` is not supported"),
        ("{distributed_type: DEEPSPEED, deepspeed_config: {zero_stage: 1}}", "`deepspeed_config.zero_stage: 1`"),
    ],
)
def test_a_wrong_launch_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    from gra.core.errors import RecipeError

    (tmp_path / "launch.yaml").write_text(text)
    with pytest.raises(RecipeError, match=re.escape(message)):
        launch_from_file(tmp_path / "launch.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        launch_from_file(tmp_path / "gone.yaml")


# --- several machines --------------------------------------------------------------------------------

_STAND_INS = {
    "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
    "scontrol": "printf 'node1\\nnode2\\n'",
    "ssh": 'shift 2; cd "$HOME" && bash -c "$1"',
    # One write each: two machines append to the same file at the same time.
    "accelerate": 'python3 -c "import json, os, sys; os.write(1, (json.dumps(sys.argv[1:]) + chr(10)).encode())"'
    ' "$@" >> "$CALLS"',
}


@pytest.mark.parametrize("script", ["slurm", "ssh"])
def test_a_cluster_script_starts_one_launcher_a_machine(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, body in _STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = ROOT / "recipes" / "cluster" / f"{script}.sh"
    (documented,) = re.findall(r"^# (?:sbatch|HOSTS)(.*)$", path.read_text(), flags=re.M)
    words = shlex.split(documented.partition(f"{script}.sh")[2])
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "HOSTS": "node1 node2",
        "ACTIVATE": "true",
    }
    subprocess.run([str(path), *words], env=environment, check=True, timeout=60)
    calls = sorted((json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()), key=str)
    assert len(calls) == 2
    for call in calls:
        known = launcher_options(call[1:])
        assert (known.num_machines, known.num_processes, known.main_process_ip) == (2, 16, "node1")
        assert known.deepspeed_multinode_launcher == "standard"
        assert (known.training_script, known.training_script_args) == ("train.py", words)
    ranks = {launcher_options(call[1:]).machine_rank for call in calls}
    assert ranks == {0, 1}
    shape = ["--launch", "recipes/accelerate/zero2.yaml", "--num-processes", "16", "--num-machines", "2"]
    plan = dry_run([*words, *shape], capsys)
    assert plan["launch"] == {"strategy": "zero2", "processes": 16, "machines": 2}
    assert plan["batch"] == 256


# --- commands in the documentation -------------------------------------------------------------------


_TRAINS = r"(?:accelerate launch|gra train|python train\.py|sbatch(?=.*slurm\.sh)|HOSTS=)"


def documented() -> Iterator[tuple[str, str]]:
    """(file, command) of every training command in the documentation."""
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        found = re.findall(rf"^ {{4,}}({_TRAINS}.*)$", text, flags=re.M)
        found += re.findall(rf"`({_TRAINS} [^`]*\.yaml[^`]*)`", text)
        yield from ((path.name, re.sub(r"\s+", " ", command)) for command in found if "…" not in command)


def complete(words: list[str]) -> list[str]:
    """The words of a command with data; it may leave out the data where it speaks of something else."""
    if not any(word.startswith("data.train=") for word in words):
        words = [*words, "data.train=[{path: runs/NAME/dataset/train.parquet}]"]
    return [word for word in words if word != "--dry-run"]


@pytest.mark.parametrize(("file", "command"), sorted(set(documented())))
def test_every_training_command_of_the_documentation_works(
    file: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = planned(command)
    if "--show-config" in words:
        from gra.cli.train import main

        main(words)
        assert "train:" in capsys.readouterr().out
        return
    assert dry_run(complete(words), capsys)["steps"] > 0


def test_the_documentation_has_commands_to_test() -> None:
    assert len(set(documented())) >= 8
