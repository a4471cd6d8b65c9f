"""Suites and their samples: what is read, drawn, digested, and refused with a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import INSTRUCTIONS, tiny_suite, write_suite
from paths import ROOT

from gra.config.suite import TaskConfig
from gra.core.errors import DataError, RecipeError
from gra.evaluation.results import score_task
from gra.evaluation.rows import text_field
from gra.evaluation.scorers.kinds import TASK_KINDS
from gra.evaluation.suite import draw, load_suite, load_tasks, suite_digest
from gra.evaluation.task import RowTask, Sample, SampleOutput, SampleScore


@pytest.mark.parametrize(
    ("name", "benchmarks"), [("quickstart", {"sciq"}), ("study", {"arc_easy", "sciq"}), ("smoke", {"arc_easy"})]
)
def test_shipped_suites_are_valid(name: str, benchmarks: set[str]) -> None:
    suite = load_suite(ROOT / "eval" / "suites" / f"{name}.yaml")
    own = suite.model_copy(update={"tasks": [t for t in suite.tasks if not t.data.startswith("catalog:")]})
    (loaded,) = load_tasks(own)
    assert len(loaded.samples) == (loaded.config.limit or 120)
    assert {task.data for task in suite.tasks} - {loaded.config.data} == {f"catalog:{one}" for one in benchmarks}


def test_the_draw_depends_on_ids_and_seed_only_and_serves_every_category() -> None:
    items = [Sample(f"i{n}", "abc"[n % 3], "?") for n in range(30)]
    chosen = draw(items, 10, seed=0)
    assert {item.id for item in chosen} == {item.id for item in draw(items[::-1], 10, seed=0)}
    assert {item.id for item in chosen} != {item.id for item in draw(items, 10, seed=1)}
    assert sorted(Counter(item.category for item in chosen).values()) == [3, 3, 4]
    assert {item.id for item in draw(items, 4, seed=0)} < {item.id for item in chosen}
    assert draw(items, 99, seed=0) == items


def test_suite_digest_covers_the_samples_and_not_the_files(tmp_path: Path) -> None:
    one, two = tiny_suite(tmp_path / "a"), tiny_suite(tmp_path / "b", batch_size=2, name="other")
    assert suite_digest(load_tasks(one)) == suite_digest(load_tasks(two))
    fewer = tiny_suite(tmp_path / "c", instructions=INSTRUCTIONS[1:])
    assert suite_digest(load_tasks(one)) != suite_digest(load_tasks(fewer))


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "instructions.jsonl",
            '{"id": "a", "instruction": "x", "checks": [{"kind": "lowcase"}]}',
            "no check `lowcase`",
        ),
        ("instructions.jsonl", '{"id": "a", "instruction": "", "checks": []}', "`instruction` must be a text"),
        ("instructions.jsonl", '{"id": "i00", "instruction": "x", "checks": [{"kind": "no_commas"}]}', "used before"),
        ("instructions.jsonl", "{", "this line is not JSON"),
        ("instructions.jsonl", "[" * 100_000, "this line is not JSON"),
        ("instructions.jsonl", "[]", "a row is a JSON object"),
        ("questions.jsonl", '{"id": "a", "question": "x", "choices": ["y"], "answer": 0}', "at least two texts"),
        (
            "questions.jsonl",
            '{"id": "a", "question": "x", "choices": ["y", "z"], "answer": 2}',
            "index (0 to 1) or the",
        ),
        ("questions.jsonl", '{"id": "a", "question": "x", "choices": ["y", "z"], "answer": "w"}', "not 'w'"),
        (
            "questions.jsonl",
            '{"id": "a", "question": "x", "choices": ["y", "z"], "answer": 0, "category": 1}',
            "`category`",
        ),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, file: str, line: str, message: str) -> None:
    suite = tiny_suite(tmp_path)
    rows = (tmp_path / file).read_text().splitlines()
    (tmp_path / file).write_text("\n".join([*rows, "", line]))
    with pytest.raises(DataError) as caught:
        load_tasks(suite)
    assert str(caught.value).startswith(f"{tmp_path / file}:{len(rows) + 2}: ")
    assert message in str(caught.value)


def test_an_answer_may_be_given_as_text(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    (tmp_path / "questions.jsonl").write_text('{"id": "a", "question": "x", "choices": ["y", "z"], "answer": "z"}\n')
    assert load_tasks(suite)[1].samples[0].answer == 1


def test_wrong_suites(tmp_path: Path) -> None:
    task = {"name": "t", "kind": "instructions", "data": "instructions.jsonl"}
    with pytest.raises(RecipeError, match=r"two tasks have the same `name` \(t\)"):
        tiny_suite(tmp_path, tasks=[task, task])
    with pytest.raises(RecipeError, match="is not there"):
        tiny_suite(tmp_path, tasks=[{**task, "data": "instruction.jsonl"}])
    suite = tiny_suite(tmp_path)
    (tmp_path / "instructions.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        load_tasks(suite)


def test_unknown_kind_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    task = {"name": "t", "kind": "liklihood", "data": "questions.jsonl"}
    with pytest.raises(RecipeError) as caught:
        load_suite(write_suite(tmp_path, tasks=[task]))
    assert "`tasks.0.kind` must be one of 'instructions', " in str(caught.value)
    assert "not 'liklihood'; did you mean `likelihood`?" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": 2}, "`shots` is for `kind: lm-eval`; the task `t` is of kind `value`"),
        ({"metric": "acc"}, "`metric` is for `kind: lm-eval`"),
        ({"kind": "lm-eval"}, "the task `t` needs `metric`"),
        ({"kind": "lm-eval", "metric": "acc", "template": "x.yaml"}, "`template` is not for `kind: lm-eval`"),
    ],
)
def test_key_of_another_kind_is_refused(tmp_path: Path, change: Mapping[str, Any], message: str) -> None:
    task = {"name": "t", "kind": "value", "data": "questions.jsonl", **change}
    with pytest.raises(RecipeError) as caught:
        load_suite(write_suite(tmp_path, tasks=[task]))
    assert message in str(caught.value)


def test_new_task_kind_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReversedTask(RowTask):
        name = "reversed"
        extracts = True
        verdicts = ("right", "wrong")

        def parse(self, row: Mapping[str, Any], where: str, config: TaskConfig) -> Sample:
            word = text_field(row, "word", where)
            return Sample(text_field(row, "id", where), "", f"Reverse: {word}", target=word[::-1])

        def version(self) -> list[Any]:
            return [1]

        def score(self, sample: Sample, text: str, finish: str | None) -> SampleScore:
            right = text.strip() == sample.target
            return SampleScore(right, "right" if right else "wrong", text.strip())

    monkeypatch.setitem(TASK_KINDS, ReversedTask.name, ReversedTask())
    rows = [{"id": f"w{n}", "word": word} for n, word in enumerate(("level", "stone"))]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = tiny_suite(tmp_path, tasks=[{"name": "words", "kind": "reversed", "data": "words.jsonl"}])
    (task,) = load_tasks(suite)
    assert (task.metric, task.chat, task.template) == ("pass", True, "gra_instruction.yaml")
    outputs = [SampleOutput(sample.id, sample.asked, "", "level", "stop", 2) for sample in task.samples]
    scored = {row["item"]: (row["score"], row["verdict"]) for row in score_task(task, outputs)}
    assert scored == {"w0": (1.0, "right"), "w1": (0.0, "wrong")}
    before = task.target()
    (tmp_path / "words.jsonl").write_text((tmp_path / "words.jsonl").read_text().replace("stone", "tones"))
    assert load_tasks(suite)[0].target() != before, "another target is another score"


@pytest.mark.parametrize("half", ["\\ud83d", "\\udc00 and more"])
def test_half_a_surrogate_pair_is_refused_by_line(tmp_path: Path, half: str) -> None:
    suite = tiny_suite(tmp_path)
    row = json.dumps({"id": "a", "question": "HERE", "choices": ["y", "z"], "answer": 0}).replace("HERE", half)
    (tmp_path / "questions.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match=r"questions.jsonl:1: this row holds half of a surrogate pair"):
        load_tasks(suite)


def test_byte_order_mark_before_the_data_is_skipped(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    before = suite_digest(load_tasks(suite))
    for name in ("questions.jsonl", "instructions.jsonl"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert suite_digest(load_tasks(suite)) == before
