"""`method: fusion`: alignment and formulas by hand, and a tiny student of teachers with other vocabularies."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_tiny import (
    PAIRS,
    load,
    make_student,
    other_vocabulary,
    row,
    same,
    train,
    weights,
    write_recipe,
    write_rows,
)

from gra.core.errors import Mismatch, RecipeError
from gra.core.run_folder import RunFolder
from gra.training.fusion.alignment import align, locate, scored
from gra.training.fusion.store import read_distributions, write_distributions
from gra.training.fusion.targets import TeacherDistributions, merge_equal, target_of, teacher_weights
from gra.training.fusion.vocabulary import NONE, TokenTexts, map_tokens

TEXTS = st.text(alphabet="ab é日", min_size=1, max_size=12).filter(lambda text: text.strip() != "")


def cut(content: str, cuts: list[int]) -> tuple[list[int], TokenTexts]:
    """Tokens of an answer that is cut at these bytes, the stop token last, and their vocabulary."""
    whole = content.encode()
    places = [0, *sorted({at for at in cuts if 0 < at < len(whole)}), len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(places)]
    texts = list(dict.fromkeys(pieces))
    vocabulary = TokenTexts([*texts, b"<eos>"], {"<eos>": len(texts)}, len(texts))
    return [*(texts.index(piece) for piece in pieces), len(texts)], vocabulary


CUTS = st.lists(st.integers(1, 40), max_size=8)


@settings(deadline=None, max_examples=60)
@given(TEXTS, CUTS, CUTS)
def test_aligned_tokens_cover_the_same_bytes_and_equal_tokenizers_give_identity(
    content: str, ours: list[int], theirs: list[int]
) -> None:
    tokens, vocabulary = cut(content, ours)
    others, foreign = cut(content, theirs)
    left, right = locate(tokens, vocabulary, content), locate(others, foreign, content)
    assert left is not None
    assert right is not None
    students, teachers = align(left, right)
    assert [vocabulary.texts[tokens[at]] for at in students] == [foreign.texts[others[at]] for at in teachers]
    assert all((np.diff(places) > 0).all() for places in (students, teachers))
    same_places, identical = align(left, left)
    assert same_places.tolist() == identical.tolist()
    if content == content.strip():
        assert same_places.tolist() == list(range(len(tokens)))
        assert scored(left, right)[0] == len(tokens)  # one denominator for all teachers
    assert map_tokens(vocabulary, vocabulary).tolist() == list(range(len(vocabulary.texts)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-1, 4), st.floats(0, 1)), min_size=1, max_size=6))
def test_mapped_distribution_has_at_most_everything_and_each_token_once(line: list[tuple[int, float]]) -> None:
    ids = np.array([[token for token, _ in line]], dtype=np.int32)
    values = np.array([[value for _, value in line]])
    values = values / max(1.0, values.sum())
    tokens, probabilities = merge_equal(ids, values)
    kept = tokens[tokens != NONE]
    assert len(set(kept.tolist())) == len(kept)
    assert probabilities.sum() == pytest.approx(values[ids != NONE].sum())
    assert probabilities.sum() <= 1 + 1e-9


def test_alignment_by_hand() -> None:
    """Align `the cat` in two tokenizations, with what a template writes around the second."""
    student = TokenTexts([b"the", b" c", b"at", b"<eos>"], {"<eos>": 3}, 3)
    teacher = TokenTexts([b"\n", b"the", b" cat", b"</s>", b"th", b" c", b"e"], {"</s>": 3}, 3)
    left, right = locate([0, 1, 2, 3], student, "the cat"), locate([0, 1, 2, 3], teacher, "the cat")
    assert left is not None
    assert right is not None
    # ` cat` covers two tokens of the student, so it teaches neither; the stop tokens meet.
    assert [places.tolist() for places in align(left, right)] == [[0, 3], [1, 3]]
    assert scored(left, right)[0] == 4
    assert scored(left, right)[1].tolist() == [1, 2, 3]
    # ` cat` begins with ` c`; a token that the student cannot begin maps to nothing.
    assert map_tokens(teacher, student).tolist() == [NONE, 0, 1, 3, NONE, 1, NONE]
    cut_off = locate([0, 1], student, "the cat")
    assert cut_off is not None
    assert cut_off.stop == -1
    assert scored(cut_off, right)[1].tolist() == [1]
    assert locate([2, 3], student, "the cat") is None


def stored(entropies: list[float], ids: list[list[int]], values: list[list[float]]) -> TeacherDistributions:
    """Return one teacher on one-token rows."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.array(values)).astype(np.float16)
    count = len(entropies)
    return TeacherDistributions(
        np.arange(count + 1), np.full(count, 5, np.int32), np.array(ids, np.int32), logs, np.array(entropies)
    )


def test_targets_by_hand() -> None:
    first = stored([1.0, math.nan], [[7, 8], [7, 8]], [[0.5, 0.25], [0.5, 0.25]])
    second = stored([0.5, 0.7], [[8, 9], [8, NONE]], [[0.5, 0.5], [1.0, 0.1]])
    assert teacher_weights(np.array([1.0, 0.5]), "min_ce").tolist() == [0.0, 1.0]
    one, two = math.exp(math.exp(-1.0)), math.exp(math.exp(-0.5))
    share = one / (one + two)
    assert teacher_weights(np.array([1.0, 0.5]), "average_ce") == pytest.approx([share, 1 - share])
    assert teacher_weights(np.array([math.nan, math.nan]), "average_ce").tolist() == [0.0, 0.0]
    best = target_of([first, second], 0, "min_ce")
    assert (best.positions.tolist(), best.ids.tolist()) == ([5], [[8, 9]])
    mean = target_of([first, second], 0, "average_ce")
    found = {int(i): float(p) for i, p in zip(mean.ids[0], mean.probabilities[0], strict=True) if i != NONE}
    wanted = {7: share / 2, 8: share / 4 + (1 - share) / 2, 9: (1 - share) / 2}
    assert found == pytest.approx(wanted, rel=1e-3)  # half precision
    assert target_of([first, second], 1, "average_ce").ids.tolist() == [[8, NONE]]


def test_loss_by_hand_is_least_where_the_student_agrees() -> None:
    import torch

    from gra.training.trainers.fusion import fusion_loss

    ours = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    logits = ours.log().requires_grad_()
    ids = torch.tensor([[0, NONE], [1, 0], [NONE, NONE]])
    target = torch.tensor([[0.6, 0.0], [0.3, 0.5], [0.0, 0.0]])
    loss = fusion_loss(logits.log_softmax(-1), ids, target)
    # 0.6 on the first token and 0.4 on the other two together; then the student's own; then no target.
    agreed = -(0.3 * math.log(0.3) + 0.5 * math.log(0.5) + 0.2 * math.log(0.2))
    assert loss.tolist() == pytest.approx([math.log(2), agreed, 0.0], abs=1e-6)
    loss[1:].sum().backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_stored_file_of_other_rows_or_damaged_is_refused(tmp_path: Path) -> None:
    file, kept = tmp_path / "a.npz", stored([1.0], [[7, 8]], [[0.5, 0.25]])
    write_distributions(file, "key", kept)
    assert read_distributions(file, "key", 1).ids.tolist() == [[7, 8]]
    for key, rows in (("other", 1), ("key", 2)):
        with pytest.raises(Mismatch, match="does not hold this teacher's distributions of these rows; delete it"):
            read_distributions(file, key, rows)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(Mismatch, match="cannot be read"):
        read_distributions(file, "key", 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a student, a teacher that numbers its tokens otherwise, and rows."""
    folder = tmp_path_factory.mktemp("world")
    make_student(folder / "student")
    other_vocabulary(folder / "teacher")
    write_rows(folder / "rows.jsonl", [row(*pair) for pair in PAIRS])
    return folder


def fusing(folder: Path, world: Path, rows: Path | None = None, /, **changes: Any) -> Path:
    fusion: dict[str, Any] = {
        "teachers": [
            {"name": str(world / name), "dtype": "float32", "chat_template": "builtin:plain"}
            for name in ("teacher", "student")
        ],
        "sft_weight": 0.5,
        "store": str(folder / "store"),
    } | changes.pop("fusion", {})
    return write_recipe(
        folder, world / "student", rows or world / "rows.jsonl", method="fusion", fusion=fusion,
        stop_rate={"prompts": 0}, **changes,
    )  # fmt: skip


def test_fusion_trains_reuses_what_is_stored_and_at_weight_one_is_supervised_training(
    tmp_path: Path, world: Path
) -> None:
    import pyarrow.parquet as pq

    held = {"train": [{"path": str(world / "rows.jsonl")}], "holdout": {"fraction": 0.3}}
    metrics = train(fusing(tmp_path, world, data=held), tmp_path / "fused")
    summary = metrics["fusion"]
    assert (summary["rows"], summary["covered"], summary["without"]) == (6, 1.0, 0)
    assert [teacher["aligned"] for teacher in summary["teachers"].values()] == [1.0, 1.0]
    table = pq.read_table(tmp_path / "fused" / "teachers.parquet").to_pylist()
    assert len(table) == 6
    assert all(line[line["best"]] == min(line[name] for name in summary["teachers"]) for line in table)
    section = RunFolder(tmp_path / "fused").manifest()["training"]
    assert section["fusion"]["teachers"][0]["identity"] in section["inputs"]["fusion.teachers.0"]
    assert "teachers.parquet" in section["files"]
    assert "explains best" in (tmp_path / "fused" / "README.md").read_text()
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*.npz")}
    assert len(before) == 2
    train(fusing(tmp_path, world, data=held, fusion={"sft_weight": 1.0}), tmp_path / "one")
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*.npz")} == before
    sft = write_recipe(tmp_path, world / "student", world / "rows.jsonl", data=held, stop_rate={"prompts": 0})
    assert train(sft, tmp_path / "sft")["eval_loss"] > 0
    assert same(weights(tmp_path / "one"), weights(tmp_path / "sft"))
    assert not same(weights(tmp_path / "fused"), weights(tmp_path / "sft"))


def test_student_as_its_own_teacher_learns_nothing_from_it(tmp_path: Path, world: Path) -> None:
    """With the student's own distributions the second term has no gradient; the first is TRL's loss."""
    import torch

    from gra.training.fusion.teachers import compute_missing
    from gra.training.options.trl_config import build_arguments
    from gra.training.plan import load_student, make_plan
    from gra.training.trainers.fusion import make_trainer

    own = [{"name": str(world / "student"), "dtype": "float32", "chat_template": "builtin:plain"}]
    plan = make_plan(load(fusing(tmp_path, world, fusion={"teachers": own, "sft_weight": 0.0}, lora=None)))
    assert plan.fusion is not None
    compute_missing(
        plan.fusion, tmp_path / "store", tmp_path, device="cpu", attention="sdpa", say=str, progress=lambda *_: None
    )
    trainer = make_trainer(plan, load_student(plan), build_arguments(plan.loaded, tmp_path / "c"), [])
    batch = next(iter(trainer.get_train_dataloader()))

    def gradient(weight: float) -> tuple[float, torch.Tensor]:
        trainer.sft_weight = weight
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        grads = [each.grad.flatten() for each in trainer.model.parameters() if each.grad is not None]
        return float(loss.detach()), torch.cat(grads)

    (_, nothing), (halved, half), (whole, full) = (gradient(weight) for weight in (0.0, 0.5, 1.0))
    assert float(nothing.norm()) < 1e-2 * float(full.norm())  # half precision
    assert float((half - full / 2).norm()) < 1e-2 * float(full.norm())
    entropy = gradient(0.0)[0]
    assert halved == pytest.approx((whole + entropy) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("fusion", "train_options", "sentence"),
    [
        ({"teachers": []}, {}, r"fusion\.teachers"),
        ({"sft_weight": 1.5}, {}, r"fusion\.sft_weight"),
        ({}, {"packing": True}, r"leave `train\.packing` out"),
        ({"teachers": [{"name": "a"}, {"name": "a"}]}, {}, "name each teacher once"),
        ({"teachers": [{"name": "./nowhere"}]}, {}, "no model directory"),
        ("own template", {}, r"`fusion\.teachers\.0\.chat_template: builtin:plain`"),
        ("other answers", {}, r"`fusion\.teachers\.0` .*: no token of any answer is aligned .* nothing to teach here"),
    ],
)
def test_fusion_that_cannot_work_is_refused_before_a_teacher_is_loaded(
    tmp_path: Path, world: Path, fusion: Any, train_options: dict[str, Any], sentence: str
) -> None:
    if fusion == "own template":
        fusion = {"teachers": [{"name": str(world / "teacher")}]}
    if fusion == "other answers":
        template = tmp_path / "upper.jinja"
        said = "{{ m.role }}: {{ m.content | upper }}{{ eos_token }}"
        template.write_text("{{ bos_token }}{% for m in messages %}" + said + "{% endfor %}")
        fusion = {"teachers": [{"name": str(world / "teacher"), "chat_template": str(template)}]}
    with pytest.raises(RecipeError, match=sentence):
        train(fusing(tmp_path, world, fusion=fusion, train=train_options), tmp_path / "model", dry_run=True)


WORDS = {"Color": ["red", "blue", "green", "pink"], "Way": ["north", "south", "east", "west"]}


def asked(part: str, numbers: range) -> list[dict[str, Any]]:
    """Rows whose answers are drawn: what can be learned is their distribution, not any of them."""
    draw = np.random.default_rng(numbers.start)
    return [row(f"{part} {number}?", WORDS[part][draw.integers(4)]) for number in numbers]


@pytest.mark.slow
def test_student_learns_more_from_two_teachers_of_one_part_each_than_from_the_same_rows_alone(
    tmp_path: Path, world: Path
) -> None:
    teachers = []
    for part, base in (("Color", "teacher"), ("Way", "student")):
        many = write_rows(tmp_path / f"{part}.jsonl", asked(part, range(1000, 1320)))
        options = {"max_steps": 120, "per_device_train_batch_size": 16, "learning_rate": 0.005}
        train(write_recipe(tmp_path, world / base, many, lora=None, train=options), tmp_path / part)
        teachers.append({"name": str(tmp_path / part), "dtype": "float32", "chat_template": "builtin:plain"})
    few = write_rows(tmp_path / "few.jsonl", asked("Color", range(50)) + asked("Way", range(50)))
    losses = {}
    for name, weight in (("fused", 0.1), ("sft", 1.0)):
        recipe = fusing(
            tmp_path, world, few, lora=None, fusion={"teachers": teachers, "sft_weight": weight},
            data={"train": [{"path": str(few)}], "holdout": {"fraction": 0.8}},
            train={"max_steps": 60, "per_device_train_batch_size": 20, "learning_rate": 0.005},
        )  # fmt: skip
        metrics = train(recipe, tmp_path / name)
        losses[name] = metrics["eval_loss"]
    lines = [json.loads(line) for line in few.read_text().splitlines()]
    table = pq.read_table(tmp_path / "sft" / "teachers.parquet").to_pylist()
    places = [int(row["row"].rsplit(" ", 1)[1]) - 1 for row in table]
    parts = ["Color" if lines[at]["completion"][0]["content"] in WORDS["Color"] else "Way" for at in places]
    assert np.mean([Path(row["best"]).name == part for row, part in zip(table, parts, strict=True)]) >= 0.8
    best = metrics["fusion"]["teachers"]
    assert sum(teacher["best"] for teacher in best.values()) == metrics["fusion"]["rows"] == 20
    assert min(teacher["best"] for teacher in best.values()) >= 5
    assert losses["fused"] < 0.9 * losses["sft"]
