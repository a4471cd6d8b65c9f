"""Curation of a dataset by checkpoints of a student: figures, files, resuming, and what cannot be curated.

Most tests give the probabilities. The slow ones train a tiny student.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from training_tiny import make_student, row, train, write_recipe, write_rows

from gra.core.errors import DataError, GraError, Mismatch, ModelUnavailable, NoRows, RecipeError
from gra.core.hashing import file_digest
from gra.core.run_folder import RunFolder
from gra.data.export import TRAIN_SCHEMA
from gra.runs.verify import verify
from gra.stats.dynamics import LearningDynamics, learning_dynamics, uncertainty_threshold
from gra.training.checkpoints import seal
from gra.training.curation import curate as module
from gra.training.curation.curate import curate
from gra.training.curation.effects import distinct, word_pairs
from gra.training.curation.students import read_student

WORDS = ["red", "blue", "green", "one", "two", "three", "north", "south", "east", "west", "four", "five"]
SEEDS = [(f"Is {word} a word?", "yes") for word in WORDS]
# Answers of the seeds' kind, and four that have nothing to do with them.
ROWS = [(f"Is {word} one, too?", "yes") for word in WORDS[:8]] + [(f"Is {i} one?", "#@%&" * 3) for i in range(4)]


def make_run(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    run = RunFolder(folder).create()
    (folder / "dataset").mkdir(exist_ok=True)
    rows = [
        row(*pair) | {"id": f"r1-{i:06}", "domain": "qa" if i < 8 else "math", "score": 8.0, "round": 1}
        for i, pair in enumerate(pairs)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=TRAIN_SCHEMA), folder / "dataset" / "train.parquet")
    run.record("synthesis", {"states": {"accepted": len(rows)}}, [folder / "dataset" / "train.parquet"])
    return folder


def ids(path: Path) -> list[str]:
    return list(pq.read_table(path)["id"].to_pylist())


def fake_student(folder: Path, *, steps: tuple[int, ...] = (2, 4, 6, 8, 10, 12, 14, 16), **changes: Any) -> Path:
    """Write what training leaves behind, with checkpoints that hold no weights."""
    seeds = write_rows(folder.with_name("seeds.jsonl"), [row(*pair) for pair in SEEDS])
    base = folder.with_name("base")
    base.mkdir(exist_ok=True)
    section: dict[str, Any] = {
        "method": "sft",
        "model": {"name": "tiny", "identity": "sha256:tiny", "path": str(base)},
        "template": "template",
        "metrics": {"steps": 16},
        "inputs": {"model.dtype": "float32", "data.holdout.fraction": 0.5, "data.holdout.seed": 0},
        "data": [{"path": str(seeds), "weight": 1.0, "sha256": file_digest(seeds)}],
    }
    run = RunFolder(folder).create()
    for step in steps:
        checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "adapter_model.safetensors").write_bytes(b"weights")
        seal(checkpoint, {}, 1.0)
    run.record("training", section | changes)
    return folder


def given(probabilities: list[list[float]], trusted: list[float]) -> Any:
    """Return what stands in for the checkpoints' answers: probabilities by checkpoint and row."""
    table = np.array(probabilities)

    async def score(*_: Any) -> Any:
        lengths = np.where(np.isnan(table[-1]), math.nan, np.arange(1.0, table.shape[1] + 1))
        return module._Scored(learning_dynamics(table), table, table[-1], lengths, np.array(trusted))

    return score


# Twelve rows: eight that are learned, two that stay unlikely, one that is learned late, and one without an answer.
EARLY = [0.3] * 8 + [0.01, 0.01, 0.01, math.nan]
LATE = [0.9] * 8 + [0.01, 0.02, 0.6, math.nan]


@pytest.fixture
def curated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    run, student = make_run(tmp_path / "run", ROWS), fake_student(tmp_path / "student")
    monkeypatch.setattr(module, "_score", given([EARLY, LATE], [0.5, 0.7, 0.2, 0.6]))
    return tmp_path / "curated", curate(run, [student], tmp_path / "curated", quantile=0.0)


def test_rows_that_stay_unlikely_are_dropped_and_those_learned_late_are_kept(
    curated: tuple[Path, dict[str, Any]],
) -> None:
    out, facts = curated
    assert ids(out / "dropped.parquet") == ["r1-000008", "r1-000009"]
    assert (facts["rows"], facts["kept"], facts["dropped"], facts["unscored"]) == (12, 10, 2, 1)
    assert facts["confidence"] == 0.2
    assert facts["domains"] == {"math": [4, 2], "qa": [8, 0]}
    assert facts["effects"]["same_as_last"] == 1.0


def test_every_row_is_kept_or_stands_beside_the_dataset_with_its_figures(curated: tuple[Path, dict[str, Any]]) -> None:
    out, facts = curated
    kept, dropped = ids(out / "dataset" / "train.parquet"), ids(out / "dropped.parquet")
    assert sorted(kept + dropped) == [f"r1-{i:06}" for i in range(12)]
    assert pq.read_schema(out / "dataset" / "train.parquet") == TRAIN_SCHEMA
    drawn = ids(out / "dataset" / "random.parquet")
    assert len(set(drawn)) == len(kept)
    for fate in pq.read_table(out / "dropped.parquet").to_pylist():
        assert fate["confidence"] <= facts["confidence"]
        assert fate["uncertainty"] <= facts["uncertainty"]
        assert fate["completion"][0]["content"]
    figures = pq.read_table(out / "figures.parquet").to_pylist()
    assert [len(each["probabilities"]) for each in figures] == [2] * 12
    assert figures[11]["confidence"] is None
    assert sum(each["kept"] for each in figures) == 10
    json.loads(json.dumps(facts, allow_nan=False))
    assert verify(out).files >= 5


def test_run_itself_stays_as_it_is(curated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    assert verify(tmp_path / "run").files == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["dataset", "manifest.json"]


def test_dataset_of_which_no_row_is_left_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_score", given([[0.1] * 12, [0.1] * 12], [0.9]))
    with pytest.raises(NoRows, match=r"all 12 rows of .* would be discarded"):
        curate(make_run(tmp_path / "run", ROWS), [fake_student(tmp_path / "student")], tmp_path / "out")


def test_student_is_read_with_its_heldout_seeds_and_its_checkpoints_in_order(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ROWS)
    student = read_student(fake_student(tmp_path / "student"), run / "dataset" / "train.parquet")
    assert [step for step, _ in student.checkpoints] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert len(student.heldout) == 6


def broken(folder: Path, change: str, dataset: Path) -> Path:
    """Write a student with one fault."""
    match change:
        case "none":
            return fake_student(folder, steps=())
        case "few":
            return fake_student(folder, steps=(4, 8, 16))
        case "late":
            return fake_student(folder, steps=(6, 8, 10, 12, 14, 16))
        case "preference":
            return fake_student(folder, method="preference")
        case "seen":
            return fake_student(folder, inputs={"model.dtype": "float32", "data.holdout.fraction": 0.0})
        case "itself":
            data = [{"path": str(dataset), "weight": 1.0, "sha256": file_digest(dataset)}]
            return fake_student(folder, data=data)
        case "weights":
            return fake_student(folder, model={"name": "tiny", "identity": "", "path": str(folder / "gone")})
    student = fake_student(folder)
    if change == "cut":
        for step in (2, 4, 6):
            (student / "checkpoints" / f"checkpoint-{step}" / "adapter_model.safetensors").write_bytes(b"")
    else:
        write_rows(folder.with_name("seeds.jsonl"), [row("Other?", "yes")])
    return student


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ("none", RecipeError, "has no checkpoints, and curation needs at least 6"),
        ("few", RecipeError, "has 3 whole checkpoints"),
        ("cut", RecipeError, "has 5 whole checkpoints"),
        ("late", RecipeError, "first checkpoint at step 6 of 16"),
        ("seen", RecipeError, "learned from all of its seeds"),
        ("itself", RecipeError, "was trained on .* itself"),
        ("changed", Mismatch, "is not the file that .* was trained on"),
        ("preference", RecipeError, "needs `method: sft`"),
        ("weights", ModelUnavailable, "is gone; get tiny again"),
    ],
)
def test_student_that_cannot_judge_is_one_sentence_before_anything_is_written(
    tmp_path: Path, change: str, error: type[GraError], sentence: str
) -> None:
    run = make_run(tmp_path / "run", ROWS)
    student = broken(tmp_path / "student", change, run / "dataset" / "train.parquet")
    with pytest.raises(error, match=sentence):
        curate(run, [student], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_curated_are_one_sentence(tmp_path: Path) -> None:
    run, student = make_run(tmp_path / "run", ROWS), fake_student(tmp_path / "student")
    with pytest.raises(DataError, match="holds no finished training"):
        curate(run, [run], tmp_path / "out")
    with pytest.raises(DataError, match="does not exist; give the folder of a student"):
        curate(run, [tmp_path / "gone"], tmp_path / "out")
    with pytest.raises(DataError, match="holds no finished dataset"):
        curate(student, [student], tmp_path / "out")
    with pytest.raises(RecipeError, match="give the curated version a folder beside it"):
        curate(run, [student], run / "curated")
    with pytest.raises(RecipeError, match="holds what `training` wrote"):
        curate(run, [student], student)
    with pytest.raises(RecipeError, match="at least one student"):
        curate(run, [], tmp_path / "out")
    (run / "dataset" / "train.parquet").write_bytes(b"other")
    with pytest.raises(DataError, match="is not the file that its manifest knows"):
        curate(run, [student], tmp_path / "out")


def test_distinct_counts_word_pairs_once() -> None:
    assert distinct([word_pairs("A b, a b"), word_pairs("a")]) == pytest.approx(2 / 3)
    assert distinct([]) == 0.0


def test_effects_compare_equal_numbers_of_rows() -> None:
    """Kept rows that repeat each other are less diverse than as many rows drawn at random."""
    texts = ["the same old words"] * 4 + [f"word{i} other{i} third{i}" for i in range(4)]
    p = np.full((2, 8), 0.5)
    found = module.measure_effects(
        texts, learning_dynamics(p), p[-1], np.arange(8.0), np.array([False] * 4 + [True] * 4)
    )
    drawn, kept = found.diversity
    assert kept == 0.25
    assert drawn > kept
    assert found.lengths == [[0, 1, 2, 0], [2, 3, 2, 0], [4, 5, 2, 2], [6, 7, 2, 2]]
    assert found.length_bias is None
    assert isinstance(learning_dynamics(p), LearningDynamics)


# --- a real student -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["lora", "full"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with twelve rows, a student of the seeds with eight checkpoints, and the curated version."""
    folder = tmp_path_factory.mktemp(request.param)
    student = make_student(folder / "base")
    seeds = write_rows(folder / "seeds.jsonl", [row(*pair) for pair in SEEDS])
    adapted = request.param == "lora"
    recipe = write_recipe(
        folder,
        student,
        seeds,
        lora={"r": 16, "alpha": 128} if adapted else None,
        train={"max_steps": 16, "learning_rate": 0.05 if adapted else 0.02, "save_steps": 2, "save_total_limit": None},
        data={"train": [{"path": str(seeds)}], "holdout": {"fraction": 0.5}},
        stop_rate={"prompts": 0},
    )
    train(recipe, folder / "student")
    make_run(folder / "run", ROWS)
    curate(folder / "run", [folder / "student"], folder / "curated", quantile=0.1)
    return folder


@pytest.mark.slow
def test_student_drops_the_answers_that_have_nothing_to_do_with_its_seeds(world: Path) -> None:
    assert ids(world / "curated" / "dropped.parquet") == [f"r1-{i:06}" for i in range(8, 12)]
    figures = pq.read_table(world / "curated" / "figures.parquet").to_pylist()
    found = learning_dynamics(np.array([each["probabilities"] for each in figures]).T)
    assert [each["confidence"] for each in figures] == pytest.approx(found.confidence)
    facts = RunFolder(world / "curated").manifest()["curation"]
    assert facts["uncertainty"] == pytest.approx(uncertainty_threshold(found.uncertainty))
    assert facts["trusted"] == 6
    assert verify(world / "curated").answers == 8 * (12 + 6)


@pytest.mark.slow
def test_probability_is_that_of_the_trained_model(world: Path) -> None:
    """The last checkpoint is the student, so its mean loss over answer and stop token is known."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "student")
    if (world / "student" / "adapter_config.json").is_file():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "base"), world / "student")
    else:
        model = AutoModelForCausalLM.from_pretrained(world / "student")
    item = row(*ROWS[0])
    asked = tokenizer.apply_chat_template(item["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(item["prompt"] + item["completion"], return_dict=True)["input_ids"]
    labels = torch.tensor([[-100] * len(asked) + whole[len(asked) :]])
    with torch.no_grad():
        loss = float(model.eval()(input_ids=torch.tensor([whole]), labels=labels).loss)
    first = pq.read_table(world / "curated" / "figures.parquet").to_pylist()[0]
    assert first["answer_tokens"] == len(whole) - len(asked)
    assert first["probabilities"][-1] == pytest.approx(math.exp(-loss), rel=1e-3)


@pytest.mark.slow
def test_second_curation_loads_no_checkpoint_and_writes_the_same(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: Any) -> None:
        raise AssertionError("a checkpoint was loaded")

    before = (world / "curated" / "dataset" / "train.parquet").read_bytes()
    monkeypatch.setattr("gra.training.curation.checkpoint_engine.CheckpointEngine._load", loaded)
    curate(world / "run", [world / "student"], world / "curated", quantile=0.1)
    assert (world / "curated" / "dataset" / "train.parquet").read_bytes() == before


@pytest.mark.slow
def test_row_that_the_template_cannot_write_is_kept_and_counted(world: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [*ROWS[:3], ("Say stop.", "st<eos>op")])
    facts = curate(run, [world / "student", world / "student"], tmp_path / "out")
    assert facts["unscored"] == 1
    assert facts["trusted"] == 12
    assert "r1-000003" in ids(tmp_path / "out" / "dataset" / "train.parquet")
    shutil.rmtree(tmp_path / "out")
