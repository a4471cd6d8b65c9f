"""Programs in an evaluation: refused without permission, asked by the harness, judged in the sandbox, judged again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import tiny_suite, under_test
from paths import ROOT
from training_tiny import make_student

from gra.cli.evaluate import main_run
from gra.core.errors import DataError, RecipeError
from gra.core.run_folder import RunFolder
from gra.evaluation import run as harness
from gra.evaluation.benchmarks.convert import SHAPES
from gra.evaluation.benchmarks.load import benchmarks, resolve_benchmark
from gra.evaluation.results import read_records
from gra.evaluation.suite import load_suite, load_tasks
from gra.evaluation.task import SampleOutput
from gra.experiment import load_experiment
from gra.sandbox.permission import CodeExecutionRefused, Permission

EXERCISES = [
    {"id": "e0", "question": "Add one.", "beginning": "def f(x):\n", "entry_point": "f", "tests": "assert f(1) == 2"},
    {"id": "e1", "question": "Double.", "beginning": "def g(x):\n", "entry_point": "g", "tests": "assert g(2) == 4"},
    {"id": "e2", "question": "Write h.", "beginning": "", "entry_point": None, "tests": "assert h() == 0"},
]
ANSWERS = {
    "e0": "```python\ndef f(x):\n    return x + 1\n```",
    "e1": "```python\nimport os\nos._exit(0)\n```",
    "e2": "I do not know.",
}
PERMISSION = Permission("a test")


def code_suite(folder: Path, rows: list[dict[str, Any]] = EXERCISES, **changes: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exercises.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tiny_suite(folder, tasks=[{"name": "exercises", "kind": "code", "data": "exercises.jsonl", **changes}])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("base"))


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The model says ANSWERS, and what was asked of it is listed."""
    asked: list[list[str]] = []

    def ask(lm: Any, tasks: Any, task: Any, items: list[Any]) -> list[SampleOutput]:
        asked.append([item.id for item in items])
        return [SampleOutput(item.id, item.asked, "hash", ANSWERS[item.id], finish="stop", tokens=9) for item in items]

    monkeypatch.setattr("gra.evaluation.lm_eval.ask", ask)
    monkeypatch.setattr("gra.evaluation.generate.load", lambda *_: object())
    return asked


def test_programs_are_refused_before_anything_is_loaded(base: Path, tmp_path: Path, answering: list[list[str]]) -> None:
    with pytest.raises(CodeExecutionRefused, match="the task `exercises` runs code"):
        harness.evaluate(code_suite(tmp_path), under_test(base), tmp_path / "run")
    assert answering == []
    assert not (tmp_path / "run").exists()


def test_programs_are_judged(base: Path, tmp_path: Path, answering: list[list[str]]) -> None:
    seen: list[tuple[str, int, int]] = []
    results = harness.evaluate(
        code_suite(tmp_path), under_test(base), tmp_path / "run", permission=PERMISSION,
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    rows = {row["item"]: row for row in read_records(tmp_path / "run")}
    assert {item: row["verdict"] for item, row in rows.items()} == {"e0": "passed", "e1": "crashed", "e2": "no_code"}
    assert {item: row["score"] for item, row in rows.items()} == {"e0": 1.0, "e1": 0.0, "e2": 0.0}
    assert "status 0" in rows["e1"]["detail"]
    assert all(row["failed_checks"] is None and row["stopped"] == 1.0 for row in rows.values())
    task = results["tasks"]["exercises"]
    assert (task["metric"], task["n"], task["mean"]) == ("pass", 3, pytest.approx(1 / 3))
    assert task["verdicts"] == {"passed": 1, "failed": 0, "timeout": 0, "memory": 0, "crashed": 1, "no_code": 1}
    manifest = RunFolder(tmp_path / "run").manifest()["evaluation"]
    assert manifest["code_execution"] == results["code_execution"]
    assert manifest["code_execution"]["allowed_by"] == "a test"
    assert ("exercises, judged", 2, 3) in seen


def test_changed_tests_judge_the_recorded_answers_again(base: Path, tmp_path: Path, answering: list[list[str]]) -> None:
    harness.evaluate(code_suite(tmp_path), under_test(base), tmp_path / "run", permission=PERMISSION)
    answering.clear()
    stricter = [EXERCISES[0] | {"tests": "assert f(1) == 3"}, *EXERCISES[1:]]
    again = harness.evaluate(code_suite(tmp_path, stricter), under_test(base), tmp_path / "run", permission=PERMISSION)
    assert answering == []
    assert again["tasks"]["exercises"]["verdicts"]["failed"] == 1


def test_a_real_model_is_asked_through_the_harness(base: Path, tmp_path: Path) -> None:
    results = harness.evaluate(code_suite(tmp_path), under_test(base), tmp_path / "run", permission=PERMISSION)
    assert sum(results["tasks"]["exercises"]["verdicts"].values()) == 3
    assert results["tasks"]["exercises"]["mean"] == 0


def test_how_a_program_is_asked_for(tmp_path: Path) -> None:
    [asked] = load_tasks(code_suite(tmp_path / "a"))
    text = {item.id: item.text for item in asked.samples}
    assert text["e0"].startswith("Add one.\n\n```python\ndef f(x):\n```\n\nAnswer with the complete code")
    assert text["e2"].startswith("Write h.\n\nAnswer with the complete code")
    assert asked.chat
    [going_on] = load_tasks(code_suite(tmp_path / "b", EXERCISES[:2], prompt="continue"))
    assert {item.id: item.text for item in going_on.samples} == {"e0": "def f(x):\n", "e1": "def g(x):\n"}
    assert not going_on.chat
    assert going_on.asked() != asked.asked()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": " "}, "`tests` must be Python code"),
        ({"tests": 3}, "`tests` must be a text"),
        ({"tests": "assert f(1 == 2"}, "`tests` is not Python"),
        ({"beginning": "def f(x"}, "`beginning` is not Python"),
        ({"entry_point": "f("}, "`entry_point` must be the name of a function or null"),
        ({"question": ""}, "`question` must be a text that is not empty"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"exercises\.jsonl:2: ") as caught:
        load_tasks(code_suite(tmp_path, [EXERCISES[0], EXERCISES[1] | change]))
    assert message in str(caught.value)


def test_going_on_needs_a_beginning(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"jsonl:3: `beginning`.*prompt: continue"):
        load_tasks(code_suite(tmp_path, prompt="continue"))


# ---- command line and experiments ---------------------------------------------------------------------------


def test_the_command_line_refuses_without_the_flag(base: Path, tmp_path: Path, capsys: Any) -> None:
    code_suite(tmp_path)
    arguments = [str(tmp_path / "suite.yaml"), "--model", str(base), "--chat-template", "builtin:plain", "--dry-run"]
    with pytest.raises(SystemExit) as refused:
        main_run(arguments)
    assert refused.value.code == 2
    assert "pass --allow-code-execution" in capsys.readouterr().err
    main_run([*arguments, "--allow-code-execution"])
    assert "nothing was spent" in capsys.readouterr().err


def test_an_experiment_needs_its_own_word(tmp_path: Path) -> None:
    code_suite(tmp_path)
    recipe = {
        "name": "x", "arms": {"v": str(ROOT / "recipes/smoke/vanilla.yaml")}, "baseline": "v",
        "student": str(ROOT / "recipes/gemma-3-270m/sft/config_lora.yaml"), "suite": str(tmp_path / "suite.yaml"),
    }  # fmt: skip
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises(CodeExecutionRefused, match="`allow_code_execution: true`"):
        load_experiment(path, [], tmp_path)
    assert load_experiment(path, ["allow_code_execution=true"], tmp_path).recipe.allow_code_execution


def test_a_suite_cannot_allow_it_itself(tmp_path: Path) -> None:
    code_suite(tmp_path)
    with pytest.raises(RecipeError, match="allow_code_execution"):
        load_suite(tmp_path / "suite.yaml", ["allow_code_execution=true"])


# ---- data ---------------------------------------------------------------------------------------------------


def test_humaneval_rows() -> None:
    row = {
        "task_id": "HumanEval/9", "prompt": "def f(x):\n", "canonical_solution": "    return x\n",
        "entry_point": "f", "test": "\n\ndef check(candidate):\n    assert candidate(1) == 1\n",
    }  # fmt: skip
    item = SHAPES["humaneval"](row)
    assert item["id"] == "HumanEval/9"
    assert item["tests"].endswith("== 1\n\ncheck(f)\n")
    assert item["solution"] == "def f(x):\n    return x\n"


def test_mbpp_rows_of_both_kinds() -> None:
    full = {"task_id": 7, "text": "Add.", "code": "def g(x):\r\n  return x\r\ndef add (a, b):\r\n  return g(a) + b",
            "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "a = 1", "challenge_test_list": []}  # fmt: skip
    item = SHAPES["mbpp"](full)
    assert (item["id"], item["entry_point"]) == ("MBPP/7", "add")
    assert item["tests"] == "a = 1\nassert add(1, 2) == 3\n"
    assert "\r" not in item["solution"]
    assert "assert add(1, 2) == 3" in item["question"]
    sanitized = {"task_id": 7, "prompt": "Add.", "code": full["code"], "test_list": full["test_list"],
                 "test_imports": ["import math"]}  # fmt: skip
    assert SHAPES["mbpp"](sanitized)["tests"] == "import math\nassert add(1, 2) == 3\n"


@pytest.mark.parametrize(("name", "items"), [("humaneval", 164), ("mbpp", 500), ("mbpp_sanitized", 427)])
def test_the_shared_files_give_the_pinned_bytes(shared_data: Path, name: str, items: int) -> None:
    [pinned] = [b for b in benchmarks() if b.name == name]
    found = resolve_benchmark(name, data_dir=shared_data / "bench")
    assert (found.items, found.digest) == (items, pinned.sha256)


def test_the_shipped_suite(shared_data: Path) -> None:
    tasks = load_tasks(load_suite(ROOT / "eval/suites/code.yaml"), shared_data / "bench")
    assert {task.name: len(task.samples) for task in tasks} == {"humaneval": 164, "mbpp": 500}
    assert all(task.chat and task.metric == "pass" for task in tasks)
