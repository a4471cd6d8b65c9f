"""Answers that prepare a committee: carried from one run to another, checked, and never asked again."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_run import knowing, made, prepare
from paths import ROOT
from pydantic import ValidationError
from synthesised import command

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe, members_of
from gra.core.errors import DataError
from gra.core.run_folder import RunFolder
from gra.core.vocabulary import WorkKind
from gra.data.seeds.load import load_seeds
from gra.engines.types import Call, Completion, Fault
from gra.evaluation.suite import suite_items
from gra.ledger.ledger import Ledger, Recorded
from gra.ledger.schema import compact, request_key
from gra.runs.verify import verify
from gra.synthesis.call_names import read_name
from gra.synthesis.measuring.controls import planned_controls
from gra.synthesis.measuring.preparation import of_models, prepared_items, read_preparation, write_preparation
from gra.synthesis.run import make_job

ROW: dict[str, Any] = {
    "request": '{"model":"sha256:model-a"}', "text": "yes", "finish": "length", "scores": {"yes": 0.5},
    "role": "reviewer", "member": "a", "model": "model-a", "candidate": "probe-good-n1", "attempt": 0,
    "prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 0,
}  # fmt: skip


def write(path: Path, *rows: Any) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def asked(folder: Path) -> dict[str, int]:
    """Count the calls that the run of a folder paid for, by kind of work."""
    found: dict[str, int] = {}
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        for (name,) in db.execute("SELECT candidate FROM calls WHERE run = 'scripted'"):
            named = read_name(name)
            assert named is not None
            found[named.kind.name] = found.get(named.kind.name, 0) + 1
    return found


def test_a_run_takes_recorded_answers_over_asks_none_of_them_and_makes_the_same_rows(tmp_path: Path) -> None:
    _, facts = made(tmp_path / "first")
    file = tmp_path / "preparation.jsonl.gz"
    written = write_preparation(tmp_path / "first" / "ledger.sqlite", file)
    before = asked(tmp_path / "first")
    assert written == before["CONTROL_ITEM"] + before["SEED"]

    prepare(tmp_path / "second")
    recipe = json.loads((tmp_path / "second" / "recipe.yaml").read_text()) | {"preparation": str(file)}
    (tmp_path / "second" / "recipe.yaml").write_text(json.dumps(recipe))
    calls: list[str] = []

    def noting(call: Call) -> Completion | Fault:
        calls.append(call.candidate)
        return knowing(call)

    scripted_run.make(tmp_path / "second", answer=noting)
    again = json.loads((tmp_path / "second" / "manifest.json").read_text())["synthesis"]
    kinds = {named.kind.name for name in calls if (named := read_name(name)) is not None}
    assert kinds == {"CANDIDATE"}
    assert set(asked(tmp_path / "second")) == {"CANDIDATE"}
    first, second = (tmp_path / name / "dataset" / "train.parquet" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert (again["panel"], again["fingerprint"]) == (facts["panel"], facts["fingerprint"])
    # The rows cost as much as before: who paid for the preparation does not matter.
    assert sorted(map(str, again["used"])) == sorted(map(str, facts["used"]))
    assert again["spent"]["tokens"] < facts["spent"]["tokens"]
    notes = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    assert f"{written:,} answers that prepare the committee are recorded" in str(notes)
    assert verify(tmp_path / "second").answers > written
    # Carried over once more, the file is the same to the byte.
    write_preparation(tmp_path / "second" / "ledger.sqlite", tmp_path / "once-more.jsonl.gz")
    assert (tmp_path / "once-more.jsonl.gz").read_bytes() == file.read_bytes()


def test_answers_of_other_models_are_left_and_the_run_says_so(tmp_path: Path) -> None:
    made(tmp_path / "first")
    rows = gzip.decompress((write_file(tmp_path)).read_bytes()).decode().replace("sha256:model-", "sha256:other-")
    other = tmp_path / "other.jsonl.gz"
    other.write_bytes(gzip.compress(rows.encode()))
    made(tmp_path / "second", preparation=str(other))
    assert asked(tmp_path / "second") == asked(tmp_path / "first")
    assert "holds no answers of these models" in (tmp_path / "second" / "log.jsonl").read_text()
    under = of_models(read_preparation(other), {"sha256:other-a": "mine"})
    assert len(under) > 10
    assert {answer.model for answer in under} == {"mine"}


def test_answers_of_before_stay_and_the_manifest_names_the_file(tmp_path: Path) -> None:
    made(tmp_path / "run")
    write_preparation(tmp_path / "run" / "ledger.sqlite", tmp_path / "preparation.jsonl.gz")
    changes = {"rounds": {"count": 1, "accept": 10, "max_candidates": 30}}
    _, facts = made(tmp_path / "run", preparation=str(tmp_path / "preparation.jsonl.gz"), **changes)
    assert facts["preparation"]["file"] == "preparation.jsonl.gz"
    assert facts["preparation"]["used"] == len(read_preparation(tmp_path / "preparation.jsonl.gz"))
    assert "are recorded (0 of them new here)" in (tmp_path / "run" / "log.jsonl").read_text()
    with closing(sqlite3.connect(tmp_path / "run" / "ledger.sqlite")) as db:
        assert {run for (run,) in db.execute("SELECT DISTINCT run FROM calls")} == {"scripted"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arm": "vanilla"}, "has none; leave it out"),
        ({"arm": "distilled", "teacher": "model-a"}, "has none; leave it out"),
    ],
)
def test_an_arm_without_a_committee_is_not_prepared(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        scripted_run.make_recipe(preparation="preparation.jsonl.gz", **changes)


def test_a_score_that_json_cannot_hold_is_left_out(tmp_path: Path) -> None:
    answers = [replace(answer, scores={"yes": score}) for answer in recorded() for score in (0.5, 1, float("nan"))]
    answers = [replace(answer, request=f'{{"model":"m","n":{n}}}') for n, answer in enumerate(answers)]
    ledger = Ledger(tmp_path / "ledger.sqlite", "run")
    ledger.adopt([replace(a, key=request_key(a.request)) for a in answers], "test")
    ledger.close()
    assert write_preparation(tmp_path / "ledger.sqlite", tmp_path / "p.jsonl.gz") == 2
    assert [answer.scores["yes"] for answer in read_preparation(tmp_path / "p.jsonl.gz")] in ([0.5, 1.0], [1.0, 0.5])


def recorded() -> list[Recorded]:
    return [Recorded(**ROW, key="", seconds=1.0)]


def test_the_shipped_answers_are_those_to_the_questions_of_the_shipped_recipe() -> None:
    """When this fails, record them anew: run the recipe with `preparation=null`, then `gra ledger preparation`."""
    file = ROOT / "recipes" / "quickstart" / "gra.yaml"
    recipe = load_recipe(file, SynthesisRecipe).recipe
    answers = read_preparation(ROOT / str(recipe.preparation))
    asked = {message for a in answers for _, message in json.loads(a.request)["messages"]}
    seeds = load_seeds(ROOT / recipe.seeds.source, recipe.domains, recipe.seeds, seed=recipe.seed).rows
    responses, instructions = planned_controls(seeds, recipe.review, recipe.seed)
    outputs = [json.loads(answer.request)["output"] for answer in answers]
    text = "\0".join([*asked, *(output["likelihood"] for output in outputs if "likelihood" in output)])
    assert all(item.instruction in text for item in responses)
    assert all(item.instruction in text for item in instructions)
    known = prepared_items(answers, {member.model for member in members_of(recipe)})
    assert recipe.review.control_questions is None  # else their answers must be among the recorded ones
    assert {item.seed for item in responses} <= known[WorkKind.CONTROL_ITEM]
    assert {seed.id for seed in seeds if not seed.enriched} <= known[WorkKind.SEED]


def write_file(folder: Path) -> Path:
    write_preparation(folder / "first" / "ledger.sqlite", folder / "preparation.jsonl.gz")
    return folder / "preparation.jsonl.gz"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text": None}, r":2: `text` must be of type str"),
        ({"attempt": True}, r"`attempt` must be of type int"),
        ({"prompt_tokens": -1}, r"counts must be from 0"),
        ({"prompt_tokens": 1 << 70}, r"counts must be from 0"),
        ({"finish": "tired"}, r"`finish` must be one of stop, length"),
        ({"scores": {"yes": "much"}}, r"`scores` must be numbers"),
        ({"scores": {"yes": float("nan")}}, r":2: not text"),
        ({"scores": {"yes": True}}, r"`scores` must be numbers"),
        ({"candidate": "r1-000001"}, r"must name a control item or a seed"),
        ({"request": "words"}, r"`request` must be a question as JSON"),
        ({"request": "[]"}, r"`request` must name its model"),
        ({"text": "\ud800"}, r":2: not text"),
        ({"more": 1}, r"`more` is missing or one too many"),
    ],
)
def test_rows_that_are_no_answers_are_named_before_anything_is_spent(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    prepare(tmp_path, preparation="bad.jsonl.gz")
    write(tmp_path / "bad.jsonl.gz", ROW, ROW | change)
    loaded = load_recipe(tmp_path / "recipe.yaml", SynthesisRecipe)
    with pytest.raises(DataError, match=sentence) as caught:
        make_job(loaded, RunFolder(tmp_path / "run"), read_suite=suite_items)
    assert "gra ledger preparation RUN FILE" in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    change=st.dictionaries(
        st.sampled_from(sorted(ROW)), st.from_type(type(None)) | st.integers() | st.text() | st.floats()
    )
)
def test_any_row_is_an_answer_or_a_sentence(change: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = write(tmp_path_factory.getbasetemp() / "any.jsonl.gz", ROW | change)
    try:
        (found,) = read_preparation(file)
    except DataError:
        return
    assert (found.text, found.seconds) == ((ROW | change)["text"], 0.0)


def test_the_command_writes_the_file_and_explains_what_it_cannot_use(tmp_path: Path, capsys) -> None:
    made(tmp_path / "first")
    target = tmp_path / "new" / "preparation.jsonl.gz"
    assert command("ledger", "preparation", str(tmp_path / "first"), str(target)) == 0
    assert f"{len(read_preparation(target)):,} recorded answers" in capsys.readouterr().out
    for arguments, sentence in (
        ((tmp_path / "first", tmp_path / "file.json"), "must end in .jsonl.gz"),
        ((tmp_path / "nowhere", target), "there is no ledger"),
    ):
        assert command("ledger", "preparation", *map(str, arguments)) in (2, 3)
        assert sentence in capsys.readouterr().err
    compact(tmp_path / "first" / "ledger.sqlite", drop_requests=True)
    assert command("ledger", "preparation", str(tmp_path / "first"), str(target)) in (2, 3)
    assert "has dropped the texts of its questions" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / "first" / "ledger.sqlite")) as db:
        db.execute("DELETE FROM calls WHERE candidate NOT LIKE 'r1-%'")
        db.commit()
    assert command("ledger", "preparation", str(tmp_path / "first"), str(target)) in (2, 3)
    assert "holds no answers to control items" in capsys.readouterr().err
