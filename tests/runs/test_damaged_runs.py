"""Run folders that were damaged at random: every verb that reads one ends well or with a sentence."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from reported_run import write_run
from rich.console import Console
from synthesised import synthesise

from gra.core.errors import DataError, GraError, Mismatch
from gra.core.run_folder import RunFolder
from gra.data.export import read_candidates
from gra.evaluation.compare.compare import compare
from gra.forecast import memory
from gra.forecast.plan import make_plan
from gra.reports import figures
from gra.reports.html import write_report
from gra.runs.diff import diff
from gra.runs.explain import explain
from gra.runs.inspection.inspect import inspect_run
from gra.runs.inspection.screen import inspection_screen
from gra.runs.push import _check_dataset
from gra.runs.verify import verify

# Hypothesis runs this many folders for each verb; the environment can ask for a longer hunt.
EXAMPLES = int(os.environ.get("GRA_FUZZ_EXAMPLES", "12"))
ODD: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, 10**4000, float("nan"), float("inf"), -1e308, "", "x", "\ud800",
    "$\\frac{$", "[/red]", "../../etc/passwd", "/etc/passwd", "nul\0", [], [None], ["x"], [[1]], {},
    {"x": None}, {"": {}}, "9" * 5000,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One experiment with everything, and one run of synthesis with its ledger."""
    base = tmp_path_factory.mktemp("whole")
    write_run(base / "experiment")
    (base / "experiment" / "recipe.resolved.yaml").write_text("arms: {gra: gra.yaml, vanilla: v.yaml}\nstudent: x\n")
    synthesise(base / "one")
    shutil.copy(base / "one" / "recipe.resolved.yaml", base.parent / "plan.yaml")
    shutil.copy(next(base.rglob("seeds.jsonl")), base.parent)
    return base


@pytest.fixture(autouse=True)
def no_drawings_and_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_weights", lambda *given, **options: 1.0)
    if not os.environ.get("GRA_FUZZ_FIGURES"):
        monkeypatch.setattr(figures, "draw", lambda *arguments: None)


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield from _places(value, (*path, key))


def _mutate(content: Any, data: st.DataObject) -> Any:
    """Replace, remove or rename one value somewhere inside."""
    places = list(_places(content))
    if not places or data.draw(st.integers(0, 19)) == 0:
        return copy.deepcopy(data.draw(st.sampled_from(ODD)))
    *path, last = data.draw(st.sampled_from(places))
    holder = content
    for key in path:
        holder = holder[key]
    match data.draw(st.sampled_from(["replace", "replace", "remove", "rename"])):
        case "remove":
            del holder[last]
        case "rename" if isinstance(holder, dict):
            holder[data.draw(st.sampled_from(["x", "", "$_$", "files", "[red]"]))] = holder.pop(last)
        case _:
            holder[last] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
    return content


def _damage_json(file: Path, data: st.DataObject) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    for _ in range(data.draw(st.integers(1, 3))):
        content = _mutate(content, data)
    with contextlib.suppress(ValueError):  # numbers that Python does not write are left out
        file.write_text(json.dumps(content), encoding="utf-8")


def _damage_lines(file: Path, data: st.DataObject) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    with contextlib.suppress(ValueError):
        lines[at] = json.dumps(_mutate(json.loads(lines[at]), data))
    file.write_text("\n".join(lines), encoding="utf-8")


def _damage_yaml(file: Path, data: st.DataObject) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    odd = ["[", "- x", "a: &a [*a]", "x: !!bool maybe", "review: 5", "x: 2020-01-01", "ledger: ~nosuchuser/x",
           "ledger: [1]", "review: {accept_mean: .nan}", "dedup: x", "teacher: 1", "? [1]\n: 2", "1: 2",
           'x: "\\ud800"', "arms: 3", "x: !!binary aGk="]  # fmt: skip
    lines[at] = data.draw(st.sampled_from([*odd, "  " + lines[at], lines[at].partition(":")[0] + ": x"]))
    file.write_text("\n".join(lines), encoding="utf-8")


def _damage_parquet(file: Path, data: st.DataObject) -> None:
    table = pq.read_table(file)
    name = data.draw(st.sampled_from(table.column_names))
    at = table.column_names.index(name)
    how = data.draw(st.sampled_from(["drop", "null", "odd", "json", "rename"]))
    rows = table.num_rows
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "null":
        table = table.set_column(at, name, pa.nulls(rows, table.schema.field(name).type))
    elif how == "rename":
        table = table.rename_columns([f"x{n}" if n == name else n for n in table.column_names])
    elif how == "json" and table.schema.field(name).type == pa.string():
        values = []
        for text in table.column(name).to_pylist():
            with contextlib.suppress(ValueError):
                text = json.dumps(_mutate(json.loads(text), data)) if text else text
            values.append(text)
        table = table.set_column(at, name, pa.array(values, pa.string()))
    else:
        odd: Any = data.draw(st.sampled_from([[1], ["x"], [float("nan")], [True], [{"a": 1}], [["x"]], [b"\xff"]]))
        table = table.set_column(at, name, pa.array(odd * rows))
    pq.write_table(table, file)


def _damage_bytes(file: Path, data: st.DataObject) -> None:
    content = bytearray(file.read_bytes())
    for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), min_size=1, max_size=5)):
        content[place] ^= 1 << (place % 8)
    cut = data.draw(st.none() | st.integers(0, len(content)))
    file.write_bytes(bytes(content[:cut]))


def _damage(file: Path, data: st.DataObject) -> None:
    by_ending: dict[str, Callable[[Path, st.DataObject], None]] = {
        ".json": _damage_json, ".jsonl": _damage_lines, ".yaml": _damage_yaml, ".parquet": _damage_parquet,
    }  # fmt: skip
    own = by_ending.get(file.suffix, _damage_bytes)
    (own if data.draw(st.integers(0, 5)) else _damage_bytes)(file, data)


def _show(text: Any) -> None:
    Console(file=io.StringIO(), width=100).print(text)


def _report(base: Path) -> None:
    write_report(base / "experiment", title="t", command="c")


def _verify(base: Path) -> None:
    verify(base / "one")
    verify(base / "experiment")


def _explain(base: Path) -> None:
    for full in (False, True):
        _show(explain(base / "one", "r1-000003", full=full))
    _show(explain(base / "experiment", "r1-000001"))


def _diff(base: Path) -> None:
    found = diff(base / "one", base / "experiment" / "arms" / "gra")
    _show(found.screen())
    json.dumps(found.to_json())


def _push(base: Path) -> None:
    assert _check_dataset(base / "one") >= 0


def _compare(base: Path) -> None:
    runs = {name: base / "experiment" / "eval" / name for name in ("untuned", "gra-seed0")}
    compare(runs, "untuned", 0.05, base / "compared")


def _plan(base: Path) -> None:
    make_plan(base.parent / "plan.yaml", [f"seeds.source={base.parent / 'seeds.jsonl'}"], base, base / "one", None)


def _inspect(base: Path) -> None:
    for run in ("one", "experiment"):
        found = inspect_run(base / run)
        _show(inspection_screen(found))
        json.dumps(found.to_json())


VERBS = {"report": _report, "inspect": _inspect, "verify": _verify, "explain": _explain, "diff": _diff, "push": _push,
         "compare": _compare, "plan": _plan}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_verb_accepts_the_whole_folder(whole: Path, verb: str) -> None:
    with pytest.raises(Mismatch, match=r"k1$") if verb == "verify" else contextlib.nullcontext():  # it has no ledger
        VERBS[verb](whole)


@pytest.mark.parametrize("verb", VERBS)
@settings(
    max_examples=EXAMPLES, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking is slow
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(data=st.data())
def test_damaged_run_gives_a_sentence(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, verb: str, data: st.DataObject
) -> None:
    base = tmp_path_factory.mktemp("damaged") / "runs"
    shutil.copytree(whole, base)
    for name in ("plan.yaml", "seeds.jsonl"):
        shutil.copy(whole.parent / name, base.parent)
    files = sorted(
        f for f in base.rglob("*") if f.is_file() and f.suffix in (".json", ".jsonl", ".yaml", ".parquet", ".sqlite")
    )
    for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
        _damage(file, data)
    try:
        with contextlib.suppress(GraError):
            VERBS[verb](base)
    finally:
        shutil.rmtree(base)


def test_sentences_name_the_value(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "experiment", tmp_path / "run")
    arm = tmp_path / "run" / "arms" / "gra"
    manifest = json.loads((arm / "manifest.json").read_text())
    manifest["synthesis"]["reviewers"]["ben"]["auc"] = "high"
    (arm / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        DataError, match=r"manifest\.json is damaged \(`synthesis\.reviewers\.ben\.auc` is not a number\)"
    ):
        write_report(tmp_path / "run", title="t", command="c")
    with pytest.raises(Mismatch, match=r"`synthesis\.reviewers\.ben\.auc` is not a number"):
        verify(tmp_path / "run")
    shutil.copy(whole / "experiment" / "arms" / "gra" / "manifest.json", arm)
    (tmp_path / "run" / "log.jsonl").write_text('{"time": 1, "event": "stage", "name": 5}\n')
    with pytest.raises(DataError, match=r"log\.jsonl, line 1, is damaged \(`name` is not text\)"):
        write_report(tmp_path / "run", title="t", command="c")


def test_state_that_is_none_is_named(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "experiment" / "arms" / "gra", tmp_path / "run")
    file = tmp_path / "run" / "lineage.parquet"
    table = pq.read_table(file)
    at = table.column_names.index("state")
    pq.write_table(table.set_column(at, "state", pa.array(["eaten"] * table.num_rows)), file)
    with pytest.raises(DataError, match=r"lineage\.parquet is damaged \(`0\.state`"):
        read_candidates(file)


def test_manifest_is_still_written_after_it_was_read(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "one", tmp_path / "one")
    before = RunFolder(tmp_path / "one").manifest()
    RunFolder(tmp_path / "one").record("other", {"x": 1})
    assert {k: v for k, v in RunFolder(tmp_path / "one").manifest().items() if k != "other"} == before
