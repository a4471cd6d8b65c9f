"""Every benchmark starts: its command line answers, what it imports is there, and the cheap ones run at a tiny size."""

from __future__ import annotations

import ast
import gzip
import importlib
import importlib.util
import json
import random
import runpy
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import ROOT

FOLDER = ROOT / "benchmarks"
FILES = sorted(FOLDER.glob("*.py"))
# Parts of other benchmarks, and a server that has no options.
WITHOUT_OPTIONS = {
    "instant_server.py", "review_pairs.py", "scripted_committee.py", "truth_items.py", "truth_table.py"
}  # fmt: skip


@pytest.fixture(autouse=True)
def _beside_benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Their folder comes first on the path, as when they are run; what they import by short names is dropped again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in set(sys.modules) - before:
        if name in {file.stem for file in FILES}:
            del sys.modules[name]


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_names_that_a_benchmark_imports_are_there(file: Path) -> None:
    """Imports inside functions count: they would fail only after a long run."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("gra", "scripted_committee"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                inside = (
                    importlib.util.find_spec(f"{node.module}.{alias.name}") if hasattr(module, "__path__") else None
                )
                assert hasattr(module, alias.name) or inside, f"{file}:{node.lineno}: {node.module}.{alias.name}"


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.name not in WITHOUT_OPTIONS], ids=lambda file: file.name
)
def test_benchmark_shows_its_help(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(file), run_name="__main__")
    assert not end.value.code
    assert "usage" in capsys.readouterr().out.lower()


def test_broker_measures_each_part(tmp_path: Path) -> None:
    broker = load("broker")
    assert set(broker.scripted(20)) == {"text", "review"}
    assert broker.memory(tmp_path / "told.sqlite", 30)["candidates"] == 30
    assert broker.resume(tmp_path, 20)["candidates"] == 20
    found = broker.finish(tmp_path, 50)
    assert 0 < found["rows"] <= 50
    assert broker.dedup(100)["rows"] == 100
    parts = {"scripted": {"text": 1.0, "review": 1.0}, "http": {"text": 1.0, "bare": 1.0}, "many": found}
    assert len(list(broker.table(parts))) == 6


def test_switching_simulates_every_policy() -> None:
    switching = load("switching")
    found = switching.compare(1, 3, 2, switching.Costs(), False)
    assert {"gra", "round-robin", "reload", "gra, restarts"} <= set(found)
    assert all(row["makespan_s"] > 0 for row in found.values())


def test_deduplication_is_measured(tmp_path: Path) -> None:
    load("dedup").main([300], folder=tmp_path, json_file=tmp_path / "found.json")
    assert (tmp_path / "found.json").is_file()


def test_annotation_texts_of_different_parts_share_no_template_and_no_name() -> None:
    annotation = load("annotation")
    parts = {part: annotation.make_texts(part, 40) for part in annotation.TEMPLATES}
    names = {part: {text[s.start : s.end] for text, spans in made for s in spans} for part, made in parts.items()}
    templates = {part: set(text.splitlines()) for part, text in annotation.TEMPLATES.items()}
    for one, other in (("store", "texts"), ("store", "test"), ("texts", "test")):
        assert not names[one] & names[other]
        assert not templates[one] & templates[other]
    row = annotation.as_row("x", *parts["texts"][0])
    assert all(entity["text"] in row["instruction"] for entity in json.loads(row["response"])["entities"])


def test_label_items_have_both_answers_equally_often_and_use_a_row_once() -> None:
    routing = load("routing")
    choice = [{"id": f"c{n}", "question": "What?", "choices": ["a", "b", "c"], "answer": n % 3} for n in range(9)]
    steps = "2*3=<<2*3=6>>6\n6+1=<<6+1=7>>7\n#### 7"
    worked = [{"id": f"s{n}", "question": "How many?", "answer": steps} for n in range(4)]
    fixed = [{"id": f"p{n}", "question": "So?", "answer": "Yes" if n else "no"} for n in range(6)]
    for kind, rows, count in (("sciq", choice, 6), ("sums", worked, 4), ("puzzles", fixed, 2)):
        items = routing.balanced(kind, rows, count)
        assert len({item.id for item in items}) == count
        assert sum(item.yes for item in items) == count / 2
        rights = {row["id"]: row["choices"][row["answer"]] for row in choice}
        for item in items if kind == "sciq" else ():
            assert (f"Proposed answer: {rights[item.id]}\n" in item.text) == item.yes
    assert "Proposed answer: 6" in next(item.text for item in routing.balanced("sums", worked, 2) if not item.yes)


def test_routing_tables_find_what_was_put_in(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of two members knows one kind; peers in a chain are better than each of them."""
    routing, luck = load("routing"), random.Random(0)
    rows = []
    for n in range(300):
        kind, yes = ("sciq", "mmlu")[n % 2], n % 4 < 2
        knowing = "0.5b" if kind == "sciq" else "1.5b"
        odds = {who: (1 if yes else -1) * luck.gauss(2.5 if who == knowing else 0.2, 1.5) for who in ("0.5b", "1.5b")}
        costs = {"0.5b": 10.0, "1.5b": 30.0}
        rows.append({"id": str(n), "kind": kind, "text": "A question?", "yes": yes, "odds": odds, "costs": costs})
    rows[0]["odds"] = {"0.5b": None, "1.5b": None}
    given = routing.read_answers(rows)
    assert given.order == ("0.5b", "1.5b")
    lines = routing.chain_table(given)["log_odds"]
    assert lines["chain"]["accuracy"] > max(lines["0.5b alone"]["accuracy"], lines["1.5b alone"]["accuracy"])
    assert lines["0.5b alone"]["gain"][1] > 0
    assert lines["0.5b alone"]["cost"] < lines["chain"]["cost"] < lines["all, log-odds added"]["cost"]
    found = routing.competence_table(given)
    free = found["prices"][0.0]
    assert free["router"] > 0.95 * free["oracle"]
    assert free["gain"][1] > 0
    assert "| price | router |" in capsys.readouterr().out


def test_curation_divides_rows_and_measures_what_finds_the_bad_ones() -> None:
    curation = load("curation")
    parts = curation.divide(curation.collect(None, 320))
    ids = [row.id for part in (parts.trusted, parts.good, parts.bad, parts.heldout) for row in part]
    assert len(set(ids)) == len(ids) == 70
    answers = {row.id: row for row in curation.collect(None, 320)}
    by_answer = {row.response: row for row in answers.values()}
    for row in parts.bad:
        assert row.response != answers[row.id].response
        assert by_answer[row.response].domain == row.domain
    luck, bad = random.Random(0), {f"b{n}" for n in range(40)}
    figures = []
    for name in [*bad, *(f"g{n}" for n in range(40))]:
        confidence = luck.gauss(0.2 if name in bad else 0.5, 0.1)
        last = luck.random()
        figures.append({"id": name, "confidence": confidence, "uncertainty": luck.gauss(0.1, 0.01),
                        "probabilities": [confidence, last], "kept": confidence > 0.3})  # fmt: skip
    figures.append({"id": "g99", "confidence": None, "uncertainty": None, "probabilities": [None, None], "kept": True})
    found = curation.detection(figures, {"confidence": 0.3, "uncertainty": 0.2}, bad)
    assert found["rows"] == {"good": 40, "bad": 40, "unscored": 1}
    assert found["ways"]["confidence"]["auc"] > 0.95
    assert found["ways"]["confidence"]["over_last"][1] > 0
    assert found["rule"]["recall"] > found["last, as many dropped"]["recall"]


def test_self_guide_tasks_share_no_sentence_and_errors_have_kinds(tmp_path: Path) -> None:
    guide = load("self_guide")
    examples = [item for task in guide.FORMS for item in guide.make_items(task, 3, held_out=False)]
    items = [item for task in guide.FORMS for item in guide.make_items(task, 40, held_out=True)]
    assert len({item.instruction for item in [*examples, *items]}) == 129
    for item in [*examples, *items]:
        assert guide.fault(item, f" {item.answer}\n") == ""
        assert guide.fault(item, f"It is {item.answer}.") == "form"
    assert guide.fault(examples[0], "1900-01-01") == "knowledge"
    jobs = guide.jobs_of(examples, tmp_path, [])
    assert [job.recipe.committee.reviewers for job in jobs.values()] == [0, 1]
    outputs = {arm: [{item.id: item.answer if n % 2 or arm != "prompted" else "?" for n, item in enumerate(items)}]
               for arm in ("prompted", "self-guide", "self-guide, reviewed")}  # fmt: skip
    found = guide.summarize(items, outputs)
    assert (found["prompted"]["exact"], found["prompted"]["form"], found["prompted"]["knowledge"]) == (0.5, 0.5, 0)
    assert found["prompted"]["self-guide - it"][1] > 0
    guide.print_table(found, {"self-guide": 60})


def test_word_problems_have_the_stated_answer_and_parts_that_share_no_template() -> None:
    problems, checks = load("word_problems"), importlib.import_module("gra.experiment.symbiosis.problems")
    made = {part: problems.make_problems(part, 30) for part in problems.PARTS}
    for rows in made.values():
        for row in rows:
            *steps, last = row["response"].splitlines()
            assert 2 <= len(steps) <= 4
            assert checks.known_number(row["response"]) == last.removeprefix("Answer: ")
            assert all(checks.known_number(step) == step.rpartition(" ")[2] for step in steps)
            assert float(last.removeprefix("Answer: ")) > 0
    ours, held = ({row["instruction"] for row in rows} for rows in made.values())
    assert len(ours) == len(held) == 30
    shapes = [{"".join(c for c in text if not c.isdigit()) for text in each} for each in (ours, held)]
    assert not shapes[0] & shapes[1]
    with pytest.raises(ValueError, match=r"the templates of `problems` give about .* and 100000 were asked for"):
        problems.make_problems("problems", 100_000)


def test_judgments_train_a_critic_on_other_instructions_than_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    review_pairs, reviewers = load("review_pairs"), load("reviewers")
    llmbar = [{"subset": ("natural", "Manual")[n % 2], "input": f"Task {n // 10}.", "output_1": "a", "output_2": "b",
               "label": 1} for n in range(40)]  # fmt: skip
    judgments = [{"idx": n, "instruction": f"Task  {n // 4}.", "input": "", "response1": f"one {n}",
                  "response2": "" if n == 5 else f"two {n // 2}", "annotator1": n % 3, "annotator2": n % 3,
                  "annotator3": 1} for n in range(120)]  # fmt: skip
    (tmp_path / review_pairs.LLMBAR).write_text("\n".join(map(json.dumps, llmbar)))
    with gzip.open(tmp_path / review_pairs.PANDALM, "wt") as file:
        file.write("\n".join(map(json.dumps, judgments)))
    items, left_out = review_pairs.critic_items(tmp_path, 20)
    held = review_pairs.held_out(tmp_path, 12, 15)
    assert Counter(pair.kind for pair in held) == {"llmbar natural": 12, "llmbar adversarial": 12, "pandalm": 15}
    assert not {review_pairs.normalised(i.instruction) for i in items} & {
        review_pairs.normalised(p.instruction) for p in review_pairs.held_out(tmp_path, 99, 99)
    }
    assert (left_out["ties"], left_out["an empty answer"]) == (40, 1)
    assert left_out["instruction in LLMBar"] > 0
    assert sum(left_out.values()) + len(items) / 2 == 120
    assert len(items) == 20 == 2 * sum(item.is_good for item in items)
    assert len({(item.instruction, item.response) for item in items}) == 20
    reviewers.write_critic_rows(tmp_path, tmp_path / "critic", 20)
    rows = pq.read_table(tmp_path / "critic" / "control_items.parquet").to_pylist()
    assert Counter(row["completion"][0]["content"] for row in rows) == {"yes": 10, "no": 10}
    assert "ties 40" in capsys.readouterr().out
    scores = {name: float(name.endswith("-better")) for pair in held for name in review_pairs.names(pair)}
    found = review_pairs.gains(dict.fromkeys(scores, 1.0), scores, held)
    assert {kind: (at["without"], at["with"], at["gain"]) for kind, at in found.items()} == dict.fromkeys(
        review_pairs.JUDGED, (0.5, 1.0, 0.5)
    )
    low, high = found["llmbar adversarial"]["interval"]
    assert low < 0.5 < high


def test_marks_of_rows_are_counted_by_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks = load("row_marks")
    rows = {"gra": [0, 1, 2, 3], "unreviewed": [2, 3, 4, 5]}
    arms = {
        arm: [
            {"prompt": [{"role": "user", "content": f"ask {n}"}], "completion": [{"role": "assistant", "content": "x"}]}
            for n in numbers
        ]
        for arm, numbers in rows.items()
    }
    for arm, each in arms.items():
        pq.write_table(pa.Table.from_pylist(each), tmp_path / f"{arm}.parquet")
    keys = {
        marks.key_of(row): number for arm, each in arms.items() for row, number in zip(each, rows[arm], strict=True)
    }
    right = {"good": True, "right": True}
    lines = [{"key": key, "marks": [right, right | {"right": number < 3}]} for key, number in keys.items()]
    (tmp_path / "marks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert marks.write_sheet(arms, tmp_path / "sheet.md") == 6
    assert (tmp_path / "sheet.md").read_text().count("## ") == 6
    marks.main([tmp_path], None, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["arms"]["gra"]["right"][0] == pytest.approx(7 / 8)
    assert found["differences"][0]["value"] == pytest.approx(7 / 8 - 5 / 8)
    assert found["agreement"] == {"good": 1.0, "right": 0.5}
    assert "gra - unreviewed | +25" in capsys.readouterr().out
    marks.main([tmp_path, tmp_path], None, tmp_path / "twice.json")
    twice = json.loads((tmp_path / "twice.json").read_text())
    assert (twice["arms"]["gra"]["rows"], twice["arms"]["gra"]["right"][0]) == (8, pytest.approx(7 / 8))
