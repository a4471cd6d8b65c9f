"""Federation: aggregation by hand, messages without text, and rounds of a tiny student."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from training_tiny import PAIRS, make_student, row, same, train, weights, write_recipe, write_rows

from gra.config.federation import FederationRecipe
from gra.config.loader import Loaded
from gra.core.errors import EngineUnavailable, GraError, Mismatch
from gra.core.progress import View
from gra.core.run_folder import RunFolder
from gra.training.federation.aggregate import Tensors, aggregate, factor
from gra.training.federation.client import FederatedClient
from gra.training.federation.messages import AdapterMessage, adapter_digest, read_message
from gra.training.federation.run import LocalTransport, federate
from gra.training.options.trl_config import load_trained

SIDE = "base_model.model.layers.0.{}.lora_{}.weight"


def adapter(rng: np.random.Generator, rank: int = 2, shift: float = 0.0) -> dict[str, Any]:
    """One module of 6 x 5."""
    a = rng.normal(size=(rank, 5)) + shift
    b = rng.normal(size=(6, rank)) + shift
    return {SIDE.format("q", "A"): a.astype(np.float32), SIDE.format("q", "B"): b.astype(np.float32)}


def product(tensors: Tensors) -> Any:
    return tensors[SIDE.format("q", "B")].astype(np.float64) @ tensors[SIDE.format("q", "A")].astype(np.float64)


# --- aggregation -----------------------------------------------------------------------------------------------------


def test_stack_is_the_mean_of_products_where_the_rank_allows_and_the_nearest_one_elsewhere() -> None:
    rng = np.random.default_rng(0)
    ones = [adapter(rng, 1), adapter(rng, 1)]
    padded = [
        {name: np.concatenate([t, np.zeros_like(t)], axis=0 if ".lora_A." in name else 1) for name, t in each.items()}
        for each in ones
    ]
    wanted = 0.75 * product(ones[0]) + 0.25 * product(ones[1])
    assert product(aggregate("stack", padded, [3, 1])) == pytest.approx(wanted, abs=1e-5)
    full = [adapter(rng, 3), adapter(rng, 3)]
    mean = (product(full[0]) + product(full[1])) / 2
    lost = np.linalg.svd(mean)[1][3:]
    found = aggregate("stack", full, [1, 1])
    assert np.linalg.norm(product(found) - mean) == pytest.approx(np.sqrt((lost**2).sum()), rel=1e-5)
    assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in full[0].items()}


def test_stack_leaves_directions_that_can_still_learn() -> None:
    """Before any step B is zero; A must not become zero, too."""
    rng = np.random.default_rng(1)
    a = [rng.normal(size=(4, 9)).astype(np.float32) for _ in range(2)]
    b, directions = factor([np.zeros((3, 4), np.float32)] * 2, a, np.array([0.5, 0.5]))
    assert not b.any()
    assert np.linalg.norm(directions, axis=1).min() > 0.5 * np.linalg.norm(a[0], axis=1).mean()


def test_freeze_a_is_exact_and_refuses_other_a() -> None:
    rng = np.random.default_rng(2)
    first = adapter(rng)
    name = SIDE.format("q", "B")
    clients = [{**first, name: rng.normal(size=(6, 2)).astype(np.float32)} for _ in range(3)]
    wanted = sum(share * product(each) for share, each in zip((0.5, 0.25, 0.25), clients, strict=True))
    assert product(aggregate("freeze_a", clients, [2, 1, 1])) == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(Mismatch, match="needs one A for all clients"):
        aggregate("freeze_a", [first, adapter(rng)], [1, 1])


@pytest.mark.parametrize("kind", ["fedavg", "freeze_a", "stack"])
def test_one_adapter_is_returned_bit_for_bit(kind: str) -> None:
    only = adapter(np.random.default_rng(3))
    assert adapter_digest(aggregate(kind, [only], [7])) == adapter_digest(only)


def test_planted_clients_that_differ_are_averaged_wrongly_by_fedavg_alone() -> None:
    """Clients turn the same directions of A differently, so the cross terms of mean(B) mean(A) are no part of any."""
    rng = np.random.default_rng(4)
    common = adapter(rng)
    a, b = SIDE.format("q", "A"), SIDE.format("q", "B")
    turns = [np.linalg.qr(rng.normal(size=(2, 2)))[0] for _ in range(3)]
    clients = [
        {a: (turn @ common[a]).astype(np.float32), b: (common[b] @ turn.T).astype(np.float32)} for turn in turns
    ]
    wanted = product(common)  # every client has this very product, in other words
    size = np.linalg.norm(wanted)
    errors = {k: np.linalg.norm(product(aggregate(k, clients, [1] * 3)) - wanted) / size for k in ("fedavg", "stack")}
    assert errors["fedavg"] > 0.3
    assert errors["stack"] < 1e-5


# --- messages --------------------------------------------------------------------------------------------------------


def test_message_comes_back_as_it_was_and_is_the_same_bytes_again() -> None:
    sent = AdapterMessage(3, adapter(np.random.default_rng(5)), 12, {"loss": 0.5})
    read = read_message(sent.to_bytes(), like=sent.tensors)
    assert (read.round, read.rows, read.metrics) == (3, 12, {"loss": 0.5})
    assert adapter_digest(read.tensors) == adapter_digest(sent.tensors)
    assert read.to_bytes() == sent.to_bytes()


def spoiled(how: str) -> bytes:
    from safetensors.numpy import save

    tensors = adapter(np.random.default_rng(6))
    match how:
        case "cut":
            return AdapterMessage(0, tensors).to_bytes()[:-9]
        case "text":
            head = {"round": 0, "rows": 1, "metrics": {}, "note": "a row"}
            return bytes(save(tensors, metadata={"gra": json.dumps(head)}))
        case "metric":
            return AdapterMessage(0, tensors, 1, {"a row": 1.0}).to_bytes()
        case "diverged":
            return AdapterMessage(0, {name: t * np.float32("inf") for name, t in tensors.items()}).to_bytes()
        case "shape":
            return AdapterMessage(0, adapter(np.random.default_rng(6), rank=3)).to_bytes()
    return save(tensors)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("cut", "is no message"),
        ("text", "has further entries"),
        ("metric", "is no message"),
        ("diverged", "training diverged"),
        ("shape", "has other tensors than the one that was sent"),
        ("plain", "is no message"),
    ],
)
def test_what_is_no_message_is_one_sentence(how: str, sentence: str) -> None:
    with pytest.raises(Mismatch, match=sentence):
        read_message(spoiled(how), like=adapter(np.random.default_rng(6)))


# --- rounds ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def federation(folder: Path, student: Path | str, clients: Mapping[str, Sequence[Any]], **changes: Any) -> Path:
    """A recipe whose clients have these rows."""
    folder.mkdir(exist_ok=True)
    named = [
        {"name": name, "train": [{"path": str(write_rows(folder / f"{name}.jsonl", [row(*p) for p in pairs]))}]}
        for name, pairs in clients.items()
    ]
    path = write_recipe(folder, student, folder, rounds=1, clients=named, train={"max_steps": 2}, **changes)
    content = yaml.safe_load(path.read_text())
    del content["data"]["train"]
    path.write_text(yaml.safe_dump(content))
    return path


def load(path: Path, *overrides: str) -> Loaded[FederationRecipe]:
    return load_trained(path, FederationRecipe, overrides)


class Recording:
    """Local clients whose messages are kept; some may drop out of some rounds."""

    def __init__(self, loaded: Loaded[FederationRecipe], folder: Path, gone: Sequence[tuple[int, str]] = ()) -> None:
        self.clients = [FederatedClient(loaded, c.name, folder / c.name) for c in loaded.recipe.clients]
        self.gone, self.sent = gone, [b""][:0]

    def exchange(self, message: bytes, clients: Sequence[str]) -> dict[str, bytes]:
        number = read_message(message).round
        here = [each for each in self.clients if (number, each.name) not in self.gone]
        answers = LocalTransport(here, View(quiet=True)).exchange(message, clients)
        self.sent += [message, *answers.values()]
        return answers


QUIET = View(quiet=True)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_one_client_is_plain_training_bit_for_bit(tmp_path: Path, student: Path, dropout: float) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": dropout}
    path = federation(tmp_path / "f", student, {"all": PAIRS}, lora=lora)
    federate(load(path), tmp_path / "federated", view=QUIET)
    rows = write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])
    train(write_recipe(tmp_path, student, rows, lora=lora, train={"max_steps": 2}), tmp_path / "plain")
    assert same(weights(tmp_path / "federated"), weights(tmp_path / "plain"))
    assert RunFolder(tmp_path / "federated").verify() >= 6
