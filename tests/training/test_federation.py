"""Federation: aggregation by hand, messages without text, and rounds of a tiny student."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from paths import ROOT
from training_tiny import PAIRS, make_student, row, same, train, weights, write_recipe, write_rows

import gra
from gra.config.experiment import SymbiosisRecipe
from gra.config.loader import Loaded
from gra.config.training import FederationRecipe
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
    """Return one module of 6 x 5."""
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


def test_clients_that_differ_are_averaged_wrongly_by_fedavg_alone() -> None:
    """Turn the same product differently at each client: the cross terms of mean(B) mean(A) are no part of any."""
    rng = np.random.default_rng(4)
    common = adapter(rng)
    a, b = SIDE.format("q", "A"), SIDE.format("q", "B")
    turns = [np.linalg.qr(rng.normal(size=(2, 2)))[0] for _ in range(3)]
    clients = [{a: (turn @ common[a]).astype(np.float32), b: (common[b] @ turn.T).astype(np.float32)} for turn in turns]
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
        case "entry":
            head = {"round": 0, "rows": 1, "metrics": {}}
            return bytes(save(tensors, metadata={"gra": json.dumps(head), "note": "a row"}))
        case "count":
            return AdapterMessage(0, tensors, 10**400).to_bytes()
        case "figure":
            return AdapterMessage(0, tensors, 1, {"loss": 10**400}).to_bytes()
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
        ("entry", "has further entries"),
        ("count", "is no message"),
        ("figure", "is no message"),
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
    """Write a recipe whose clients have these rows."""
    folder.mkdir(exist_ok=True)
    named = [
        {"name": name, "train": [{"path": str(write_rows(folder / f"{name}.jsonl", [row(*p) for p in pairs]))}]}
        for name, pairs in clients.items()
    ]
    path = write_recipe(folder, student, folder, rounds=1, clients=named, **{"train": {"max_steps": 2}} | changes)
    content = yaml.safe_load(path.read_text())
    del content["data"]["train"]
    path.write_text(yaml.safe_dump(content))
    return path


def load(path: Path, *overrides: str) -> Loaded[FederationRecipe]:
    return load_trained(path, FederationRecipe, overrides)


QUIET = View(quiet=True)


class Recording:
    """Local clients whose messages are kept; some may drop out of some rounds."""

    def __init__(self, loaded: Loaded[FederationRecipe], folder: Path, gone: Sequence[tuple[int, str]] = ()) -> None:
        self.clients = [FederatedClient(loaded, c.name, folder / c.name) for c in loaded.recipe.clients]
        self.gone = gone
        self.sent: list[bytes] = []

    def exchange(self, message: bytes, clients: Sequence[str]) -> dict[str, bytes]:
        number = read_message(message).round
        here = [each for each in self.clients if (number, each.name) not in self.gone]
        answers = LocalTransport(here, View(quiet=True)).exchange(message, clients)
        self.sent += [message, *answers.values()]
        return answers


LORA = {"r": 4, "alpha": 8, "dropout": 0.2}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, student: Path) -> Path:
    """Make a finished federation of one client in `out`, with its recipe."""
    folder = tmp_path_factory.mktemp("alone")
    federate(load(federation(folder, student, {"all": PAIRS}, lora=LORA)), folder / "out", view=QUIET)
    return folder


def test_one_client_is_plain_training_bit_for_bit(tmp_path: Path, student: Path, alone: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [row(*pair) for pair in PAIRS])
    train(write_recipe(tmp_path, student, rows, lora=LORA, train={"max_steps": 2}), tmp_path / "plain")
    assert same(weights(alone / "out"), weights(tmp_path / "plain"))
    assert RunFolder(alone / "out").verify() >= 6
    named = [json.loads((out / "adapter_config.json").read_text()) for out in (alone / "out", tmp_path / "plain")]
    assert named[0]["base_model_name_or_path"] == named[1]["base_model_name_or_path"] == str(student)


SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 1e9, "max_steps": 1, "learning_rate": 0.5}


@pytest.mark.slow
def test_equal_clients_of_one_sgd_step_are_one_central_step(tmp_path: Path, student: Path) -> None:
    pairs = [PAIRS[0], ("Say two.", "sea")]  # as many tokens in the loss: its mean is over tokens
    options = [f"train.{key}={value}" for key, value in SGD.items()]
    for name, clients in {"apart": {"a": pairs[:1], "b": pairs[1:]}, "together": {"all": pairs}}.items():
        path = federation(tmp_path / name, student, clients)
        federate(load(path, *options, "train.per_device_train_batch_size=2"), tmp_path / name / "out", view=QUIET)
    apart, together = (weights(tmp_path / name / "out") for name in ("apart", "together"))
    assert all(float((apart[key] - together[key]).abs().max()) < 1e-6 for key in apart)
    assert max(float(tensor.abs().max()) for key, tensor in apart.items() if "lora_B" in key) > 1e-3


CLIENTS = {"north": PAIRS[:4], "south": PAIRS[4:]}


def test_killed_server_goes_on_from_the_last_whole_round_and_no_row_is_in_any_message(
    tmp_path: Path, student: Path
) -> None:
    """In the second round a client drops out, and the server is killed."""
    loaded = load(federation(tmp_path / "f", student, CLIENTS), "rounds=2", "aggregate=freeze_a", "train.max_steps=1")

    class Dying(Recording):
        def exchange(self, message: bytes, clients: Sequence[str]) -> dict[str, bytes]:
            if read_message(message).round == 1:
                raise KeyboardInterrupt
            return super().exchange(message, clients)

    gone = [(1, "south")]
    whole = Recording(loaded, tmp_path / "work", gone)
    facts = federate(loaded, tmp_path / "whole", transport=whole, view=QUIET)
    with pytest.raises(KeyboardInterrupt):
        federate(loaded, tmp_path / "killed", transport=Dying(loaded, tmp_path / "work"), view=QUIET)
    after = RunFolder(tmp_path / "killed").manifest()["federation"]
    assert (after["round"], after["digest"]) == (1, facts["rounds"][0]["digest"])
    rest = Recording(loaded, tmp_path / "work", gone)
    # What another federation left there, such as at a client that was cut off, does no harm.
    RunFolder(tmp_path / "work" / "north" / "round-1" / "model").create().record(
        "training", {"inputs": {"train.seed": 1}}, []
    )
    again = federate(loaded, tmp_path / "killed", transport=rest, view=QUIET)
    assert (again["digest"], again["rounds"][0]) == (facts["digest"], after["rounds"][0])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert len(rest.sent) == 2  # the message of the second round and one answer
    none = Recording(loaded, tmp_path / "work")
    assert federate(loaded, tmp_path / "killed", transport=none, view=QUIET)["status"] == "already trained"
    assert none.sent == []

    # The client that dropped out changes the weights of the others, and nothing else.
    last, first = read_message(whole.sent[-1]), read_message(whole.sent[0])
    assert adapter_digest(last.tensors) == facts["digest"]
    assert facts["rounds"][1]["left_out"] == {"south": "it did not answer"}
    assert [[c["weight"] for c in turn["clients"].values()] for turn in facts["rounds"]] == [[4 / 9, 5 / 9], [1.0]]
    assert all(np.array_equal(t, first.tensors[name]) for name, t in last.tensors.items() if ".lora_A." in name)

    assert len(whole.sent) == 5
    for data in whole.sent:
        for text in (text for pair in PAIRS for text in pair if len(text) > 3):
            assert text.encode() not in data
            assert text.encode("utf-16-le") not in data


def test_round_without_enough_answers_ends_the_run_and_keeps_the_rounds_before(tmp_path: Path, student: Path) -> None:
    loaded = load(
        federation(tmp_path / "f", student, CLIENTS), "least_clients=2", "train.max_steps=1", "train.logging_steps=9"
    )
    gone = [(0, "south")]
    with pytest.raises(
        EngineUnavailable, match=r"1 of 2 clients count in round 1.*south: it did not answer.*run the same"
    ):
        federate(loaded, tmp_path / "out", transport=Recording(loaded, tmp_path / "work", gone), view=QUIET)
    assert RunFolder(tmp_path / "out").manifest()["federation"]["round"] == 0


def test_schedule_goes_on_from_round_to_round() -> None:
    import torch
    from transformers import TrainingArguments, get_scheduler

    from gra.training.federation.callback import FederatedRound

    args = TrainingArguments(use_cpu=True, report_to="none", lr_scheduler_type="cosine", warmup_steps=0.2)

    def rates(steps: int, before: int, total: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule = get_scheduler(
            "cosine", optimizer, num_warmup_steps=args.get_warmup_steps(steps), num_training_steps=steps
        )
        FederatedRound(before, total, freeze_a=False).on_train_begin(
            args, None, None, optimizer=optimizer, lr_scheduler=schedule
        )
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    whole = rates(10, 0, 10)
    assert rates(5, 0, 10) + rates(5, 5, 10) == pytest.approx(whole)
    assert whole.index(max(whole)) == 2


@pytest.mark.parametrize(
    ("clients", "changes", "sentence"),
    [
        ({"a": []}, [], r"client `a`: .*a\.jsonl has no rows"),
        ({"a": PAIRS}, ["clients=[{name: a, train: []}]"], "the client a has no rows; name a file"),
        ({"a": PAIRS}, ["clients=[{name: a, train: [{path: x}]}, {name: a, train: [{path: y}]}]"], "the name a; give"),
        ({"a": PAIRS}, ["clients=[]"], "`clients` must have at least 1"),
        ({"a": PAIRS}, ["rounds=0"], "`rounds` must be at least 1"),
        ({"a": PAIRS}, ["least_clients=2"], "more than there are clients"),
        ({"a": PAIRS}, ["lora=null"], "add a `lora` section"),
        ({"a": PAIRS}, ["train.max_steps=-1"], "`train.max_steps` is missing"),
        ({"a": PAIRS}, ["train.lr_scheduler_type=greedy"], "cannot be continued from round to round"),
        ({"a": PAIRS}, ["data.train=[{path: x}]"], "move `data.train` to"),
        ({"a": PAIRS}, ["method=preference"], "`method: preference` cannot be used in one"),
        ({"a": PAIRS}, ["lora=null", "model.adapter=OTHER"], "does not belong to"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_federation_that_cannot_work_is_one_sentence_before_anything_is_trained(
    tmp_path: Path, student: Path, clients: dict[str, Any], changes: list[str], sentence: str, dry_run: bool
) -> None:
    if "model.adapter=OTHER" in changes:
        from peft import LoraConfig
        from safetensors.numpy import save_file

        LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(str(tmp_path / "other"))
        save_file(adapter(np.random.default_rng(7)), tmp_path / "other" / "adapter_model.safetensors")
        changes = ["lora=null", f"model.adapter={tmp_path / 'other'}"]
    with pytest.raises(GraError, match=sentence):
        federate(
            load(federation(tmp_path / "f", student, clients), *changes), tmp_path / "out", dry_run=dry_run, view=QUIET
        )
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_folder_of_another_federation_or_stage_is_refused(tmp_path: Path, student: Path, alone: Path) -> None:
    path = alone / "recipe.yaml"
    with pytest.raises(Mismatch, match=r"federation\.rounds was 1, is now 2.*--fresh"):
        federate(load(path, "rounds=2"), alone / "out", view=QUIET)
    RunFolder(tmp_path / "other").create().record("training", {}, [])
    with pytest.raises(GraError, match="holds what `training` wrote"):
        federate(load(path), tmp_path / "other", view=QUIET)
    with pytest.raises(GraError, match="this is a training recipe, for `gra train`; wanted here is a federation"):
        load(write_recipe(tmp_path, student, tmp_path / "rows.jsonl"))


# --- a federation that is worth it -----------------------------------------------------------------------------------


PARTS = {"colors": "red", "numbers": "one", "places": "north"}
NAMES = ["Al", "Bo", "Cy", "Di", "Ed", "Fa", "Gi", "Ha"]
LEARNING = ["train.learning_rate=0.01", "train.max_steps=12", "lora.r=8", "lora.alpha=16", "rounds=3"]


def asked(part: str, names: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{part} {name}", PARTS[part]) for name in names]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory, student: Path) -> Path:
    """Train a student that answers with one of the words, and does not know which."""
    folder, luck = tmp_path_factory.mktemp("speaking"), random.Random(0)
    rows = [row(f"{part} {name}", luck.choice(list(PARTS.values()))) for part in PARTS for name in NAMES * 3]
    path = write_recipe(folder, student, write_rows(folder / "rows.jsonl", rows), lora=None, train={"max_steps": 60})
    train(path, folder / "out", "train.per_device_train_batch_size=8")
    return folder / "out"


def heldout_loss(student: Path, folder: Path, rows: Path) -> float:
    """Return the mean loss over the held-out rows of all clients."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student), folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for line in rows.read_text().splitlines():
        item = json.loads(line)
        start = tokenizer.apply_chat_template(item["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = tokenizer.apply_chat_template(item["prompt"] + item["completion"], return_dict=True)["input_ids"]
        labels = torch.tensor([[-100] * len(start) + whole[len(start) :]])
        with torch.no_grad():
            found.append(float(model(input_ids=torch.tensor([whole]), labels=labels).loss))
    return float(np.mean(found))


@pytest.mark.slow
def test_federation_is_better_than_each_client_alone(tmp_path: Path, speaking: Path) -> None:
    """Each client knows the answer of one part; the held-out questions are of all parts."""
    clients = {part: asked(part, NAMES[:4]) for part in PARTS}
    unseen = [row(*pair) for part in PARTS for pair in asked(part, NAMES[4:6])]
    rows = write_rows(tmp_path / "heldout.jsonl", unseen)
    found = {}
    for name, some in {"all": clients, **{part: {part: pairs} for part, pairs in clients.items()}}.items():
        path = federation(tmp_path / name, speaking, some)
        for kind in ("fedavg", "freeze_a", "stack") if name == "all" else ("fedavg",):
            out = tmp_path / f"{name}-{kind}"
            federate(load(path, *LEARNING, f"aggregate={kind}"), out, view=QUIET)
            found[name, kind] = heldout_loss(speaking, out, rows)
    alone = min(found.pop((part, "fedavg")) for part in PARTS)
    assert all(loss < 0.8 * alone for loss in found.values())


# --- the shipped recipe, the command and Flower ----------------------------------------------------------------------


def test_shipped_recipe_is_dry_run_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gra.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRA_OFFLINE", "1")
    recipe = ROOT / "recipes" / "systems" / "federation.yaml"
    for name in ("coding", "math", "writing"):
        folder = tmp_path / "runs" / name / "dataset"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row(*pair) for pair in PAIRS]), folder / "train.parquet")
    with pytest.raises(SystemExit) as end:
        main(["federate", str(recipe), "--dry-run", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert list(plan["clients"].values()) == [9, 9, 9]
    assert (plan["steps"], plan["warnings"]) == (10, [])
    assert plan["differentially_private"] is False
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]
    assert isinstance(gra.load_recipe(recipe), FederationRecipe)
    assert isinstance(gra.load_recipe(recipe.with_name("symbiosis.yaml")), SymbiosisRecipe)


def test_without_flower_the_error_says_what_to_install(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gra.training.federation.flower.shutil.which", lambda *_, **__: None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'gra-synthesis\[federation\]'"):
        federate(load(alone / "recipe.yaml", "transport=flower"), tmp_path / "out", view=QUIET)


def test_flower_carries_the_same_bytes_and_no_text_of_a_failure(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flwr", reason="Flower is an extra of its own (federation)")
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.task_identity import TaskIdentity

    from gra.training.federation import flower

    # Names of clients are sent, so none is a word of a row.
    clients = {"first": PAIRS[:4], "second": PAIRS[4:], "bad": PAIRS[:2]}
    path = federation(tmp_path / "f", student, clients, train={"max_steps": 1})
    loaded = load(path)
    wire: list[bytes] = []
    app, broken = flower.make_client_app(), FederatedClient.answer

    def answer(self: FederatedClient, data: bytes) -> bytes:
        if self.name == "bad":
            raise ValueError(f"row 1: {PAIRS[0]}")
        return broken(self, data)

    monkeypatch.setattr(FederatedClient, "answer", answer)
    for field in ("_task_id", "_run_id", "_node_id"):  # Flower's own processes set them
        monkeypatch.setattr(TaskIdentity, field, 1)

    class Grid:
        """Nodes in this process, with the objects that Flower would send."""

        def get_node_ids(self) -> list[int]:
            return [1, 2, 3]

        def send_and_receive(self, messages: Sequence[Any], timeout: float) -> list[Any]:
            replies = []
            for message, name in zip(messages, loaded.recipe.clients, strict=True):
                message.metadata.__dict__["_message_id"] = name.name
                config = {"client": name.name, "recipe": str(path), "work": str(tmp_path / "work")}
                replies.append(app(message, SimpleNamespace(node_config=config)))
                for each in (message, replies[-1]):
                    wire.extend(item.deflate() for item in get_all_nested_objects(each).values())
            return replies

    carried = federate(loaded, tmp_path / "flower", transport=flower.FlowerTransport(Grid(), 60, QUIET), view=QUIET)
    assert carried["rounds"][0]["left_out"] == {"bad": "it did not answer"}
    near = Recording(loaded, tmp_path / "near", gone=[(0, "bad")])
    assert federate(loaded, tmp_path / "local", transport=near, view=QUIET)["digest"] == carried["digest"]
    assert any(near.sent[0] in data for data in wire)
    for text in (text for pair in PAIRS for text in pair if len(text) > 3):
        assert not any(text.encode() in data for data in wire)
