"""The arm `annotate`: labels of people, votes, doubts, whole runs on scripted members, and refusals."""

from __future__ import annotations

import asyncio
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from paths import ROOT
from rich.console import Console
from scripted_run import WordEmbedder, fake_resolve, make_recipe, said, write_job
from typer.testing import CliRunner

from gra.cli.main import app
from gra.config.arms import AnnotateConfig
from gra.core.errors import DataError
from gra.core.text.spans import AlignedSpans, LabelSpan
from gra.core.types import Seed
from gra.data.export import read_lineage
from gra.engines.types import Call, Completion, Fault, Json
from gra.runs.explain import explain
from gra.synthesis.annotation import asking
from gra.synthesis.annotation.annotator import read_labeled, read_labels, write_labels
from gra.synthesis.annotation.asking import choose_examples, plan_work
from gra.synthesis.annotation.votes import AnnotatedText, count_votes, decide_labels

RECIPE = str(ROOT / "recipes" / "systems" / "annotate.yaml")
SPANS = AnnotateConfig(types=["person", "city"])
LABEL = AnnotateConfig(kind="label", types=["praise", "blame"])
NAMES = {"Ada": "person", "Bo": "person", "Cleo": "person", "Oslo": "city", "Rome": "city", "Lima": "city"}
ALIKE = {"stone": "city", "Monday": "person"}  # words that are no names, and what a bad member takes them for


def sentences(count: int, kind: str = "spans") -> list[dict[str, str]]:
    """Texts with their labels; the last words make them differ."""
    luck, rows = random.Random(0), []
    for n in range(count):
        who, where = luck.choice(["Ada", "Bo", "Cleo"]), luck.choice(["Oslo", "Rome", "Lima"])
        text = f"{who} saw {where} on Monday by a stone, number {n}."
        entities = [{"text": who, "type": "person"}, {"text": where, "type": "city"}]
        gold = {"entities": entities} if kind == "spans" else {"label": "praise" if who == "Ada" else "blame"}
        rows.append({"id": f"s{n:02}", "domain": "qa", "instruction": text, "response": json.dumps(gold)})
    return rows


def annotator(rates: dict[str, tuple[float, float]]) -> Callable[[Call], Completion | Fault]:
    """Members that find each name with one probability, and take another word for a name with the other."""

    def answer(call: Call) -> Completion | Fault:
        assert isinstance(call.output, Json)
        prompt = call.messages[-1][1]
        text = re.findall(r"<text>\n(.*?)\n</text>", prompt, re.DOTALL)[-1]
        if "type" in call.output.schema["properties"]:  # the adjudicator knows
            name = re.search(r'Which type is "(.*?)"', prompt)
            return said(json.dumps({"type": NAMES.get(name[1], "none") if name else "praise"}))
        hit, miss = rates[call.member]
        luck = random.Random(f"{text} {call.member.replace('copy', 'bad')}")
        right = "praise" if "Ada" in text else "blame"
        if "label" in call.output.schema["properties"]:
            return said(json.dumps({"label": right if luck.random() < hit else "praise"}))
        found = [(word, NAMES[word]) for word in re.findall(r"\w+", text) if word in NAMES and luck.random() < hit]
        found += [(word, kind) for word, kind in ALIKE.items() if luck.random() < miss]
        return said(json.dumps({"entities": [{"text": word, "type": kind} for word, kind in found]}))

    return answer


def committee(*names: str) -> dict[str, Any]:
    models = {name: {"model": f"model-{name}", "roles": ["generator"]} for name in names}
    models["judge"] = {"model": "model-judge", "roles": ["adjudicator"]}
    return {"models": models, "reviewers": 0}


def write(folder: Path, rows: list[dict[str, str]], **changes: Any) -> None:
    section = {"types": ["person", "city"], "store": 0.25, "control": 20} | changes.pop("annotate", {})
    made = {"arm": "annotate", "committee": committee("good", "fair", "bad"), "annotate": section} | changes
    write_job(folder, make_recipe(**made))
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def _word_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "Embedder", WordEmbedder)
    monkeypatch.setattr(asking, "resolve", fake_resolve)


def facts_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["synthesis"]
    return found


RATES = {"good": (0.9, 0.05), "fair": (0.85, 0.1), "other": (0.8, 0.15), "bad": (0.5, 0.5), "copy": (0.5, 0.5)}
FIVE = committee(*RATES)


def test_committee_beats_its_best_member_and_majority_and_another_start_asks_nothing(tmp_path: Path) -> None:
    write(tmp_path, sentences(80), committee=FIVE, annotate={"doubt": [0.2, 0.8]})
    scripted_run.make(tmp_path, answer=annotator(RATES))
    facts, rows = facts_of(tmp_path), read_lineage(tmp_path / "lineage.parquet")
    assert facts["states"]["accepted"] == len(rows) == 60
    assert facts["annotation"]["adjudicated"] == facts["annotation"]["doubtful"] > 0
    assert facts["tokens_by_role"].keys() == {"annotator", "adjudicator"}
    first = rows[0]
    assert first["instruction"].startswith("Find every name")
    assert json.loads(first["response"]).keys() == {"entities"}
    assert {review["reviewer"] for review in first["reviews"]} == set(RATES)
    ruled = next(row for row in rows if row["ruling"])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(explain(tmp_path, ruled["candidate_id"], full=True))
    shown = console.export_text()
    assert "adjudicator decided labels in doubt" in shown
    assert "Several annotators read this text" in shown
    asked = (tmp_path / "asked.txt").read_text()
    lineage = (tmp_path / "lineage.parquet").read_bytes()
    scripted_run.make(tmp_path, answer=annotator(RATES))
    assert (tmp_path / "asked.txt").read_text() == asked
    assert (tmp_path / "lineage.parquet").read_bytes() == lineage
    # The scripted adjudicator knows the truth, so the gain is measured without it, on the recorded votes.
    write(tmp_path, sentences(80), committee=FIVE, annotate={"doubt": [0.2, 0.8]}, review={"disputed": "accept"})
    scripted_run.make(tmp_path, answer=annotator(RATES))
    assert (tmp_path / "asked.txt").read_text() == asked
    facts = facts_of(tmp_path)
    gold = facts["annotation"]["gold"]
    assert gold["best_member"] == "good"
    assert gold["gain_over_best_member"]["low"] > 0
    assert gold["gain_over_majority"]["low"] > 0
    # What the first recipe paid the adjudicator is no cost of this one.
    assert "adjudicator" in facts["tokens_by_role"]
    assert {part["role"] for part in facts["used"]} == {"annotator"}


@pytest.mark.parametrize(
    ("way", "disputed"), [("measured", "accept"), ("label_model", "reject"), ("majority", "adjudicate")]
)
def test_whole_texts_get_a_label_in_every_way(tmp_path: Path, way: str, disputed: str) -> None:
    rows = sentences(32, "label")
    rows[3]["response"] = "?"  # not labeled by people
    section = {"kind": "label", "types": ["praise", "blame"], "votes": way, "choose": "random"}
    write(tmp_path, rows, annotate=section, review={"disputed": disputed})
    scripted_run.make(tmp_path, answer=annotator({"good": (1, 0), "fair": (0.9, 0), "bad": (0.8, 0)}))
    facts = facts_of(tmp_path)
    assert facts["annotation"]["gold"]["committee"]["f1"] >= 0.85
    assert facts["states"]["rejected"] == (facts["annotation"]["doubtful"] if disputed == "reject" else 0)
    assert facts["states"]["accepted"] + facts["states"]["rejected"] == 24


def test_gold_beside_the_text_gives_f1_of_one(tmp_path: Path) -> None:
    """Copy the last example, which is the nearest: where it is the text itself, all labels are right."""
    rows = sentences(30)
    rows += [{**row, "id": f"copy-{row['id']}"} for row in rows]
    write(tmp_path, rows, annotate={"store": 0.5, "votes": "majority"}, committee=committee("good"))

    def copy(call: Call) -> Completion:
        return said(re.findall(r"</text>\n(\{.*\})", call.messages[-1][1])[-1])

    scripted_run.make(tmp_path, answer=copy)
    store = {text.text for text in plan_work(make_recipe(**json.loads((tmp_path / "recipe.yaml").read_text())),
                                             [Seed(**row) for row in rows]).store}  # fmt: skip
    assert facts_of(tmp_path)["annotation"]["near_copies"] > 0
    written = {row["parents"][0]: row["response"] for row in read_lineage(tmp_path / "lineage.parquet")}
    exact = [row for row in rows if row["id"] in written and row["instruction"] in store]
    assert len(exact) > 10
    assert all(json.loads(written[row["id"]]) == json.loads(row["response"]) for row in exact)


def test_budget_ends_a_run_with_rows_and_more_of_it_continues(tmp_path: Path) -> None:
    rates = annotator({"good": (1, 0), "fair": (1, 0), "bad": (1, 0)})
    write(tmp_path, sentences(40), budget={"tokens": 4500})
    scripted_run.make(tmp_path, answer=rates)
    before = facts_of(tmp_path)
    assert before["stopped"] == ["budget"]
    assert 0 < before["states"]["accepted"] < 30
    asked = (tmp_path / "asked.txt").read_text().split()
    write(tmp_path, sentences(40))
    scripted_run.make(tmp_path, answer=rates)
    assert facts_of(tmp_path)["states"]["accepted"] == 30
    assert len(set(again := (tmp_path / "asked.txt").read_text().split())) == len(again)
    assert again[: len(asked)] == asked


def test_unusable_answer_is_an_abstention_and_lost_server_a_failure(tmp_path: Path) -> None:
    def answer(call: Call) -> Completion | Fault:
        if call.member == "bad":
            return said("no JSON")
        if call.member == "good" and "number 7." in call.messages[-1][1].rsplit("<text>", 1)[1]:
            return Fault("error", "gone", permanent=False)
        return annotator(RATES)(call)

    write(tmp_path, sentences(12), annotate={"votes": "majority", "examples": 0, "store": 0.0},
          engine={"max_attempts": 1})  # fmt: skip
    scripted_run.make(tmp_path, answer=answer)
    facts = facts_of(tmp_path)
    assert facts["annotation"]["unusable"]["bad"] == 11
    assert (facts["states"]["accepted"], facts["states"]["failed"], facts["unanswered"]) == (11, 1, 1)
    scripted_run.make(tmp_path, answer=annotator(RATES))
    assert facts_of(tmp_path)["states"]["accepted"] == 12


# --- labels of people, examples and votes ---------------------------------------------------------------------------


def test_labels_are_read_in_the_forms_that_people_write() -> None:
    spans = (LabelSpan(0, 3, "person"), LabelSpan(8, 12, "city"))
    bare = '[{"text": "Ada", "type": "person"}, {"text": "Oslo", "type": "city"}]'
    for response in (bare, f'{{"entities": {bare}}}'):
        found = read_labeled(Seed("s", "qa", "Ada saw Oslo.", response), SPANS)
        assert found is not None
        assert found.spans == spans
        assert read_labels(found.text, write_labels(found.text, found.spans, SPANS), SPANS) == spans
    for response in ("blame", '{"label": "blame"}'):
        found = read_labeled(Seed("s", "qa", "No.", response), LABEL)
        assert found is not None
        assert found.labels == '{"label": "blame"}'
    assert read_labeled(Seed("s", "qa", "Ada.", "?"), SPANS) is None


@pytest.mark.parametrize(
    ("response", "config", "sentence"),
    [
        ("Ada", SPANS, "the seed `s`: its response is no labels of `annotate.kind: spans`; write"),
        ('[{"text": "Ada", "type": "pet"}]', SPANS, "`pet` is not in `annotate.types` .*add it"),
        ('[{"text": "Bo", "type": "city"}]', SPANS, "1 of its labels are not in its text"),
        ("joy", LABEL, "its response is no labels"),
    ],
)
def test_labels_that_do_not_fit_are_one_sentence(response: str, config: AnnotateConfig, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_labeled(Seed("s", "qa", "Ada saw Oslo.", response), config)


def test_nearest_example_is_last_and_no_text_is_its_own() -> None:
    recipe = make_recipe(arm="annotate", committee=committee("good"),
                         annotate={"types": ["person", "city"], "examples": 3, "store": 0.5})  # fmt: skip
    work = plan_work(recipe, [Seed(**row) for row in sentences(20)])
    examples, _ = asyncio.run(choose_examples(recipe, work))
    held = {text.id for text in work.store}
    assert len(held) == 10 == len(work.texts)
    assert not held & {seed.id for seed in work.texts}
    for control in work.controls:
        assert control.id not in {text.id for text in examples[control.id]}
    encode = WordEmbedder().encode
    for seed in work.texts:
        near = [float((encode([seed.instruction]) @ encode([text.text]).T)[0, 0]) for text in examples[seed.id]]
        assert near == sorted(near)
        assert len(near) == 3


def test_verdict_leaves_doubt_where_it_is_and_sure_labels_go_before() -> None:
    sure, rival, open_, gone = (
        LabelSpan(0, 4, "a"),
        LabelSpan(2, 9, "a"),
        LabelSpan(20, 24, "b"),
        LabelSpan(30, 33, "a"),
    )
    verdict = decide_labels({sure: 0.9, rival: 0.5, open_: 0.4, gone: 0.1}, SPANS)
    assert (verdict.sure, dict(verdict.doubtful)) == ((sure,), {open_: 0.4})
    assert verdict.certainty == 0.5
    praise, blame = LabelSpan(0, 5, "praise"), LabelSpan(0, 5, "blame")
    assert decide_labels({praise: 0.6, blame: 0.4}, LABEL).doubtful == {praise: 0.6}
    assert decide_labels({praise: 0.9, blame: 0.2}, LABEL).sure == (praise,)


def test_label_model_merges_copies_of_a_member() -> None:
    luck = random.Random(1)
    found = []
    for n in range(60):
        bad = AlignedSpans(() if luck.random() < 0.5 else (LabelSpan(0, 2, "a"),), 0)
        others = {name: AlignedSpans((LabelSpan(4, 6, "a"),) if luck.random() < 0.9 else (), 0) for name in ("x", "y")}
        found.append(AnnotatedText(f"t{n}", "ab cd ef", {**others, "bad": bad, "copy": bad}))
    count = count_votes(SPANS.model_copy(update={"votes": "label_model"}), ["x", "y", "bad", "copy"], [], found)
    assert count.facts["merged"] == [["bad", "copy"]]


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"annotate": None}, "needs to know what to look for; set `annotate.types`"),
        ({"arm": "refined"}, "`annotate` belongs to `arm: annotate`, not to `arm: refined`"),
        ({"committee": {"reviewers": 0, "models": {"a": {"model": "m", "roles": ["generator"]}}}},
         "give one the role `adjudicator`"),
        ({"committee": {"models": {c: f"m-{c}" for c in "abcde"}}}, "set `committee.reviewers: 0`"),
        ({"review": {"control_items": 4}}, "leave out `control_items`"),
        ({"annotate": {"types": ["a", "none"]}}, "rename it"),
        ({"annotate": {"types": ["a"], "doubt": [0.7, 0.3]}}, "range of probabilities"),
    ],
)  # fmt: skip
def test_recipe_that_does_not_fit_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    base = {"arm": "annotate", "committee": committee("good"), "annotate": {"types": ["a"]}}
    with pytest.raises(ValueError, match=sentence):
        make_recipe(**base | changes)


@pytest.mark.parametrize(
    ("store", "sentence"), [(0.0, "the store has 0 of the 40 labeled seeds"), (1.0, "no seed is left to be labeled")]
)
def test_seeds_that_do_not_suffice_are_found_before_anything_is_spent(
    store: float, sentence: str, tmp_path: Path
) -> None:
    changes = ["--dry-run", "--runs", str(tmp_path), f"annotate.store={store}"]
    done = CliRunner().invoke(app, ["synthesize", RECIPE, *changes])
    assert isinstance(done.exception, DataError)
    assert sentence in str(done.exception)


def test_forecast_counts_texts_and_control_texts(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["plan", RECIPE, "--runs", str(tmp_path)])
    assert done.exit_code == 0, done.output or done.exception
    assert re.search(r"in all\s+120\b", done.output)  # three members, 20 control texts and 20 texts
    assert "labels in doubt" in done.output
