"""Preference and distillation on a tiny student: they learn what they are for, and resume exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_tiny import (
    PAIRS,
    load,
    logged,
    make_student,
    other_vocabulary,
    row,
    same,
    train,
    weights,
    write_recipe,
    write_rows,
)

from gra.core.errors import RecipeError
from gra.core.run_folder import RunFolder

SHORT = {"max_steps": 6, "learning_rate": 0.003, "per_device_train_batch_size": 3}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [row(*pair) for pair in PAIRS]
    return write_rows(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": a["prompt"], "chosen": a["completion"], "rejected": b["completion"]}
            for a, b in zip(rows, rows[1:] + rows[:1], strict=True)
        ],
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])


def test_preference_from_an_adapter_learns_the_order_of_answers(
    tmp_path: Path, student: Path, rows: Path, pairs: Path
) -> None:
    train(write_recipe(tmp_path, student, rows), tmp_path / "sft")
    before = weights(tmp_path / "sft")
    recipe = write_recipe(
        tmp_path, student, pairs, method="preference", lora=None, train={**SHORT, "beta": 0.5},
        model={"adapter": str(tmp_path / "sft")}, data={"train": [{"path": str(pairs)}], "holdout": {"fraction": 0.2}},
        stop_rate={"prompts": 2, "max_new_tokens": 8},
    )  # fmt: skip
    output = tmp_path / "dpo"
    metrics = train(recipe, output)
    assert metrics["loss_first"] == pytest.approx(0.6931, abs=1e-3)  # ln 2: the student is its own reference
    assert metrics["loss"] < metrics["loss_first"]
    assert logged(output, "rewards/margins")[-1] > 0
    assert "eval_loss" in metrics
    assert metrics["stop"]["prompts"] == 2
    after = weights(output)
    assert before.keys() == after.keys()  # one adapter on the base model, ready for evaluation
    assert any(bool((before[key] != after[key]).any()) for key in before)
    assert not (output / "ref").exists()
    section = RunFolder(output).manifest()["training"]
    assert (section["method"], section["adapter"], section["adapter_from"]) == (
        "preference",
        True,
        str(tmp_path / "sft"),
    )
    assert "pairs of a better and a worse answer" in (output / "README.md").read_text()
    assert train(recipe, output)["status"] == "already trained"


@pytest.mark.slow
def test_preference_resumes_to_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, student: Path, rows: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gra.training.trainers import sft as trainer

    train(write_recipe(tmp_path, student, rows), tmp_path / "sft")
    recipe = write_recipe(
        tmp_path, student, pairs, method="preference", lora=None, train={**SHORT, "save_steps": 2},
        model={"adapter": str(tmp_path / "sft")},
    )  # fmt: skip
    train(recipe, tmp_path / "whole")

    class Stop(trainer.SealCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "SealCallback", Stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "halves")
    train(recipe, tmp_path / "halves")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "halves"))


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "new adapter"])
def test_preference_from_whole_weights(tmp_path: Path, student: Path, pairs: Path, lora: Any) -> None:
    options = {**SHORT, "max_steps": 24, "learning_rate": 0.02 if lora else 0.002, "beta": 0.5}
    recipe = write_recipe(tmp_path, student, pairs, method="preference", lora=lora, train=options)
    metrics = train(recipe, tmp_path / "model")
    assert metrics["loss_first"] == pytest.approx(0.6931, abs=1e-3)
    assert metrics["loss"] < metrics["loss_first"]


def test_pairs_are_cut_dropped_and_counted(tmp_path: Path, student: Path) -> None:
    from gra.training.data.dataset import read_pairs
    from gra.training.data.tokenize import student_tokenizer
    from gra.training.methods import METHODS

    long = [{"role": "assistant", "content": "b" * 200}]
    items = [row("a", "b"), row("a", "c"), row("a" * 300, "c")]
    made = [{"prompt": item["prompt"], "chosen": item["completion"], "rejected": long} for item in items]
    made[0]["rejected"] = [{"role": "assistant", "content": "d"}]
    path = write_rows(tmp_path / "pairs.jsonl", made)
    tokenizer = student_tokenizer(student, load(write_recipe(tmp_path, student, path)))
    encoded = METHODS["preference"].encode(tokenizer, read_pairs(path), 60)
    counts = encoded.counts()
    assert (counts["rows"], counts["truncated"], counts["dropped"]) == (2, 2, 1)
    assert max(encoded.lengths()) == 60
    assert METHODS["preference"].show(tokenizer, encoded).endswith("⟦b<eos>⟧ rather than ⟦d<eos>⟧")


def test_an_adapter_that_is_none_is_named(tmp_path: Path, student: Path, pairs: Path) -> None:
    recipe = write_recipe(
        tmp_path, student, pairs, method="preference", lora=None, model={"adapter": str(student)}
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"holds no adapter_config\.json"):
        train(recipe, tmp_path / "model", dry_run=True)


def distilling(tmp_path: Path, student: Path, rows: Path, teacher: Path, **changes: Any) -> Path:
    options = {**SHORT, "max_completion_length": 12, **changes}
    return write_recipe(
        tmp_path, student, rows, method="distill", lora=None, train=options,
        teacher={"name": str(teacher), "dtype": "float32"},
    )  # fmt: skip


def test_distillation_brings_the_student_to_its_teacher(tmp_path: Path, student: Path, rows: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    teacher = tmp_path / "teacher"
    train(write_recipe(tmp_path, student, rows, lora=None, train={"max_steps": 20, "learning_rate": 0.02}), teacher)
    output = tmp_path / "model"
    metrics = train(distilling(tmp_path, student, rows, teacher, max_steps=6, learning_rate=0.01), output)
    assert metrics["loss"] < metrics["loss_first"]
    assert metrics["tokens"] > 0
    ids = torch.tensor([[1, 50, 60, 70]])

    def next_tokens(folder: Path) -> Any:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            return model(ids).logits.log_softmax(-1)

    target = next_tokens(teacher)
    far, near = ((next_tokens(folder) - target).abs().mean() for folder in (student, output))
    assert near < far
    section = RunFolder(output).manifest()["training"]
    assert section["teacher"]["name"] == str(teacher)
    assert section["inputs"]["teacher.identity"] == section["teacher"]["identity"]
    assert f"The teacher is `{teacher}`" in (output / "README.md").read_text()


def test_a_teacher_with_another_vocabulary_is_refused(tmp_path: Path, student: Path, rows: Path) -> None:
    recipe = distilling(tmp_path, student, rows, other_vocabulary(tmp_path / "teacher"))
    with pytest.raises(RecipeError, match=r"tokens differently.*teacher\.vocabulary: other"):
        train(recipe, tmp_path / "model")


def test_a_teacher_padded_to_another_size_is_taken(tmp_path: Path, student: Path, rows: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teacher = AutoModelForCausalLM.from_pretrained(student)
    teacher.resize_token_embeddings(320)
    teacher.save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(student).save_pretrained(tmp_path / "teacher")
    assert train(distilling(tmp_path, student, rows, tmp_path / "teacher"), tmp_path / "model")["steps"] == 6


def test_gold_learns_from_another_vocabulary(tmp_path: Path, student: Path, rows: Path) -> None:
    recipe = write_recipe(
        tmp_path, student, rows, method="distill", lora=None,
        train={**SHORT, "max_completion_length": 12, "max_length": 96, "lmbda": 0.5},
        teacher={"name": str(other_vocabulary(tmp_path / "teacher")), "dtype": "float32", "vocabulary": "other"},
    )  # fmt: skip
    metrics = train(recipe, tmp_path / "model")
    assert metrics["steps"] == 6
    assert RunFolder(tmp_path / "model").verify() >= 5


def test_table_of_methods_names_what_there_is() -> None:
    from importlib import import_module
    from typing import get_args

    import trl

    from gra.config.training import TrainRecipe
    from gra.training.methods import METHODS

    assert tuple(METHODS) == get_args(TrainRecipe.model_fields["method"].annotation)
    for spec in METHODS.values():
        assert callable(import_module(spec.trainer_module).make_trainer)
        assert hasattr(trl, spec.config)
