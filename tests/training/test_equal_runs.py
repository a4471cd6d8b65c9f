"""Runs that must give the same student: the same seed, a resumed run, other batches, packed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_tiny import PAIRS, load, logged, make_student, row, same, train, weights, write_recipe, write_rows


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])


def made(tmp_path: Path, student: Path, rows: Path, /, *overrides: str, **changes: Any) -> Any:
    """A trainer that has not begun."""
    from gra.training.options.trl_config import build_arguments
    from gra.training.plan import load_student, make_plan
    from gra.training.trainers.sft import make_trainer

    plan = make_plan(load(write_recipe(tmp_path, student, rows, **changes), *overrides))
    return make_trainer(plan, load_student(plan), build_arguments(plan.loaded, tmp_path / "c"), [])


def test_resuming_gives_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, student: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gra.training.trainers import sft as trainer

    recipe = write_recipe(tmp_path, student, data, train={"max_steps": 12, "save_steps": 4})
    whole = train(recipe, tmp_path / "whole")

    class Stop(trainer.SealCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 10:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "SealCallback", Stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "halves")
    assert not (tmp_path / "halves" / "manifest.json").exists()
    # A checkpoint that was cut off while it was written is the newest, and must not be used.
    broken = tmp_path / "halves" / "checkpoints" / "checkpoint-10"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_step": 10, "max_steps": 12, "log_history": []}')
    resumed = train(recipe, tmp_path / "halves")
    assert not broken.exists()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "halves"))
    assert (resumed["steps"], resumed["loss"], resumed["tokens"]) == (12, whole["loss"], whole["tokens"])


@pytest.mark.slow
def test_a_seed_decides_the_weights(tmp_path: Path, student: Path, data: Path) -> None:
    recipe = write_recipe(tmp_path, student, data)
    for output, seed in (("one", 1), ("again", 1), ("two", 2)):
        train(recipe, tmp_path / output, f"train.seed={seed}")
    assert same(weights(tmp_path / "one"), weights(tmp_path / "again"))
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
def test_a_batch_may_be_taken_in_parts(tmp_path: Path, student: Path, data: Path, lora: Any) -> None:
    """Four rows at once, two by two, one by one; lengths differ, so a mean of means is wrong."""
    runs = []
    for rows in (4, 2, 1):
        options = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 4 // rows, "max_steps": 6}
        recipe = write_recipe(tmp_path, student, data, lora=lora, train={**options, "learning_rate": 0.001})
        train(recipe, tmp_path / f"rows{rows}")
        runs.append((logged(tmp_path / f"rows{rows}", "loss"), weights(tmp_path / f"rows{rows}")))
    (losses, whole), *others = runs
    assert len(losses) == 6
    for other_losses, other in others:
        assert other_losses == pytest.approx(losses, rel=1e-5)
        assert all(bool((whole[key] - other[key]).abs().max() < 1e-4) for key in whole)


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
def test_packed_rows_do_not_see_each_other(tmp_path: Path, student: Path, data: Path, lora: Any) -> None:
    held: dict[str, Any] = {"train": [{"path": str(data)}], "holdout": {"fraction": 0.5}}
    losses = {}
    for packing in (False, True):
        options = {"packing": packing, "max_length": 512}
        trainer = made(tmp_path, student, data, lora=lora, data=held, train=options)
        assert len(trainer.eval_dataset) == (1 if packing else 4)
        losses[packing] = trainer.evaluate()["eval_loss"]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cheap_loss_is_trls_loss(
    tmp_path: Path, student: Path, data: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from trl import SFTTrainer

    from gra.training.trainers import frozen_head_loss as head_loss
    from gra.training.trainers.sft import _plain_frozen_head

    monkeypatch.setattr(head_loss, "_VOCAB_CHUNK", 100)  # a vocabulary of three chunks
    trainer = made(tmp_path, student, data, f"model.dtype={dtype}")
    assert _plain_frozen_head(trainer, trainer.model)
    for name, weight in trainer.model.named_parameters():  # B starts at zero, and then A has no gradient
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    batch = next(iter(trainer.get_train_dataloader()))
    results = []
    for compute in (trainer.compute_loss, super(type(trainer), trainer).compute_loss):
        trainer.model.zero_grad()
        loss = compute(trainer.model, dict(batch), num_items_in_batch=None)
        loss.backward()
        grads = [weight.grad.clone() for weight in trainer.model.parameters() if weight.grad is not None]
        results.append((loss.item(), torch.cat([grad.flatten() for grad in grads])))
    assert issubclass(type(trainer), SFTTrainer)
    (ours, our_grads), (theirs, their_grads) = results
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    assert ours == pytest.approx(theirs, rel=tolerance)
    assert (our_grads - their_grads).norm() < tolerance * their_grads.norm()


def test_the_loss_of_a_sure_answer_is_never_negative() -> None:
    """In bfloat16 the logit of the label has the rounding of the other logits."""
    import torch

    from gra.training.trainers.frozen_head_loss import FrozenHeadLoss

    torch.manual_seed(0)
    weight = torch.randn(20_000, 64).bfloat16()
    labels = torch.randint(len(weight), (200,))
    hidden = weight[labels].float().mul(torch.linspace(0.1, 1.0, 200)[:, None]).requires_grad_()
    each = [FrozenHeadLoss.apply(hidden[n : n + 1], weight, labels[n : n + 1]) for n in range(200)]
    assert min(loss.item() for loss in each) >= -1e-6
    exact = torch.nn.functional.cross_entropy((hidden.bfloat16() @ weight.t()).float(), labels, reduction="sum")
    assert sum(loss.item() for loss in each) == pytest.approx(exact.item(), rel=1e-3)
