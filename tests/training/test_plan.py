"""Steps, memory and the dry run: arithmetic that needs no weights and no GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from training_tiny import PAIRS, load, make_student, row, write_recipe, write_rows

from gra.core.errors import Mismatch, RecipeError
from gra.training.launch import Launch
from gra.training.memory import Shape, estimate
from gra.training.options.steps import effective_batch, packed_rows, steps


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRA_OFFLINE", "1")


# --- steps -------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(1, 3), st.booleans())
def test_steps_are_what_the_trainers_loop_takes(
    rows: int, batch: int, accumulation: int, processes: int, epochs: int, drop: bool
) -> None:
    options = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": epochs,
        "dataloader_drop_last": drop,
    }
    taken = 0
    for _ in range(epochs):
        left, waiting = rows, 0
        while left >= batch * processes or (left > 0 and not drop):
            left -= batch * processes
            waiting += 1
            if waiting == accumulation:
                taken, waiting = taken + 1, 0
        taken += waiting > 0
    assert steps(options, rows, processes) == taken
    assert steps({**options, "max_steps": 7}, rows, processes) == 7
    assert effective_batch(options, processes) == batch * accumulation * processes


@pytest.mark.parametrize("changes", [{}, {"max_steps": -1, "num_train_epochs": 2}, {"max_steps": -1, "packing": True}])
def test_a_dry_run_counts_the_steps_that_the_run_takes(
    tmp_path: Path, student: Path, data: Path, changes: dict[str, Any]
) -> None:
    from gra.training.run import train

    recipe = load(write_recipe(tmp_path, student, data, train={"gradient_accumulation_steps": 2, **changes}))
    plan = train(recipe, tmp_path / "model", dry_run=True)
    assert train(recipe, tmp_path / "model")["steps"] == plan["steps"]


def test_packing_leaves_as_few_rows_as_fit() -> None:
    assert packed_rows([5, 5, 5, 5], {"max_length": 10}) == 2
    assert packed_rows([6, 6, 4, 4], {"max_length": 10}) == 2
    assert packed_rows([9, 9, 9], {"max_length": 10}) == 3


# --- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("google/gemma-3-270m", 268_098_176),
    ],
)
def test_the_published_shapes_have_the_published_parameters(name: str, parameters: int) -> None:
    from gra.models.configuration import find_configuration
    from gra.training.memory import shape_of

    known = find_configuration(name, accept_licenses=["gemma"])
    assert known.folder is None
    assert shape_of(known.config).total == parameters


def test_every_model_of_the_table_that_the_catalog_knows_has_the_catalogs_size() -> None:
    from gra.models.configuration import _shapes, find_configuration
    from gra.models.entries import find_entry
    from gra.training.memory import shape_of

    compared = 0
    for name in _shapes():
        entry = find_entry(name)
        if entry is not None and entry.parameters is not None:
            assert shape_of(find_configuration(name, accept_licenses=["gemma"]).config).total == entry.parameters
            compared += 1
    assert compared >= 8


SEVEN = Shape(
    total=7_000_000_000, trained=7_000_000_000, layers=32, layer=200_000_000, hidden=4096, intermediate=14336,
    queries=4096, keys=1024, heads=32, vocabulary=128_000, tied=False,
)  # fmt: skip


def memory(launch: Launch, shape: Shape = SEVEN, **changes: Any) -> dict[str, Any]:
    recipe = load(ROOT / "recipes/qwen2.5-7b/sft/config_full.yaml").recipe
    options = {"bf16": True, "gradient_checkpointing": True, "per_device_train_batch_size": 1, **changes}
    return estimate(recipe, options, shape, launch, longest=2048, cpu=False)


def test_mixed_precision_takes_eighteen_bytes_a_parameter() -> None:
    parts = memory(Launch("single"))["parts_gb"]
    state = sum(parts[name] for name in ("weights", "gradients", "optimiser", "buffers"))
    assert state == pytest.approx(18 * 7, rel=0.01)
    assert memory(Launch("single"))["machine_gb_to_load"] == pytest.approx(28, rel=0.01)


def test_sharding_divides_what_it_shards() -> None:
    one, eight = memory(Launch("zero2", 1))["parts_gb"], memory(Launch("zero2", 8))["parts_gb"]
    assert eight["weights"] == one["weights"] == pytest.approx(14)
    assert eight["optimiser"] == pytest.approx(one["optimiser"] / 8, rel=0.01)
    assert eight["gradients"] == pytest.approx(one["gradients"] / 8, rel=0.01)
    three = memory(Launch("zero3", 8))["parts_gb"]
    assert three["weights"] == pytest.approx(14 / 8, rel=0.01)
    order = [memory(Launch(strategy, 8))["gb_per_process"] for strategy in ("ddp", "zero2", "zero3")]
    assert order == sorted(order, reverse=True)
    assert memory(Launch("zero2", 8, offload=True))["parts_gb"].get("optimiser", 0) == 0


@given(st.sampled_from(["single", "ddp", "zero2", "zero3", "fsdp2"]), st.integers(1, 64), st.integers(1, 4))
def test_more_processes_never_need_more_and_longer_batches_never_less(strategy: Any, processes: int, rows: int) -> None:
    few = memory(Launch(strategy, max(2, processes)), per_device_train_batch_size=rows)
    many = memory(Launch(strategy, 2 * max(2, processes)), per_device_train_batch_size=rows)
    longer = memory(Launch(strategy, max(2, processes)), per_device_train_batch_size=rows + 1)
    assert many["gb_per_process"] <= few["gb_per_process"] < longer["gb_per_process"]


def test_what_saves_memory_is_seen_to_save_it() -> None:
    full = memory(Launch("single"))["gb_per_process"]
    assert memory(Launch("single"), gradient_checkpointing=False)["gb_per_process"] > full
    assert memory(Launch("single"), optim="adafactor")["gb_per_process"] < full - 40
    recipe = load(ROOT / "recipes/qwen2.5-7b/sft/config_lora.yaml").recipe
    adapted = dataclasses.replace(SEVEN, trained=160_000_000)
    options = {"per_device_train_batch_size": 1}
    lora = estimate(recipe, options, adapted, Launch("single"), longest=2048, cpu=False)
    recipe = load(ROOT / "recipes/qwen2.5-7b/sft/config_qlora.yaml").recipe
    qlora = estimate(recipe, options, adapted, Launch("single"), longest=2048, cpu=False)
    assert full > lora["gb_per_process"] > qlora["gb_per_process"]
    assert lora["gb_per_process"] - qlora["gb_per_process"] == pytest.approx(6.4 * 1.484 * 1.04, rel=0.02)


# --- the dry run -------------------------------------------------------------------------------------


def test_a_dry_run_plans_for_other_machines(tmp_path: Path, student: Path, data: Path) -> None:
    from gra.training.run import train

    recipe = load(write_recipe(tmp_path, student, data, lora=None, train={"max_steps": -1, "num_train_epochs": 1}))
    plan = train(recipe, tmp_path / "model", dry_run=True, launch=Launch("zero2", 8))
    assert (plan["batch"], plan["steps"]) == (32, 1)
    assert plan["memory"]["trained"] == plan["memory"]["parameters"]
    assert plan["row"].endswith("<eos>⟧")
    assert plan["unknown"] == []
    assert not (tmp_path / "model").exists()


def test_what_cannot_be_known_is_said(tmp_path: Path, data: Path) -> None:
    from gra.training.run import train

    plan = train(load(write_recipe(tmp_path, "nobody/knows-this", data)), tmp_path / "model", dry_run=True)
    assert plan["rows"]["train"] == {"rows": 9}
    assert plan["steps"] == 4
    assert "memory" not in plan
    assert [text.split(":")[0] for text in plan["unknown"]] == [
        "tokens, truncation, the template and a decoded row",
        "memory",
    ]


def test_four_bits_without_a_gpu_is_a_warning_in_a_dry_run_and_an_error_in_a_run(
    tmp_path: Path, student: Path, data: Path
) -> None:
    from gra.training.quantization import quantization_problem
    from gra.training.run import train

    changes = {"model": {"quantization": "nf4", "dtype": "bfloat16"}}
    recipe = load(write_recipe(tmp_path, student, data, **changes))
    assert "needs a CUDA GPU" in train(recipe, tmp_path / "model", dry_run=True)["warnings"][0]
    with pytest.raises(RecipeError, match="needs a CUDA GPU"):
        train(recipe, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert "cannot be sharded by zero3" in (quantization_problem(Launch("zero3", 8), cpu=False) or "")


def test_a_recipe_that_pins_its_inputs_refuses_others(tmp_path: Path, student: Path, data: Path) -> None:
    from gra.training.plan import make_plan

    other = write_recipe(tmp_path, student, data, data={"train": [{"path": str(data), "sha256": "0" * 64}]})
    with pytest.raises(Mismatch, match="is not the file that the recipe pins"):
        make_plan(load(other))
    with pytest.raises(Mismatch, match="the recipe asks for sha256:other"):
        make_plan(load(write_recipe(tmp_path, student, data, model={"identity": "sha256:other"})))


# --- arms --------------------------------------------------------------------------------------------


def test_arms_that_differ_in_steps_are_warned_of(tmp_path: Path) -> None:
    from gra.experiment import load_experiment

    (tmp_path / "experiment.yaml").write_text(
        "name: x\narms: {vanilla: recipes/smoke/vanilla.yaml, gra: recipes/smoke/gra.yaml}\n"
        "student: recipes/smollm2-360m/sft/config_lora.yaml\nsuite: eval/suites/smoke.yaml\nbaseline: vanilla\n"
        "train: {per_device_train_batch_size: 1, gradient_accumulation_steps: 1, num_train_epochs: 1}\n"
    )
    described = load_experiment(tmp_path / "experiment.yaml", [], tmp_path).describe()
    assert "optimizer steps of vanilla: 8 for at most 8 rows" in described
    assert "! the arms differ in optimizer steps (vanilla 8, gra 2)" in described
    equal = load_experiment(tmp_path / "experiment.yaml", ["train.max_steps=5"], tmp_path).describe()
    assert "optimizer steps of gra: 5 for at most 2 rows" in equal
    assert "!" not in equal


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_experiments_train_every_arm_equally_long(path: Path, tmp_path: Path) -> None:
    from gra.experiment import load_experiment

    plan = load_experiment(path, [], tmp_path)
    assert len(plan.students()) == len(plan.recipe.arms) * len(plan.recipe.training_seeds)
    assert "!" not in plan.describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [("training_seeds=[1, 2, 1]", "has a seed twice"), ("train.seed=3", "write `training_seeds")],
)
def test_training_seeds_are_different_students(change: str, message: str, tmp_path: Path) -> None:
    from gra.experiment import load_experiment

    with pytest.raises(RecipeError, match=message):
        load_experiment(ROOT / "recipes/quickstart.yaml", [change], tmp_path)


def test_a_wrong_student_is_found_before_anything_is_spent(tmp_path: Path) -> None:
    from gra.experiment import load_experiment

    plan = load_experiment(ROOT / "recipes/smoke.yaml", ["train.max_stepz=5"], tmp_path)
    with pytest.raises(RecipeError, match="did you mean `max_steps`"):
        plan.describe()


# --- the table of docs/scale-training.md -------------------------------------------------------------


def scale_table() -> str:
    """Memory and steps of the paper's 7B recipes on 1, 8 and 16 GPUs, as Markdown."""
    from gra.training.dry_run import arithmetic

    rows = [
        "| recipe | launch | GPUs | rows a step | steps | GB a GPU | smallest GPU | GB to load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    cases = [
        ("full", "single", 1, 1), ("lora", "single", 1, 1), ("qlora", "single", 1, 1), ("full", "zero2", 8, 1),
        ("full", "zero3", 8, 1), ("full", "fsdp2", 8, 1), ("lora", "ddp", 8, 1), ("qlora", "ddp", 8, 1),
        ("full", "zero2", 16, 2), ("full", "zero3", 16, 2), ("full", "fsdp2", 16, 2),
    ]  # fmt: skip
    for variant, strategy, processes, machines in cases:
        path = ROOT / "recipes" / "qwen2.5-7b" / "sft" / f"config_{variant}.yaml"
        each = load(path).recipe.train["per_device_train_batch_size"]
        loaded = load(path, f"train.gradient_accumulation_steps={256 // processes // each}")
        seen = arithmetic(loaded, Launch(strategy, processes, machines), 50_000)  # type: ignore[arg-type]
        rows.append(
            f"| `config_{variant}` | `{strategy}` | {processes} | {seen['batch']} | {seen['steps']} | "
            f"{seen['gb_per_process']:.0f} | {seen['smallest_gpu']} | {seen['machine_gb_to_load']:.0f} |"
        )
    return "\n".join(rows)


def test_the_table_of_the_documentation_is_what_the_planner_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    from gra.training import dry_run

    shapes: dict[str, Shape] = {}  # three students in eleven rows
    real = dry_run.shape_of

    def shape_once(config: Any, lora: Any, *, scores: bool) -> Shape:
        key = f"{config} {lora}"
        if key not in shapes:
            shapes[key] = real(config, lora, scores=scores)
        return shapes[key]

    monkeypatch.setattr(dry_run, "shape_of", shape_once)
    assert scale_table() in (ROOT / "docs" / "scale-training.md").read_text(encoding="utf-8")
