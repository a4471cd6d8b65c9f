"""Every form keeps every text, whatever characters it has, and is what its tool reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gra.core.errors import Mismatch, RecipeError
from gra.data.formats import write as writing
from gra.data.formats.containers import Csv, JsonLines, JsonList
from gra.data.formats.forms import FORMS, PairForm
from gra.data.formats.rows import ExportPair, ExportRow
from gra.data.formats.write import read_form, write_form

ODD = [
    "line\nbreak\r\nand\rmore\u2028here\x85\x0b\x0c",
    'quotes " and "" and , ; \t and \\ and \\n',
    "=SUM(A1:A9)\x00\x1b[2J\ufeff",
    "日本語 ñ 🦉 \U0010ffff \u202e",
    "</script>{{ x }} null",
    "x" * 1_000_000,
    " leading and trailing \n",
]
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


def row(number: int, instruction: str, response: str, system: str = "") -> ExportRow:
    return ExportRow(f"r1-{number:06d}", f"domain-{number % 3}", instruction, response, "accepted", 7.5, "m", "mit",
                     system=system)  # fmt: skip


@pytest.mark.parametrize("system", ["", "Be brief.\nAlways. 🦉"])
@pytest.mark.parametrize("name", FORMS)
def test_form_keeps_every_text(name: str, system: str, tmp_path: Path) -> None:
    rows = [row(n, text, ODD[-1 - n], system) for n, text in enumerate(ODD)]
    pairs = [ExportPair(r.id, r.instruction, r.response, "worse\r\n", system) for r in rows]
    counts = write_form(name, tmp_path / "out", rows, pairs, "about")
    assert list(read_form(name, tmp_path / "out")) == [r.texts for r in rows]
    assert set(counts.values()) == {len(rows)}
    assert len(counts) == (1 if FORMS[name].pairs is None else 2)
    origin = list(JsonLines().read(tmp_path / "out" / "origin.jsonl"))
    assert [(o["id"], o["domain"], o["license"]) for o in origin] == [(r.id, r.domain, r.license) for r in rows]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS | st.just("")), min_size=1, max_size=3))
def test_containers_keep_any_text(tmp_path: Path, texts: list[tuple[str, str, str]]) -> None:
    rows = [row(n, *parts) for n, parts in enumerate(texts)]
    for name in ("messages", "alpaca", "csv"):
        form, file = FORMS[name], tmp_path / name
        form.container.write(file, map(form.write, rows))
        assert [form.read(record) for record in form.container.read(file)] == [r.texts for r in rows]


def test_files_are_what_the_tools_read(tmp_path: Path) -> None:
    rows, pairs = [row(0, "Q", "A", "S"), row(1, "Q2", "A2")], [ExportPair("r1-000000", "Q", "A", "B")]
    for name in FORMS:
        write_form(name, tmp_path / name, rows, pairs, "about")

    def text(name: str, file: str) -> str:
        return (tmp_path / name / file).read_text(encoding="utf-8")

    assert json.loads(text("messages", "train.jsonl").splitlines()[0]) == {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "A"},
        ]
    }
    assert json.loads(text("sharegpt", "train.json"))[1] == {
        "conversations": [{"from": "human", "value": "Q2"}, {"from": "gpt", "value": "A2"}]
    }
    assert json.loads(text("alpaca", "train.json"))[1] == {"instruction": "Q2", "input": "", "output": "A2"}
    assert json.loads(text("trl", "preferences.jsonl")) == {
        "prompt": [{"role": "user", "content": "Q"}],
        "chosen": [{"role": "assistant", "content": "A"}],
        "rejected": [{"role": "assistant", "content": "B"}],
        "id": "r1-000000",
    }
    info = json.loads(text("llama-factory", "dataset_info.json"))
    for entry in info.values():
        records = json.loads(text("llama-factory", entry["file_name"]))
        assert all(set(entry["columns"].values()) <= record.keys() for record in records)
    assert info["gra_preferences"]["ranking"] is True
    part = yaml.safe_load(text("axolotl", "axolotl.yaml"))["datasets"][0]
    record = json.loads(text("axolotl", part["path"]).splitlines()[0])
    assert set(record[part["field_messages"]][0]) == set(part["message_property_mappings"].values())
    part = yaml.safe_load(text("unsloth", "unsloth.yaml"))["data"]
    assert part["format_type"] == "sharegpt"
    assert "conversations" in json.loads(text("unsloth", part["local_dataset"][0]).splitlines()[0])
    with (tmp_path / "csv" / "train.csv").open(encoding="utf-8", newline="") as file:
        assert [line["response"] for line in csv.DictReader(file)] == ["A", "A2"]


def test_empty_lists_read_back(tmp_path: Path) -> None:
    for container in (JsonLines(), JsonList(), Csv(["a"])):
        assert container.write(tmp_path / "x", []) == 0
        assert list(container.read(tmp_path / "x")) == []
    JsonList().write(tmp_path / "x", [])
    assert json.loads((tmp_path / "x").read_text()) == []


def test_later_export_replaces_an_earlier_one_and_no_other_files(tmp_path: Path) -> None:
    rows = [row(0, "Q", "A")]
    write_form("llama-factory", tmp_path, rows, [ExportPair("x", "Q", "A", "B")], "about")
    write_form("messages", tmp_path, rows, [], "about")
    assert {path.name for path in tmp_path.iterdir()} == {"train.jsonl", "origin.jsonl", "README.md"}
    other = tmp_path / "mine"
    other.mkdir()
    (other / "train.jsonl").write_text("mine")
    with pytest.raises(RecipeError, match="holds other files"):
        write_form("messages", other, rows, [], "about")
    assert (other / "train.jsonl").read_text() == "mine"


def test_form_that_loses_a_text_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_form("trl", tmp_path, [row(0, "Q", "A")], [], "about")
    before = (tmp_path / "train.jsonl").read_bytes()
    lossy = writing.FORMS["trl"]
    broken = PairForm(lossy.pairs.write, lossy.pairs.read) if lossy.pairs else None
    changed = type(lossy)(lambda r: lossy.write(row(0, r.instruction.strip(), r.response)), lossy.read,
                          lossy.container, broken)  # fmt: skip
    monkeypatch.setitem(writing.FORMS, "trl", changed)
    with pytest.raises(Mismatch, match="r1-000001 does not read back"):
        write_form("trl", tmp_path, [row(0, "Q", "A"), row(1, " Q", "A")], [], "about")
    assert (tmp_path / "train.jsonl").read_bytes() == before
