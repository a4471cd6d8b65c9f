"""Benchmarks in an evaluation: answers read from replies, the ten of the paper, several processes, what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from evaluation_tiny import tiny_suite, under_test
from paths import ROOT
from training_tiny import make_student

from gra.core.errors import DataError, GraError, ModelUnavailable
from gra.evaluation import run as harness
from gra.evaluation.results import read_records
from gra.evaluation.suite import load_suite, load_tasks
from gra.evaluation.task import SampleOutput


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return make_student(tmp_path_factory.mktemp("base"))


@pytest.mark.slow
def test_several_processes_give_what_one_gives(base: Path, tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    one = harness.evaluate(suite, under_test(base), tmp_path / "one")
    seen: list[tuple[str, int, int]] = []
    several = harness.evaluate(
        suite, under_test(base), tmp_path / "several", shards=2, progress=lambda *step: seen.append(step)
    )
    assert several["tasks"] == one["tasks"]
    assert read_records(tmp_path / "several") == read_records(tmp_path / "one")
    assert ("instructions", 40, 40) in seen
    parts = [sorted(p.name for p in (tmp_path / name / "answers").rglob("*.parquet")) for name in ("one", "several")]
    assert parts[0] == parts[1], "the same batches"


@pytest.mark.slow
def test_a_shard_that_cannot_go_on_says_why(base: Path, tmp_path: Path) -> None:
    (base / "copy").mkdir(exist_ok=True)
    for file in base.iterdir():
        if file.is_file():
            (base / "copy" / file.name).write_bytes(file.read_bytes())
    (base / "copy" / "model.safetensors").write_bytes(b"harmed")
    with pytest.raises(GraError, match="cannot be loaded") as caught:
        harness.evaluate(tiny_suite(tmp_path), under_test(base / "copy"), tmp_path / "run", shards=2)
    assert caught.value.exit_code == 4


def test_a_task_whose_data_cannot_be_had_is_left_out_in_so_many_words(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRA_OFFLINE", "1")
    gpqa = {"name": "gpqa", "kind": "letter", "data": "catalog:gpqa_diamond"}
    sums = {"name": "sums", "kind": "likelihood", "data": "questions.jsonl"}
    with pytest.raises(ModelUnavailable, match="gpqa_diamond is not in the cache"):
        load_tasks(tiny_suite(tmp_path, tasks=[gpqa, sums]))
    suite = tiny_suite(tmp_path, tasks=[{**gpqa, "optional": True}, sums])
    results = harness.evaluate(suite, under_test(base), tmp_path / "run")
    assert set(results["tasks"]) == {"sums"}
    assert "gpqa_diamond is not in the cache" in results["left_out"]["gpqa"]
    with pytest.raises(DataError, match="has nothing to ask"):
        load_tasks(tiny_suite(tmp_path, tasks=[{**gpqa, "optional": True}]))


REPLIES = {
    "letter": [("Answer: B", "right", "B"), ("C", "wrong", "C"), ("I cannot say.", "no_answer", None)],
    "value": [("So it is 3 + 4 = 7.", "right", "7"), ("Answer: 8", "wrong", "8"), ("Who knows?", "no_answer", None)],
    "short": [("Answer: Yes.", "right", "Yes"), ("Answer: no", "wrong", "no"), ("Well,\nwell", "no_answer", None)],
    "ifeval": [("yes", "right", None), ("yes, sir", "wrong", None), ("*yes", "right", None)],
}


@pytest.mark.parametrize("kind", list(REPLIES))
def test_kinds_whose_answer_is_read_from_the_reply(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, Any] = {
        "letter": {"choices": ["a", "b", "c"], "answer": 1}, "value": {"answer": "so\n#### 7"},
        "short": {"answer": "Yes"}, "ifeval": {"instructions": [{"id": "punctuation:no_comma"}]},
    }[kind]  # fmt: skip
    rows = [{"id": f"r{n}", "question": f"Question {n}?", "category": "x", **own} for n in range(3)]
    replies = {f"r{n}": SampleOutput(f"r{n}", "", "", said[0], "stop", 5) for n, said in enumerate(REPLIES[kind])}
    monkeypatch.setattr(
        "gra.evaluation.lm_eval.ask",
        lambda lm, tasks, task, items: [replace(replies[i.id], asked=i.asked) for i in items],
    )
    monkeypatch.setattr("gra.evaluation.generate.load", lambda *_: object())
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = tiny_suite(tmp_path, tasks=[{"name": "t", "kind": kind, "data": "rows.jsonl"}])
    task = harness.evaluate(suite, under_test(base), tmp_path / "run")["tasks"]["t"]
    found = {row["item"]: (row["verdict"], row["extracted"]) for row in read_records(tmp_path / "run")}
    assert found == {f"r{n}": said[1:] for n, said in enumerate(REPLIES[kind])}
    assert sum(task["verdicts"].values()) == 3
    assert task["finishes"] == {"stop": 3}
    assert (task["truncated"], task["tokens"]) == (0.0, 15)
    if kind == "ifeval":
        assert task["instructions"] == {"n": 3, "followed": 2, "mean": pytest.approx(2 / 3)}
    else:
        assert task["unread"] == pytest.approx(1 / 3)


THINKING: dict[str, tuple[dict[str, Any], str, str]] = {
    # What makes an answer right; thinking that says so; an answer that does not.
    "letter": ({"choices": ["a", "b", "c"], "answer": 1}, "Answer: B", "Answer: C"),
    "value": ({"answer": "7"}, "So \\boxed{7}", "It is 8."),
    "short": ({"answer": "Yes"}, "Answer: Yes", "Answer: no"),
    "ifeval": ({"instructions": [{"id": "startend:end_checker", "end_phrase": "Bye."}]}, "Bye.", "Hello."),
    "instructions": ({"checks": [{"kind": "words_at_most", "n": 9}]}, "Short.", "one two " * 9),
}


@pytest.mark.parametrize("kind", list(THINKING))
@pytest.mark.parametrize("form", ["<think>\n{}\n</think>\n\n", "{}</think>", "[THINK]{}[/THINK]", "<think>{}"])
def test_thinking_is_recorded_apart_and_not_scored(
    kind: str, form: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, right, wrong = THINKING[kind]
    closed = form != "<think>{}"
    good = form.format(wrong) + (right if closed else "")
    bad = form.format(right) + (wrong if closed else "")
    replies = {"good": good, "bad": bad}
    asked = "instruction" if kind == "instructions" else "question"
    write_rows(tmp_path / "rows.jsonl", [{"id": name, asked: "What?", **own} for name in replies])
    monkeypatch.setattr(
        "gra.evaluation.lm_eval.ask",
        lambda lm, tasks, task, samples: [
            SampleOutput(s.id, s.asked, "", replies[s.id], "stop" if closed else "length", 5) for s in samples
        ],
    )
    monkeypatch.setattr("gra.evaluation.generate.load", lambda *_: object())
    suite = tiny_suite(tmp_path, tasks=[{"name": "t", "kind": kind, "data": "rows.jsonl"}])
    results = harness.evaluate(suite, under_test(base), tmp_path / "run")
    rows = {row["item"]: row for row in read_records(tmp_path / "run")}
    if closed:
        assert {name: row["score"] for name, row in rows.items()} == {"good": 1.0, "bad": 0.0}
        assert (rows["bad"]["output"], rows["bad"]["thinking"]) == (wrong.strip(), right)
    else:
        assert {row["output"] for row in rows.values()} == {""}
        assert rows["bad"]["thinking"] == right
        assert {row["score"] for row in rows.values()} == {0.0}, "no answer was written"
    assert results["tasks"]["t"]["thinking"] == 1.0
    (part,) = (tmp_path / "run" / "answers").rglob("*.parquet")
    assert sorted(pq.read_table(part)["output"].to_pylist()) == sorted([good, bad]), "the answers stay whole"


def test_records_of_an_earlier_release_are_read(base: Path, tmp_path: Path) -> None:
    harness.evaluate(tiny_suite(tmp_path), under_test(base), tmp_path / "run")
    path = tmp_path / "run" / "records.parquet"
    rows = read_records(tmp_path / "run")
    pq.write_table(pq.read_table(path).drop_columns(["thinking", "cluster", "pass_loose"]), path)
    earlier = read_records(tmp_path / "run")
    assert [row["thinking"] for row in earlier] == [None] * len(rows)
    assert [(row["item"], row["score"]) for row in earlier] == [(row["item"], row["score"]) for row in rows]


def test_the_ten_benchmarks_have_their_sizes(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRA_OFFLINE", "1")
    suite = load_suite(ROOT / "eval" / "suites" / "paper10.yaml")
    here = suite.model_copy(update={"tasks": [task for task in suite.tasks if task.name not in ("math", "gpqa")]})
    assert [task.name for task in suite.tasks if task not in here.tasks] == ["math", "gpqa"]  # in no file of the folder
    sizes = {task.name: len(task.samples) for task in load_tasks(here, shared_data / "bench")}
    assert sizes == {
        "gsm8k": 1319, "humaneval": 164, "mbpp": 500, "hellaswag": 10042, "arc_challenge": 1172, "bbh": 6511,
        "mmlu": 14042, "ifeval": 541,
    }  # fmt: skip


def test_every_form_of_the_ten_benchmarks(shared_data: Path) -> None:
    from gra.evaluation.lm_eval import tasks_of

    suite = load_suite(ROOT / "eval" / "suites" / "paper10.yaml", limit=27)
    chosen = [task for task in suite.tasks if task.name in ("gsm8k", "hellaswag", "arc_challenge", "bbh", "mmlu")]
    prompts = {}
    for task in load_tasks(suite.model_copy(update={"tasks": chosen}), shared_data / "bench"):
        own = tasks_of(task, suite, None)[task.name]
        assert own.config.generation_kwargs["max_gen_toks"] == 4096
        prompts[task.name] = [
            (item, own.doc_to_text(doc)) for item, doc in zip(task.samples, own.eval_docs, strict=True)
        ]
    for task_prompts in prompts.values():
        assert all(item.text in prompt for item, prompt in task_prompts)
    assert len({item.category for item, _ in prompts["bbh"]}) == 27
    for item, prompt in prompts["bbh"]:
        wanted = "such as (A)" if item.target in ("(A)", "(B)", "(C)", "(D)") else "It has to be"
        assert wanted in prompt.split(item.text)[1]
    for name in ("hellaswag", "arc_challenge", "mmlu"):
        for item, prompt in prompts[name]:
            assert all(f"\n{'ABCDE'[n]}. {choice}" in prompt for n, choice in enumerate(item.choices))


# lm-eval's own tasks


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def native(name: str, metric: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "kind": "lm-eval", "data": name, "metric": metric, **changes}


def test_tasks_of_lm_eval_are_asked_from_local_files(base: Path, tmp_path: Path) -> None:
    choices = ["a fish", "two birds", "three", "the sea"]
    rows = [{"id": f"r{n}", "question": f"What is {n} plus {n}?", "choices": choices} for n in range(8)]
    write_rows(tmp_path / "data" / "arc_challenge_test.jsonl", [{**row, "gold": n % 4} for n, row in enumerate(rows)])
    write_rows(tmp_path / "rows.jsonl", [{**row, "answer": n % 4} for n, row in enumerate(rows)])
    ours = {"name": "ours", "kind": "likelihood", "data": "rows.jsonl"}
    suite = tiny_suite(tmp_path, tasks=[native("arc_challenge", "acc_norm", shots=0), ours])
    results = harness.evaluate(suite, under_test(base), tmp_path / "run", data_dir=tmp_path / "data")
    found: dict[str, dict[str, Any]] = {"arc_challenge": {}, "ours": {}}
    for row in read_records(tmp_path / "run"):
        number = int(row["item"].removeprefix("arc_challenge/").removeprefix("r"))
        found[row["task"]][number] = [row[key] for key in ("loglikelihoods", "acc", "acc_norm", "score")]
    for number in range(8):
        mine, theirs = found["ours"][number], found["arc_challenge"][number]
        assert mine[0] == pytest.approx(theirs[0], abs=1e-4)
        assert mine[1:] == theirs[1:]
    assert results["tasks"]["arc_challenge"]["metrics"]["acc"] == results["tasks"]["ours"]["metrics"]["acc"]


def test_worked_examples_and_filters_of_lm_eval(base: Path, tmp_path: Path) -> None:
    rows = [{"question": f"{n} and {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(5)]
    write_rows(tmp_path / "data" / "gsm8k_test.jsonl", rows)
    flexible = "exact_match,flexible-extract"
    task = native("gsm8k", flexible, shots=2, max_new_tokens=4, limit=3)
    with pytest.raises(ModelUnavailable, match=r"shows 2 worked examples, and .* holds none"):
        load_tasks(tiny_suite(tmp_path, tasks=[task]), tmp_path / "data")
    write_rows(tmp_path / "more" / "gsm8k_test.jsonl", rows)
    write_rows(tmp_path / "more" / "gsm8k_train.jsonl", rows[3:])
    suite = tiny_suite(tmp_path, tasks=[task])
    results = harness.evaluate(suite, under_test(base), tmp_path / "run", data_dir=tmp_path / "more")
    figures = results["tasks"]["gsm8k"]
    assert (figures["n"], figures["metric"], sum(figures["finishes"].values())) == (3, flexible, 3)
    assert {flexible, "exact_match,strict-match"} <= set(figures["metrics"])
    for change, message in (({"metric": "acc"}, "has no metric `acc`; it has"), ({"data": "gsm9k"}, "has no task")):
        with pytest.raises(DataError, match=message):
            load_tasks(tiny_suite(tmp_path, tasks=[{**task, **change}]), tmp_path / "more")
