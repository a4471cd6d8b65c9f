"""A whole evaluation through lm-eval on a tiny model: records, re-use, re-scoring, resuming, and bad input."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import INSTRUCTIONS, QUESTIONS, tiny_suite, under_test, write_suite
from paths import ROOT
from training_tiny import make_student

from gra.cli.evaluate import main_run
from gra.core.errors import DataError
from gra.core.run_folder import RunFolder
from gra.evaluation import generate as asking
from gra.evaluation import run as harness
from gra.evaluation.results import OutputStore, read_records
from gra.evaluation.task import Sample


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return make_student(tmp_path_factory.mktemp("base"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many items were put to a model, by task; a second kind of entry counts loads."""
    from gra.evaluation import lm_eval as lm

    counts: Counter[str] = Counter()
    ask, load = lm.ask, asking.load

    def counting_ask(network: Any, tasks: Any, task: Any, items: list[Sample]) -> Any:
        counts[task.name] += len(items)
        return ask(network, tasks, task, items)

    def counting_load(*arguments: Any) -> Any:
        counts["loads"] += 1
        return load(*arguments)

    monkeypatch.setattr(lm, "ask", counting_ask)
    monkeypatch.setattr(asking, "load", counting_load)
    return counts


def test_one_evaluation(base: Path, tmp_path: Path, asked: Counter[str]) -> None:
    seen: list[tuple[str, int, int]] = []
    suite = tiny_suite(tmp_path)
    run = tmp_path / "run"
    results = harness.evaluate(suite, under_test(base), run, progress=lambda *step: seen.append(step))
    rows = read_records(run)
    assert [row["item"] for row in rows if row["task"] == "instructions"] == sorted(
        (row["id"] for row in INSTRUCTIONS), key=lambda item: (-len(INSTRUCTIONS[int(item[1:])]["instruction"]), item)
    )
    for row in rows[: len(INSTRUCTIONS)]:
        assert row["finish"] in ("stop", "length")
        assert row["tokens"] == 6 or row["finish"] == "stop"
        assert row["score"] == row["pass"] == float(row["failed_checks"] == [])
    for row in rows[len(INSTRUCTIONS) :]:
        ours = max(range(3), key=lambda choice: row["loglikelihoods"][choice])
        assert row["acc"] == float(ours == QUESTIONS[int(row["item"][1:])]["answer"])
        assert row["score"] == row["acc_norm"]
        assert row["output"] is row["finish"] is row["stopped"] is None
    task = results["tasks"]["instructions"]
    assert task["n"] == 40
    assert task["mean"] == pytest.approx(sum(row["pass"] for row in rows[:40]) / 40)
    assert task["low"] <= task["mean"] <= task["high"]
    assert set(task["categories"]) == {"a", "b"}
    assert json.loads((run / "results.json").read_text()) == results
    assert RunFolder(run).verify() == 2
    assert seen[0] == ("instructions", 0, 40)
    assert seen[-1] == ("sums", 6, 6)
    assert asked == {"instructions": 40, "sums": 6, "loads": 1}


def test_prompts_go_through_the_template_and_likelihood_does_not(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gra.evaluation.hf_backend import HFModel

    prompts: list[tuple[bool, str]] = []
    encode = HFModel.encode
    monkeypatch.setattr(HFModel, "encode", lambda self, text: prompts.append((self.chat, text)) or encode(self, text))
    harness.evaluate(tiny_suite(tmp_path), under_test(base), tmp_path / "run")
    chat = {text for through_template, text in prompts if through_template}
    plain = {text for through_template, text in prompts if not through_template}
    assert "<bos>### Instruction:\nSay a word of 1 letters.\n\n### Response:\n" in chat
    assert "Question: What is 2 plus 2?\nAnswer:" in plain
    assert "Question: What is 2 plus 2?\nAnswer: a fish" in plain
    assert len(chat) == 7


def test_what_is_done_is_not_done_again(base: Path, tmp_path: Path, asked: Counter[str]) -> None:
    first = harness.evaluate(tiny_suite(tmp_path), under_test(base), tmp_path / "run")
    asked.clear()
    assert harness.evaluate(tiny_suite(tmp_path), under_test(base), tmp_path / "run") == first
    assert asked == {}
    (tmp_path / "run" / "records.parquet").write_bytes(b"harmed")
    again = harness.evaluate(tiny_suite(tmp_path), under_test(base), tmp_path / "run")
    assert asked == {}, "scores are made again from the recorded answers"
    assert again["tasks"] == first["tasks"]


def test_changed_checks_score_the_recorded_answers_again(base: Path, tmp_path: Path, asked: Counter[str]) -> None:
    first = harness.evaluate(tiny_suite(tmp_path), under_test(base), tmp_path / "run")
    asked.clear()
    impossible = [{**row, "checks": [{"kind": "words_at_least", "n": 1000}]} for row in INSTRUCTIONS]
    again = harness.evaluate(tiny_suite(tmp_path, instructions=impossible), under_test(base), tmp_path / "run")
    assert asked == {}
    assert again["tasks"]["instructions"]["mean"] == 0.0
    assert again["fingerprint"] != first["fingerprint"]
    assert again["suite"]["digest"] != first["suite"]["digest"]
    assert read_records(tmp_path / "run")[0]["failed_checks"] == ["words_at_least"]


def test_only_what_is_new_is_asked(base: Path, tmp_path: Path, asked: Counter[str]) -> None:
    suite = tiny_suite(tmp_path)
    half = suite.model_copy(update={"tasks": suite.tasks[1:]})
    harness.evaluate(half, under_test(base), tmp_path / "run")
    harness.evaluate(suite, under_test(base), tmp_path / "run")
    assert asked == {"sums": 6, "instructions": 40, "loads": 2}


@pytest.mark.parametrize(
    "change",
    [{"identity": "sha256:other"}, {"chat_template": "{}"}, {"adapter": True}, {"max_new_tokens": 5}],
    ids=lambda change: next(iter(change)),
)
def test_no_model_is_served_another_ones_answers(
    base: Path, tmp_path: Path, asked: Counter[str], change: dict[str, Any]
) -> None:
    suite, model = tiny_suite(tmp_path), under_test(base)
    harness.evaluate(suite, model, tmp_path / "run")
    asked.clear()
    if "chat_template" in change:
        (tmp_path / "other.jinja").write_text("{{ messages[0]['content'] }} =>")
        model = under_test(base, chat_template=str(tmp_path / "other.jinja"))
    elif "adapter" in change:
        model = under_test(base, make_student(tmp_path / "tuned"))
    elif "max_new_tokens" in change:
        suite = tiny_suite(tmp_path, generation=change)
    else:
        model = under_test(base, **change)
    harness.evaluate(suite, model, tmp_path / "run")
    assert asked["instructions"] == 40
    # The template and the limit are no part of a likelihood question, so those answers stay.
    assert asked["sums"] == (0 if {"chat_template", "max_new_tokens"} & set(change) else 6)


def test_a_killed_run_goes_on_from_its_last_batch(
    base: Path, tmp_path: Path, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tiny_suite(tmp_path)
    whole = harness.evaluate(suite, under_test(base), tmp_path / "whole")
    asked.clear()
    with monkeypatch.context() as dying:
        save, saved = OutputStore.save, []

        def save_three_then_die(store: OutputStore, answers: Any) -> None:
            if len(saved) == 3:
                raise KeyboardInterrupt
            saved.append(answers)
            save(store, answers)

        dying.setattr(OutputStore, "save", save_three_then_die)
        with pytest.raises(KeyboardInterrupt):
            harness.evaluate(suite, under_test(base), tmp_path / "run")
    assert not (tmp_path / "run" / "records.parquet").exists()
    asked.clear()
    resumed = harness.evaluate(suite, under_test(base), tmp_path / "run")
    assert asked == {"instructions": 16, "sums": 6, "loads": 1}, "24 of 40 were recorded, in batches of 8"
    assert resumed["tasks"] == whole["tasks"]
    assert read_records(tmp_path / "run") == read_records(tmp_path / "whole")


def test_several_models_in_one_process(base: Path, tmp_path: Path) -> None:
    from transformers.utils import logging

    suite = tiny_suite(tmp_path)
    other = make_student(tmp_path / "other")
    shown = logging.is_progress_bar_enabled()
    runs = [
        harness.evaluate(suite, under_test(path, name=path.name), tmp_path / f"run-{path.name}")
        for path in (base, other)
    ]
    assert [run["model"]["name"] for run in runs] == [base.name, "other"]
    assert runs[0]["tasks"] == runs[1]["tasks"], "the same weights give the same answers"
    assert logging.is_progress_bar_enabled() == shown


def test_a_benchmark_of_the_catalog_is_read_from_the_data_folder(base: Path, tmp_path: Path, shared_data: Path) -> None:
    tasks = [
        {"name": "arc", "kind": "likelihood", "data": "catalog:arc_challenge", "limit": 3},
        {"name": "hellaswag", "kind": "likelihood", "data": "catalog:hellaswag", "limit": 2, "prompt": "continue"},
    ]
    suite = tiny_suite(tmp_path, tasks=tasks)
    results = harness.evaluate(suite, under_test(base), tmp_path / "run", data_dir=shared_data / "bench")
    assert {name: task["n"] for name, task in results["tasks"].items()} == {"arc": 3, "hellaswag": 2}
    assert all(len(row["loglikelihoods"]) >= 3 for row in read_records(tmp_path / "run"))


def test_a_limit_is_a_beginning(base: Path, tmp_path: Path, asked: Counter[str]) -> None:
    suite = tiny_suite(tmp_path)
    few = suite.model_copy(update={"tasks": [t.model_copy(update={"limit": 5}) for t in suite.tasks]})
    harness.evaluate(few, under_test(base), tmp_path / "run")
    harness.evaluate(suite, under_test(base), tmp_path / "run")
    assert asked == {"instructions": 40, "sums": 6, "loads": 2}, "the five were not asked again"


def test_score_only_never_asks(base: Path, tmp_path: Path, asked: Counter[str]) -> None:
    suite = tiny_suite(tmp_path)
    with pytest.raises(DataError, match=r"lacks answers.* instructions 40 of 40, sums 6 of 6"):
        harness.evaluate(suite, under_test(base), tmp_path / "run", score_only=True)
    first = harness.evaluate(suite, under_test(base), tmp_path / "run")
    asked.clear()
    (tmp_path / "run" / "records.parquet").unlink()
    again = harness.evaluate(suite, under_test(base), tmp_path / "run", score_only=True)
    assert again["tasks"] == first["tasks"]
    assert asked == {}


# The command line


def run_cli(*arguments: object) -> int:
    try:
        main_run([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = write_suite(tmp_path)
    arguments = (suite, "--model", base, "--chat-template", "builtin:plain", "--output", tmp_path / "run", "--json")
    assert run_cli(*arguments, "--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tasks"] == {"instructions": 40, "sums": 6}
    assert not (tmp_path / "run").exists()
    assert run_cli(*arguments, "--limit", 4, "--name", "mine") == 0
    shown = capsys.readouterr()
    results = json.loads(shown.out)
    assert results["model"]["name"] == "mine"
    assert results["tasks"]["instructions"]["n"] == results["tasks"]["sums"]["n"] == 4
    assert "instructions 4/4" in shown.err


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"suite": "smok.yaml"}, 2, "there is no such recipe file"),
        ({"--model": "smollm3-135m-instruct"}, 2, "did you mean `smollm2-135m-instruct`"),
        ({"--chat-template": None}, 2, "has no chat template of its own"),
        ({"--chat-template": "gone.jinja"}, 2, "`gone.jinja` cannot be read"),
        ({"--name": "../../x", "--output": None}, 2, "`--name ../../x` must be a folder's name"),
        ({"--limit": "3", "batch_size=abc": ""}, 2, "`batch_size` must be a whole number"),
        ({"--device": "cuda"}, 4, "PyTorch sees no GPU; use `--device cpu`"),
        ({"--adapter": "nowhere"}, 2, "holds neither an adapter"),
        ({"--adapter": "."}, 2, "holds neither an adapter"),
        ({"--limit": "0"}, 2, "should be greater than or equal to 1"),
        ({"--data-folder": "x"}, 2, "No such option: --data-folder"),
    ],
)
def test_mistakes_on_the_command_line(
    base: Path, tmp_path: Path, capsys, monkeypatch, change: dict[str, str | None], code: int, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    options = {"suite": write_suite(tmp_path), "--model": base, "--chat-template": "builtin:plain"}
    suite = (options := options | {"--output": tmp_path / "run", **change}).pop("suite")
    flat = [part for key, value in options.items() if value is not None for part in (key, value) if part != ""]
    assert run_cli(suite, *flat, "--dry-run") == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_control_c_is_a_resumable_stop(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gra.evaluation.lm_eval.ask", interrupt)
    arguments = (write_suite(tmp_path), "--model", base, "--chat-template", "builtin:plain", "--output", tmp_path / "r")
    assert run_cli(*arguments) == 130
    assert "run the same command again" in capsys.readouterr().err


# Rules about the code


def test_one_module_imports_lm_eval() -> None:
    importers = set()
    for file in (ROOT / "gra").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "lm_eval" for name in names):
                importers.add(file.relative_to(ROOT).as_posix())
    assert importers == {"gra/evaluation/lm_eval.py"}


def test_the_eval_folder_holds_entry_points_only() -> None:
    files = {file.name: file for file in (ROOT / "eval").rglob("*.py")}
    assert set(files) == {"run.py", "compare.py"}
    assert all(len(file.read_text().splitlines()) <= 30 for file in files.values())
