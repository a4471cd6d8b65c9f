"""A teacher and a student in rounds: acceptance of lines, the store, whole runs on scripted models, and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from mock_engines import MockRegistry
from paths import ROOT
from scripted_run import WordEmbedder, fake_resolve, said
from training_tiny import make_student, write_recipe, write_rows
from typer.testing import CliRunner

from gra.cli.main import app
from gra.core.errors import DataError, GraError, RecipeError
from gra.core.progress import View
from gra.core.types import Seed
from gra.engines.types import Call, Completion, Fault, Likelihood
from gra.experiment.students import TrainingProcess
from gra.experiment.symbiosis import run as symbiosis_run
from gra.experiment.symbiosis.evaluate import BOTH, CONTROL, LINES, NO_STORE, PAIR, PLAIN, PROMPTED, compare_scores
from gra.experiment.symbiosis.explore import plain_rows
from gra.experiment.symbiosis.plan import load_symbiosis
from gra.experiment.symbiosis.problems import (
    WordProblem,
    is_solved,
    known_number,
    next_line,
    plain_line,
    question_key,
    read_problems,
    split_lines,
)
from gra.experiment.symbiosis.run import RESULT, run_symbiosis
from gra.experiment.symbiosis.store import SolutionStore, StoredSolution, nearest, read_store
from gra.experiment.symbiosis.walk import LineSource, label_line
from gra.training.options.trl_config import check_arguments

RECIPE = ROOT / "recipes" / "systems" / "symbiosis.yaml"
WORDS: Any = WordEmbedder()


# --- acceptance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proposal", "choices", "nats", "tolerance", "text", "source"),
    [
        ("3 * 4 = 12", ["2+2=4", "3*4 = 12."], {}, None, "3 * 4 = 12", LineSource.EQUAL),
        ("12,00 is 1,200.0", ["12,00 is 1200"], {}, 0.5, "12,00 is 1,200.0", LineSource.EQUAL),
        ("b", ["a", "a"], {"a": -1.0, "b": -1.5}, 0.5, "b", LineSource.LIKELY),
        ("b", ["a", "a"], {"a": -1.0, "b": -1.51}, 0.5, "a", LineSource.REPLACED),
        ("b", ["a", "a"], {"a": -1.0, "b": -1.0}, None, "a", LineSource.REPLACED),
        ("b", ["a"], {"a": -1.0, "b": float("nan")}, 0.5, "a", LineSource.REPLACED),
        ("b", ["x", "a", "a "], {"x": 0.0, "a": 0.0, "b": -9.0}, 0.5, "a", LineSource.REPLACED),
        (None, ["a"], {}, 0.5, "a", LineSource.NO_PROPOSAL),
    ],
)
def test_line_is_accepted_if_the_teacher_would_write_it_or_finds_it_as_likely(
    proposal: str | None,
    choices: list[str],
    nats: Mapping[str, float],
    tolerance: float | None,
    text: str,
    source: LineSource,
) -> None:
    asked: list[str] = []

    async def likely(line: str) -> float:
        asked.append(line)
        return nats[line]

    label = asyncio.run(label_line(proposal, choices, likely, tolerance))
    assert label is not None
    assert (label.text, label.source, label.proposal) == (text, source, proposal)
    assert bool(asked) == (tolerance is not None and source in (LineSource.LIKELY, LineSource.REPLACED))
    assert asyncio.run(label_line(proposal, [], likely, tolerance)) is None


@pytest.mark.parametrize(
    ("text", "ended", "line"),
    [
        ("6 * 2 = 12\n12 - 1 = 11", True, "6 * 2 = 12"),
        ("6 * 2 = 12\n12 -", False, "6 * 2 = 12"),
        ("6 * 2 =", False, None),
        ("", True, None),
        ("11", True, "Answer: 11"),
        ("-1,100.5.", True, "Answer: -1,100.5"),
        ("11 nuts", True, "11 nuts"),
        ("12\n12 - 1 = 11\nAnswer: 11", True, "12"),
        ("1.\n6 * 2 = 12", True, "1."),
        ("11\nAns", False, "11"),
    ],
)
def test_first_whole_line_is_the_next_one(text: str, ended: bool, line: str | None) -> None:
    assert next_line(text, ended=ended) == line


def test_numbers_and_spaces_do_not_make_lines_differ() -> None:
    assert plain_line("1,200.50 + 3.0  = 1203.5.") == plain_line("1200.5+3=1203.50")
    assert plain_line("12 + 3") != plain_line("1 + 23")
    assert question_key("How  many are 1,000?") == question_key("how many are 1000?")


@pytest.mark.parametrize(
    ("text", "ended", "lines"),
    [
        ("2 + 2 = 4\n\nAnswer: 4\nI hope this helps", True, ("2 + 2 = 4", "Answer: 4")),
        ("2 + 2 = 4", True, ("2 + 2 = 4", "Answer: 4")),
        ("2 + 2 = 4\nAnswer: 4\nand mo", False, ("2 + 2 = 4", "Answer: 4")),
        ("2 + 2 = 4\nAnswer: 4", False, ()),  # the number may have been cut off
        ("", True, ()),
    ],
)
def test_solution_ends_at_its_answer(text: str, ended: bool, lines: tuple[str, ...]) -> None:
    assert split_lines(text, ended=ended) == lines
    assert is_solved(WordProblem("p", "?", "4"), lines) == bool(lines)


def test_only_responses_that_end_in_a_number_are_problems() -> None:
    known = {
        "so 1,200\n#### 1,200": "1200",
        "Answer: 3/4": "3/4",
        "It is 5 - 3 = 2": "2",
        "blue": None,
        "a\\frac": None,
    }
    assert {text: known_number(text) for text in known} == known
    seeds = [Seed(str(n), "math", "?", text) for n, text in enumerate(known)]
    assert [problem.answer for problem in read_problems(seeds, "problems")[0]] == ["1200", "3/4", "2"]
    assert read_problems(seeds, "problems")[1] == 2


# --- the store ------------------------------------------------------------------------------------------------------


def test_store_refuses_a_held_out_problem_and_shows_none_to_itself() -> None:
    store = SolutionStore([WordProblem("h1", "How many are 1,000 owls?", "1")])
    with pytest.raises(DataError, match="the store holds the held-out problem `h1`; remove it"):
        store.add(StoredSolution("how many are  1000 owls?", "Answer: 1"))
    for text in ("two owls", "two bees", "nine owls"):
        store.add(StoredSolution(text, "by student", "student", 1))
    store.add(StoredSolution("two owls", "by teacher", "teacher", 2))
    store.add(StoredSolution("two owls", "by teacher", "teacher", 2))
    assert store.counts() == {"questions": 3, "solutions": 4, "student_alone": 2}
    found = asyncio.run(nearest(store, ["Two  owls", "nine bees"], 2, WORDS))
    assert {entry.question for entry in found["Two  owls"]} == {"two bees", "nine owls"}
    assert all(len(entries) == 2 for entries in found.values())
    assert store.shown()[question_key("two owls")].solution == "by teacher"
    assert asyncio.run(nearest(store, ["x"], 0, None)) == {"x": ()}


def test_nearest_solved_problem_comes_last() -> None:
    store = SolutionStore([], [StoredSolution(text, "s") for text in ("a b c", "a x y", "q r s", "a b z")])
    found = asyncio.run(nearest(store, ["a b c d"], 3, WORDS))
    assert [entry.question for entry in found["a b c d"]] == ["a x y", "a b z", "a b c"]


def test_plain_rows_are_as_many_as_asked_for_and_take_turns() -> None:
    problems = [WordProblem(name, name, "1") for name in "pq"]
    known = (("p", "x\nAnswer: 1", "teacher"), ("p", "y", "teacher"), ("q", "z", "teacher"), ("q", "no", "student"))
    store = SolutionStore([], [StoredSolution(*each, round=1) for each in known])  # type: ignore[arg-type]
    completions = [row["completion"][0]["content"] for row in plain_rows(problems, store, 6)]
    assert completions == ["x", "Answer: 1", "z", "y", "x", "Answer: 1"]
    assert plain_rows(problems, SolutionStore([]), 3) == []


# --- comparison -----------------------------------------------------------------------------------------------------


def test_difference_is_less_certain_where_training_seeds_differ() -> None:
    def width(lines: list[list[float]]) -> float:
        scores = {PROMPTED: [[0.0] * 12], NO_STORE: [[0.0] * 12], PLAIN: [[0.0, 1.0] * 6] * 3, LINES: lines}
        found = compare_scores(scores)
        assert found["solved"][LINES]["value"] == found["scores"][LINES][0] == 2 / 3
        difference = found["differences"][1]
        assert (difference["ours"], difference["reference"]) == (LINES, PLAIN)
        return float(difference["high"] - difference["low"])

    alike = [[float((place + n) % 3 > 0) for place in range(12)] for n in range(3)]
    differ = [[1.0] * 12, [1.0] * 12, [0.0] * 12]
    assert width(differ) > 2 * width(alike)


# --- whole runs on scripted models ----------------------------------------------------------------------------------


def solve(question: str) -> list[str]:
    """Return the right lines: kind `Add` has one step, kind `Double` has two."""
    x, y = map(int, re.findall(r"\d+", question))
    if question.startswith("Double"):
        return [f"{x} * 2 = {2 * x}", f"{2 * x} + {y} = {2 * x + y}", f"Answer: {2 * x + y}"]
    return [f"{x} + {y} = {x + y}", f"Answer: {x + y}"]


def kind_of(question: str) -> str:
    return question.split()[0]


class World:
    """Script a teacher that knows `Add` and needs an example for `Double`, and a student that knows `Double` alone.

    A trained student knows the kinds that its rows hold.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.trained: dict[str, set[str]] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def answer(self, call: Call) -> Completion:
        self.calls.append(call)
        prompt = call.messages[-1][1]
        questions = re.findall(r"^Problem: (.*)$", prompt, re.MULTILINE)
        shown, question = {kind_of(text) for text in questions[:-1]}, questions[-1]
        if call.member == "teacher":
            knows = kind_of(question) == "Add" or kind_of(question) in shown
        else:
            knows = kind_of(question) in self.trained.get(call.model.adapter, {"Double"})
        right = solve(question)
        lines = right if knows else [*right[:-1], f"Answer: {re.findall('[0-9]+', right[-1])[0]}1"]
        if isinstance(call.output, Likelihood):
            return said("", logprob=-1.0 if call.output.answer in lines else -50.0, tokens=5.0)
        if prompt.startswith("Solve"):
            return said("\n".join(lines))
        if prompt.startswith("Task: rationale"):
            return said("It follows.")
        so_far = prompt.rpartition("Solution:")[2].strip()
        place = len(so_far.splitlines())
        return said("\n".join(lines[min(place, len(lines) - 1) :]))

    def train(self, recipe: Path, output: Path, changes: Mapping[str, Any], key: str) -> None:
        rows = []
        for source in changes["data.train"]:
            rows += [json.loads(line) for line in Path(source["path"]).read_text().splitlines()]
        self.rows[key] = rows
        prompts = [row["prompt"][0]["content"] for row in rows]
        self.trained[str(output)] = {kind_of(re.findall(r"Problem: (.*)", text)[-1]) for text in prompts}


def write(folder: Path, **changes: Any) -> Path:
    """Write an experiment on twelve problems of each kind, half of them held out."""
    for part, first in (("problems", 2), ("held_out", 40)):
        questions = [f"{kind} {first + n} {word} {n + 3}." for n in range(6)
                     for kind, word in (("Add", "and"), ("Double", "then add"))]  # fmt: skip
        rows = [{"id": f"{part}-{n}", "domain": "math", "instruction": q, "response": "\n".join(solve(q))}
                for n, q in enumerate(questions)]  # fmt: skip
        write_rows(folder / f"{part}.jsonl", rows)
    training = write_recipe(folder, "model-small", folder / "none.jsonl", model={"chat_template": None})
    recipe: dict[str, Any] = {
        "name": "pair",
        "problems": {"source": str(folder / "problems.jsonl")},
        "held_out": {"source": str(folder / "held_out.jsonl")},
        "teacher": "model-large",
        "student": "model-small",
        "training": str(training),
        "rounds": 2,
        "draws": 1,
        "choices": 2,
    }
    file = folder / "pair.yaml"
    file.write_text(yaml.safe_dump({**recipe, **changes}), encoding="utf-8")
    return file


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    def find(recipes: Sequence[Any], view: View) -> MockRegistry:
        members = recipes[0].committee.models.values()
        registry = MockRegistry(recipes[0].engine, {member.model: fake_resolve(member.model) for member in members})
        registry.script, registry.delay_s = made.answer, 0.0  # type: ignore[method-assign]
        return registry

    monkeypatch.setattr(symbiosis_run, "find_models", find)
    monkeypatch.setattr(symbiosis_run, "resolve", fake_resolve)
    monkeypatch.setattr(symbiosis_run, "TrainingProcess", lambda view: contextlib.nullcontext(made))
    monkeypatch.setattr(symbiosis_run, "check_arguments", lambda loaded: None)  # it loads TRL
    monkeypatch.setattr(symbiosis_run, "Embedder", WordEmbedder)
    return made


def test_two_that_know_different_parts_solve_more_together_than_each_alone(world: World, tmp_path: Path) -> None:
    plan = load_symbiosis(write(tmp_path), [], tmp_path / "runs")
    found = run_symbiosis(plan).found
    solved = {name: each["value"] for name, each in found["solved"].items()}
    assert solved[PROMPTED] == solved[NO_STORE] == solved[CONTROL] == solved[PLAIN] == 0.5
    assert solved[BOTH] == solved[LINES] == solved[PAIR] == 1.0
    low = {(each["ours"], each["reference"]): each["low"] for each in found["differences"]}
    assert low[BOTH, CONTROL] > 0
    assert low[LINES, PLAIN] > 0
    assert low[PAIR, PROMPTED] > 0  # the synergy
    first, second = found["rounds"]
    assert first["right_draws"] == {"teacher": 6, "student": 6, "control": 12}
    assert second["right_draws"] == {"teacher": 12, "student": 12, "control": 12}  # both have learned from the other
    assert (first["store"]["student_alone"], second["store"]["student_alone"]) == (6, 0)
    assert first["control_store"]["questions"] == second["control_store"]["questions"] == 6
    assert first["walks"]["right"] == 12
    assert first["walks"]["steps"]["replaced"] == 6
    assert second["walks"]["steps"]["replaced"] == 0

    # Every row is one of labeled lines; no prompt and no store shows a held-out problem to another one.
    held = {problem.question for problem in plan.held_out}
    rows = world.rows["rationales-round2-seed0"]
    assert {row["id"].split("-")[0] for row in rows} == {"line", "rationale"}
    assert len(world.rows["plain-round2-seed0"]) == len(world.rows["lines-round2-seed0"]) == 30
    made = json.loads((plan.folder / "rounds" / "2.json").read_text())
    assert not held & {entry["question"] for entry in [*made["store"], *made["control"]]}
    for call in world.calls:
        *shown, question = re.findall(r"^Problem: (.*)$", call.messages[-1][1], re.MULTILINE)
        assert question not in shown
        assert not held & set(shown)

    # Another start asks nothing anew.
    before = len(world.calls)
    assert run_symbiosis(plan).found == found
    assert len(world.calls) == before
    assert json.loads((plan.folder / RESULT).read_text())["scores"] == found["scores"]
    assert CliRunner().invoke(app, ["verify", str(plan.folder.path)]).exit_code == 0


def test_solution_with_a_token_of_chat_templates_is_neither_stored_nor_trained_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = world.answer

    def marked(call: Call) -> Completion:
        reply = plain(call)
        return said(f"</s> {reply.text}") if call.messages[-1][1].startswith("Solve") else reply

    monkeypatch.setattr(world, "answer", marked)
    plan = load_symbiosis(write(tmp_path), ["rounds=1"], tmp_path / "runs")
    found = run_symbiosis(plan).found
    assert found["rounds"][0]["right_draws"]["control"] == 12
    assert found["rounds"][0]["control_store"]["solutions"] == 0
    assert PLAIN not in found["solved"]
    assert {"lines-round1-seed0", "rationales-round1-seed0"} == world.rows.keys()


@pytest.mark.parametrize(
    ("reply", "sentence", "code"),
    [
        (said("I do not know."), r"round 1: no walk of 12 ended in the right answer.*take easier", 6),
        (said("```\n3 + 4 = 7", "length"), r"round 1: no walk of 12 ended in the right answer", 6),
        (Fault("error", "gone"), r"no answer for 12 problems, the last because of.*gone.*run the same command", 4),
    ],
)
def test_round_without_rows_is_one_sentence_and_goes_on_later(
    reply: Completion | Fault, sentence: str, code: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, tolerance=None, engine={"max_attempts": 1})
    with monkeypatch.context() as change:
        change.setattr(world, "answer", lambda call: reply)
        with pytest.raises(GraError, match=sentence) as end:
            run_symbiosis(load_symbiosis(file, ["rounds=1"], tmp_path / "a"))
    assert end.value.exit_code == code
    if code == 4:
        assert run_symbiosis(load_symbiosis(file, ["rounds=1"], tmp_path / "a")).found["solved"][BOTH]["value"] == 1


@pytest.mark.slow
def test_real_student_is_trained_on_lines_and_rationales(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = make_student(tmp_path / "small")
    settings = json.loads((student / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    (student / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    monkeypatch.setattr(symbiosis_run, "TrainingProcess", TrainingProcess)
    monkeypatch.setattr(symbiosis_run, "check_arguments", check_arguments)
    file = write(tmp_path, student=str(student), rounds=1, rationale_weight=0.5, train={"max_steps": 1},
                 tracking={"wandb": "off"})  # fmt: skip
    plan = load_symbiosis(file, [], tmp_path / "runs")
    run_symbiosis(plan)
    read = {}
    for variant in ("plain", "lines", "rationales"):
        folder = plan.folder / "models" / f"{variant}-round1-seed0"
        assert (folder / "adapter_config.json").is_file()
        read[variant] = json.loads((folder / "metrics.json").read_text())["rows"]
    assert read["plain"]["train"]["rows"] == read["lines"]["train"]["rows"] == 30
    assert read["rationales"]["train"]["rows"] == 45  # each rationale counts half


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rounds": 0}, "`rounds`.*1"),
        ({"teacher": "model-small"}, r"`teacher` and `student` are the same model \(model-small\).*name a larger one"),
        ({"student": {"model": "model-small", "adapter": "a"}}, "`student.adapter` cannot be used"),
        ({"student": {"model": "model-small", "system": "Be short."}}, "`student.system` cannot be used"),
        ({"engine": {"weights": "int8"}}, "`engine.weights` cannot be used"),
        ({"engine": {"kind": "openai", "base_url": "http://localhost:1/v1"}}, "`student` runs behind a server"),
        ({"train": {"seed": 1}}, r"write `training_seeds"),
        ({"training_seeds": [1, 1]}, "has 1 twice"),
    ],
)  # fmt: skip
def test_recipe_that_cannot_work_is_one_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=sentence):
        load_symbiosis(write(tmp_path, **changes), [], tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora": None}, "its training needs `method: sft` and a `lora` section"),
        ({"model": {"chat_template": "builtin:plain"}}, "asked without `model.chat_template`"),
        ({"model": {"chat_template": None, "revision": "main"}}, "asked without `model.revision`"),
    ],
)
def test_training_that_does_not_fit_is_one_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    file = write(tmp_path)
    write_recipe(tmp_path, "model-small", tmp_path / "none.jsonl", **changes)
    with pytest.raises(RecipeError, match=sentence):
        load_symbiosis(file, [], tmp_path)


def test_problems_that_cannot_serve_are_found_before_anything_is_spent(tmp_path: Path) -> None:
    file, held = write(tmp_path), tmp_path / "held_out.jsonl"
    rows = [json.loads(line) for line in held.read_text().splitlines()]
    store = write_rows(tmp_path / "store.jsonl", [{"question": rows[1]["instruction"], "solution": "Answer: 1"}])
    with pytest.raises(DataError, match="the store holds the held-out problem `held_out-1`"):
        load_symbiosis(file, [f"store={store}"], tmp_path)
    write_rows(store, [{"question": 1}])
    with pytest.raises(DataError, match=r"store.jsonl:1: a row of the store is"):
        read_store(store)
    write_rows(held, [{**rows[0], "response": "blue"}])
    with pytest.raises(DataError, match=r"`held_out`: none of the 1 responses ends in a number.*write a line"):
        load_symbiosis(file, [], tmp_path)
    write_rows(held, [json.loads((tmp_path / "problems.jsonl").read_text().splitlines()[0]) | {"id": "twin"}])
    with pytest.raises(DataError, match="the problem `problems-0` of `problems` is `twin` of `held_out` too"):
        load_symbiosis(file, [], tmp_path)


def test_shipped_recipe_runs_dry(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["symbiosis", str(RECIPE), "--dry-run", "--runs", str(tmp_path)])
    assert done.exit_code == 0, done.output or done.exception
    assert "valid; nothing was spent" in done.output
    assert "2 rounds on 40 problems; 40 held out" in done.output
    assert list(tmp_path.iterdir()) == []
