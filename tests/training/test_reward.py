"""`method: reward` on a tiny student: the head learns the order of answers, and the folder is a whole reward model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_tiny import PAIRS, load, make_student, row, same, train, weights, write_recipe, write_rows

from gra.core.errors import RecipeError
from gra.core.run_folder import RunFolder
from gra.models.classification import classifier_of, require_reward_head

SHORT = {"max_steps": 8, "learning_rate": 0.02, "per_device_train_batch_size": 3}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def pairs_of(path: Path) -> Path:
    """Pairs whose better answer is a number of the letter a, and the worse one of the letter z."""
    made = []
    for place, (prompt, _) in enumerate(PAIRS):
        good, bad = (row(prompt, letter * (3 + place % 4))["completion"] for letter in "az")
        made.append({"prompt": row(prompt, "x")["prompt"], "chosen": good, "rejected": bad})
    return write_rows(path, made)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return pairs_of(tmp_path / "pairs.jsonl")


@pytest.fixture(scope="module")
def trained(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that was trained for a moment."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder, student, pairs_of(folder / "pairs.jsonl"), method="reward", train=SHORT)
    train(recipe, folder / "model")
    return folder / "model"


def rewards_of(folder: Path, texts: list[tuple[str, str]]) -> list[float]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    assert model.config.num_labels == 1
    found = []
    for prompt, answer in texts:
        item = row(prompt, answer)
        ids = tokenizer.apply_chat_template([*item["prompt"], *item["completion"]], return_dict=True)["input_ids"]
        with torch.no_grad():
            found.append(float(model(torch.tensor([ids])).logits[0, 0]))
    return found


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
def test_reward_model_learns_the_order_and_is_saved_whole(
    tmp_path: Path, student: Path, pairs: Path, lora: dict[str, int] | None
) -> None:
    output = tmp_path / "model"
    rate = 0.02 if lora else 0.003
    recipe = write_recipe(
        tmp_path, student, pairs, method="reward", lora=lora, train={**SHORT, "learning_rate": rate},
        data={"train": [{"path": str(pairs)}], "holdout": {"fraction": 0.3}},
    )  # fmt: skip
    metrics = train(recipe, output)
    assert metrics["loss"] < metrics["loss_first"]
    assert metrics["preferred"]["pairs"] == metrics["rows"]["heldout"]["rows"] == 3
    assert metrics["preferred"]["right"] == 3
    assert metrics["preferred"]["margin"] > 0
    assert metrics["eval_loss"] < 0.6931  # ln 2, of a model without any preference
    assert "stop" not in metrics
    # Whole weights that any engine can load, and no adapter beside them.
    assert not list(output.glob("adapter_*"))
    assert classifier_of(output) == "LlamaForSequenceClassification"
    require_reward_head("model", output)
    assert json.loads((output / "config.json").read_text())["pad_token_id"] == 0
    good, bad = rewards_of(output, [("Say red.", "aaaa"), ("Say red.", "zzzz")])
    assert good > bad
    section = RunFolder(output).manifest()["training"]
    assert (section["method"], section["adapter"]) == ("reward", False)
    card = (output / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "library_name: transformers" in card
    assert "writes no text" in card
    assert "| held-out pairs with the better answer scored higher | 3 of 3 |" in card
    assert RunFolder(output).verify() >= 5
    assert train(recipe, output)["status"] == "already trained"


@pytest.mark.slow
def test_reward_training_resumes_to_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, student: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gra.training.trainers import sft as trainer

    options = {**SHORT, "max_steps": 4, "save_steps": 2}
    recipe = write_recipe(tmp_path, student, pairs, method="reward", train=options)
    assert "preferred" not in train(recipe, tmp_path / "whole")

    class Stop(trainer.SealCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "SealCallback", Stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "halves")
    metrics = train(recipe, tmp_path / "halves")
    assert 0 <= metrics["train_accuracy"] <= 1
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "halves"))


@pytest.mark.parametrize("at_speed", [True, False])
def test_head_of_a_bfloat16_model_is_trained_and_saved_in_float32(
    tmp_path: Path, student: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, at_speed: bool
) -> None:
    import torch

    monkeypatch.setattr("gra.core.hardware.cpu_computes_bfloat16", lambda: at_speed)

    recipe = write_recipe(
        tmp_path, student, pairs, method="reward", model={"dtype": "bfloat16"}, train={**SHORT, "max_steps": 2}
    )
    train(recipe, tmp_path / "model")
    saved = weights(tmp_path / "model")
    assert {name: tensor.dtype for name, tensor in saved.items() if "score" in name} == {"score.weight": torch.float32}
    assert {tensor.dtype for name, tensor in saved.items() if "score" not in name} == {torch.bfloat16}
    assert bool((saved["score.weight"] != saved["score.weight"].bfloat16()).any())  # it took up small updates


def test_reward_model_goes_on_from_a_reward_model_and_writes_no_text(
    tmp_path: Path, trained: Path, pairs: Path
) -> None:
    again = write_recipe(tmp_path, trained, pairs, method="reward", train={**SHORT, "max_steps": 1})
    assert train(again, tmp_path / "second")["loss_first"] < 0.6  # its head is kept
    rows = write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])
    with pytest.raises(RecipeError, match=r"reward model or classifier .* which writes no text; name the model"):
        train(write_recipe(tmp_path, trained, rows), tmp_path / "third", dry_run=True)


def test_evaluation_refuses_a_reward_model(student: Path, trained: Path) -> None:
    from gra.evaluation.model import ModelUnderTest

    for path, adapter in ((trained, None), (student, trained)):
        with pytest.raises(RecipeError, match="`gra evaluate` is for models that answer"):
            ModelUnderTest("mine", path, adapter, None, "identity").check()


def test_dry_run_counts_pairs_and_plans_a_model_without_vocabulary(tmp_path: Path, student: Path, pairs: Path) -> None:
    plan = train(write_recipe(tmp_path, student, pairs, method="reward", train=SHORT), tmp_path / "a", dry_run=True)
    assert plan["rows"]["train"]["rows"] == len(PAIRS)
    assert plan["rows"]["train"]["loss_tokens"] == 2 * len(PAIRS)
    assert "rather than" in plan["row"]
    whole = train(
        write_recipe(tmp_path, student, pairs, method="reward", lora=None, train=SHORT), tmp_path / "b", dry_run=True
    )
    dpo = train(
        write_recipe(tmp_path, student, pairs, method="preference", lora=None, train=SHORT),
        tmp_path / "c",
        dry_run=True,
    )
    assert whole["memory"]["trained"] == whole["memory"]["parameters"] == dpo["memory"]["parameters"] + 48  # the head
    assert 48 < plan["memory"]["trained"] < whole["memory"]["trained"]
    assert "reference" not in whole["memory"]["parts_gb"]


def test_long_pairs_are_dropped_and_counted(tmp_path: Path, student: Path) -> None:
    from gra.training.data.dataset import read_pairs
    from gra.training.data.tokenize import student_tokenizer
    from gra.training.methods import METHODS

    items = [row("a", "b"), row("a", "b" * 200)]
    rejected = row("a", "d")["completion"]
    path = write_rows(
        tmp_path / "pairs.jsonl",
        [{"prompt": item["prompt"], "chosen": item["completion"], "rejected": rejected} for item in items],
    )
    tokenizer = student_tokenizer(student, load(write_recipe(tmp_path, student, path)))
    encoded = METHODS["reward"].encode(tokenizer, read_pairs(path), 60)
    assert encoded.counts() | {"tokens": 0} == {
        "rows": 1, "tokens": 0, "loss_tokens": 2, "truncated": 0, "dropped": 1, "set_aside": 0
    }  # fmt: skip
    shown = METHODS["reward"].show(tokenizer, encoded)
    assert shown.count("<eos>") >= 2
    assert encoded.counts()["tokens"] == sum(map(len, encoded.columns["chosen_ids"] + encoded.columns["rejected_ids"]))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora": None, "model": {"adapter": "somewhere"}}, "merge it into its model"),
        ({"model": {"quantization": "nf4", "dtype": "bfloat16"}}, "saves whole weights"),
        ({"train": {"center_rewards_coefficient": -1.0}}, "must be at least 0"),
        ({"train": {"beta": 0.1}}, r"is not an option of trl\.RewardConfig"),
    ],
)
def test_reward_recipe_refuses_what_cannot_work(
    tmp_path: Path, student: Path, pairs: Path, changes: dict[str, Any], sentence: str
) -> None:
    from gra.training.options.trl_config import load_train_recipe

    path = write_recipe(tmp_path, student, pairs, method="reward", **changes)
    with pytest.raises(RecipeError, match=sentence):
        load_train_recipe(path)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("reward", "an experiment evaluates students that answer"),
        ("preference", "trains each student on an arm's rows"),
    ],
)
def test_experiment_refuses_a_student_that_cannot_learn_to_answer_from_rows(
    tmp_path: Path, student: Path, pairs: Path, method: str, sentence: str
) -> None:
    from gra.config.training import require_answers

    path = write_recipe(tmp_path, student, pairs, method=method)
    with pytest.raises(RecipeError, match=sentence):
        require_answers(load(path).recipe, path)
