"""Panels fitted on control items, and whole runs with natural control items, weights and early stopping."""

from __future__ import annotations

import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scripted_run
from measured_run import REVIEW, knowing, made, prepare
from rich.console import Console
from scripted_run import make_recipe, said

from gra.config.loader import load_recipe
from gra.config.review import ReviewConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import GraError, ModelUnavailable, RecipeError
from gra.core.run_folder import RunFolder
from gra.data.export import read_lineage
from gra.engines.types import Call, Completion, Fault, Text
from gra.evaluation.suite import suite_items
from gra.reports.html import write_report
from gra.runs.explain import explain
from gra.runs.panel import panel_sentences
from gra.serving.models import ModelRegistry
from gra.synthesis.committee.calls import MissingAnswers
from gra.synthesis.job import Job
from gra.synthesis.measuring.controls import ControlItem, ControlKind
from gra.synthesis.measuring.panel import fit_panel
from gra.synthesis.rounds import write_samples as growth
from gra.synthesis.run import make_job
from gra.training.data.dataset import read_rows

LUCK = random.Random(3)


def natural(count: int) -> list[ControlItem]:
    return [
        ControlItem(kind, f"q{i}", "How many?", "x" * LUCK.randint(5, 90), "writer")
        for i in range(count)
        for kind in (ControlKind.RIGHT_ANSWER, ControlKind.WRONG_ANSWER)
    ]


def scored(items: list[ControlItem], skill: float) -> dict[str, float]:
    return {item.name: 5 + (skill if item.is_good else -skill) + LUCK.gauss(0, 1.5) for item in items}


def fitted(items: list[ControlItem], raw: dict[str, dict[str, float]], **review: Any):
    config = ReviewConfig.model_validate({"control_items": 4, **review})
    return fit_panel(
        items, raw, config, costs=dict.fromkeys(raw, 1.0), families=dict.fromkeys(raw, "x"), authors={"writer": "x"}
    )


def test_reviewer_that_prefers_wrong_answers_gets_no_say() -> None:
    items = natural(60)
    found = fitted(items, {"good": scored(items, 1.5), "inverted": scored(items, -1.5)}, aggregate="weighted")
    assert found.calibrations["inverted"](9.0) == found.calibrations["inverted"](1.0)
    assert found.panel.score({"good": 9.0, "inverted": 5.0}) > found.panel.score({"good": 1.0, "inverted": 5.0})
    assert any("inverted is worse than a coin on wrong_answer" in note for note in found.notes)


def test_sentences_say_when_the_panel_is_no_better_than_one_reviewer() -> None:
    items = natural(80)
    one = scored(items, 1.5)
    told = " ".join(panel_sentences(fitted(items, {"one": one, "coin": scored(items, 0.0)}).facts))
    assert "no better than one alone" in told or "worse than one alone" in told
    three = {name: scored(items, 1.0) for name in ("a", "b", "c")}
    assert "better than its best member" in " ".join(panel_sentences(fitted(items, three).facts))


def test_few_natural_items_leave_all_items_to_calibrate_on_and_say_so() -> None:
    items = natural(2) + [
        ControlItem(kind, f"s{i}", "Say it.", "So it is.")
        for i in range(9)
        for kind in (ControlKind.GOOD, ControlKind.MISMATCHED)
    ]
    found = fitted(items, {"a": scored(items, 2.0)})
    assert found.facts["target"] == "mixed"
    assert any("2 times right and 2 times wrong" in note for note in found.notes)
    assert any("too few control items" in note for note in found.notes)
    assert set(found.facts["kinds"]["a"]) == {"mismatched", "wrong_answer"}


def test_clones_are_named() -> None:
    items = natural(20)
    one = scored(items, 1.0)
    found = fitted(items, {"one": one, "two": {name: value / 2 for name, value in one.items()}})
    assert any("one and two give the same scores" in note for note in found.notes)


def test_reviewers_that_say_nothing_are_no_clones() -> None:
    """Their calibrations are flat, so their calibrated scores are alike; what they said is not."""
    items = natural(40)
    raw = {"good": scored(items, 1.5), "inverted": scored(items, -1.0), "other": scored(items, -1.0)}
    assert not any("give the same scores" in note for note in fitted(items, raw).notes)


@pytest.mark.parametrize("accept_mean", [0.0, 10.0])
def test_threshold_that_all_items_pass_or_fail_leaves_facts_that_json_can_hold(accept_mean: float) -> None:
    items = natural(30)
    raw = {name: scored(items, 1.0) for name in "ab"}
    found = fitted(items, raw, strategy="adaptive", accept_mean=accept_mean)
    json.loads(json.dumps(found.facts, allow_nan=False))


def test_review_stops_early_only_after_the_reviewers_that_the_bounds_were_fitted_on() -> None:
    """A candidate whose panel lacks the first reviewer has none of the prefixes."""
    items = natural(60)
    panel = fitted(items, {name: scored(items, 3.0) for name in "abc"}, strategy="adaptive", accept_mean=5.0).panel
    assert panel.stop is not None
    first, second, _ = panel.stop.order
    assert panel.decided({first: 10.0, second: 10.0})
    assert not panel.decided({second: 10.0})


@pytest.mark.parametrize("aggregate", ["mean", "weighted", "label_model"])
def test_each_aggregate_orders_items_and_its_facts_are_plain_json(aggregate: str) -> None:
    items = natural(60)
    raw = {name: scored(items, 1.0) for name in "abc"}
    found = fitted(items, raw, aggregate=aggregate, strategy="adaptive")
    json.loads(json.dumps(found.facts, allow_nan=False))
    high, low = (found.panel.score(dict.fromkeys("abc", score)) for score in (9.0, 1.0))
    assert 0 <= low < 5 < high <= 10
    assert found.facts["statistics"]["auc"]["auc"] > 0.7


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _embedder() -> Iterator[None]:
    before = growth.Embedder, growth.resolve
    yield
    growth.Embedder, growth.resolve = before  # type: ignore[misc]


def test_a_run_measures_its_panel_on_answers_that_members_wrote(tmp_path: Path) -> None:
    rows, facts = made(tmp_path / "run")
    panel = facts["panel"]
    assert panel["target"] == "natural"
    assert panel["items"]["right_answer"] >= 8 <= panel["items"]["wrong_answer"]
    assert panel["statistics"]["auc"]["auc"] > 0.8
    assert facts["committee_auc"] == panel["statistics"]["auc"]["auc"]
    assert set(panel["instruction_checks"]) == {"good", "incomplete", "merged", "personal", "impossible"} & set(
        panel["instruction_checks"]
    ) | {"good", "merged", "personal", "impossible"}
    assert facts["reviewers"]["a"]["calibration"]["slope"] > 0
    # The control items can train a critic as they are.
    trained = read_rows(tmp_path / "run" / "control_items.parquet")
    items = pq.read_table(tmp_path / "run" / "control_items.parquet").to_pylist()
    assert Counter(item["kind"] for item in items) == panel["items"]
    assert [row.completion[0]["content"] for row in trained] == ["yes" if item["right"] else "no" for item in items]
    assert all(item["response"] in row.prompt[0]["content"] for row, item in zip(trained, items, strict=True))
    assert all(set(json.loads(item["scores"])) <= set(facts["reviewers"]) for item in items)
    assert "control_items.parquet" in facts["files"]
    assert any(row["state"] == "accepted" for row in rows)


def test_another_start_asks_nothing_new_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rows, facts = made(folder, review=REVIEW | {"ask": "yes_no", "aggregate": "weighted", "strategy": "adaptive"})
    asked = (folder / "asked.txt").read_text()
    scripted_run.make(folder, answer=knowing)
    assert (folder / "asked.txt").read_text() == asked
    assert read_lineage(folder / "lineage.parquet") == rows
    assert json.loads((folder / "manifest.json").read_text())["synthesis"]["panel"] == facts["panel"]


def test_adaptive_review_asks_fewer_reviewers(tmp_path: Path) -> None:
    full, _ = made(tmp_path / "full")
    adaptive, facts = made(tmp_path / "adaptive", review=REVIEW | {"ask": "yes_no", "strategy": "adaptive"})
    given = [sum(len(row["reviews"]) for row in rows) for rows in (full, adaptive)]
    assert given[1] < given[0]
    assert facts["panel"]["stop"]["changed"] <= 0.01


def test_report_card_and_explain_say_what_review_is_worth(tmp_path: Path) -> None:
    rows, facts = made(
        tmp_path / "run", review=REVIEW | {"ask": "yes_no", "aggregate": "weighted", "strategy": "adaptive"}
    )
    page = write_report(tmp_path / "run", title="run", command="gra synthesize").read_text()
    for sentence in panel_sentences(facts["panel"]):
        assert sentence in page.replace("&#39;", "'")
    assert "wrong answer by a member" in page
    assert "Calibration of the panel" in page
    assert "An adaptive review asks" in page
    card = (tmp_path / "run" / "dataset" / "README.md").read_text()
    assert "| `unreviewed.parquet` |" in card
    row = next(row for row in rows if row["reviews"])
    screen = io.StringIO()
    Console(file=screen, width=200).print(explain(tmp_path / "run", row["candidate_id"]))
    for sentence in panel_sentences(facts["panel"]):
        assert sentence in screen.getvalue()
    for review in row["reviews"]:
        auc = facts["reviewers"][review["reviewer"]]["auc"]
        scores = [f"{value:.2f}" for value in (review["score"], review["raw"], auc)]
        assert re.search(rf"{review['reviewer']} +{' +'.join(map(re.escape, scores))}", screen.getvalue())


def test_adaptive_review_alone_is_fitted_too(tmp_path: Path) -> None:
    review = {"ask": "yes_no", "control_items": 6, "strategy": "adaptive", "accept_mean": 4.0, "comments": "never"}
    _, facts = made(tmp_path / "run", review=review)
    assert facts["panel"]["stop"]["order"]


def test_control_items_that_need_no_member_do_not_wait_for_members_answers(tmp_path: Path) -> None:
    asked: list[str] = []

    def noting(call: Call) -> Completion | Fault:
        question = isinstance(call.output, Text) and call.messages[-1][1].startswith("What is ")
        asked.append("question" if question else type(call.output).__name__)
        return knowing(call)

    prepare(tmp_path, review=REVIEW | {"ask": "yes_no"})
    scripted_run.make(tmp_path, answer=noting)
    last_question = len(asked) - asked[::-1].index("question")
    assert "Choice" in asked[:last_question]


def test_lost_control_questions_end_the_run_in_one_sentence_and_it_goes_on(tmp_path: Path) -> None:
    def lost(call: Call) -> Completion | Fault:
        if isinstance(call.output, Text) and call.messages[-1][1].startswith("What is 1"):
            return Fault("died", "its process is gone")
        return knowing(call)

    folder = tmp_path / "run"
    prepare(folder)
    with pytest.raises(MissingAnswers, match=r"no answer for \d+ control questions, .*its process is gone"):
        scripted_run.make(folder, answer=lost)
    scripted_run.make(folder, answer=knowing)
    assert json.loads((folder / "manifest.json").read_text())["synthesis"]["panel"]["target"] == "natural"


def test_members_that_answer_no_question_are_one_sentence(tmp_path: Path) -> None:
    def silent(call: Call) -> Completion | Fault:
        text = isinstance(call.output, Text) and call.messages[-1][1].startswith("What is ")
        return said("", "stop") if text else knowing(call)

    prepare(tmp_path, review=REVIEW | {"ask": "yes_no", "control_kinds": ["natural"]})
    with pytest.raises(ModelUnavailable, match="no member gave a usable answer to any control question"):
        scripted_run.make(tmp_path, answer=silent)


def test_changed_comparison_of_answers_changes_what_recorded_verdicts_are_known_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    job = Job(load_recipe(tmp_path / "recipe.yaml", SynthesisRecipe), RunFolder(tmp_path), tmp_path / "ledger.sqlite")
    registry = ModelRegistry(job.recipe.engine)
    before = job.fingerprint(registry)
    monkeypatch.setattr("gra.synthesis.job.ANSWERS_VERSION", 10**6)
    assert job.fingerprint(registry) != before


@pytest.mark.parametrize("content", [None, '{"instruction": "?"}\n'])
def test_wrong_file_of_questions_is_found_before_anything_is_spent(tmp_path: Path, content: str | None) -> None:
    prepare(tmp_path)
    (tmp_path / "questions.jsonl").unlink()
    if content is not None:
        (tmp_path / "questions.jsonl").write_text(content)
    loaded = load_recipe(tmp_path / "recipe.yaml", SynthesisRecipe)
    with pytest.raises(GraError, match="questions"):
        make_job(loaded, RunFolder(tmp_path / "run"), read_suite=suite_items, create=False)


@pytest.mark.parametrize("ask", ["logprob", "agreement", "reference"])
def test_each_way_of_asking_runs_and_resumes(tmp_path: Path, ask: str) -> None:
    rows, facts = made(tmp_path / ask, committee={"models": {
        **{name: f"model-{name}" for name in "ab"},
        "judge": {"model": "model-c", "ask": "yes_no", "roles": ["adjudicator"]},
        **{name: {"model": f"model-{name}", "ask": ask, "roles": ["reviewer"]} for name in "de"},
    }, "reviewers": 3})  # fmt: skip
    used = {review["reviewer"] for row in rows for review in row["reviews"]}
    assert {"d", "e"} & used
    assert facts["panel"]["kinds"]["d"]["wrong_answer"]["auc"] >= 0


def test_unreviewed_rows_are_as_many_as_accepted_ones_and_from_the_same_candidates(tmp_path: Path) -> None:
    rows, facts = made(tmp_path / "run", review=REVIEW | {"ask": "yes_no", "accept_mean": 5.5})
    drawn = pq.read_table(tmp_path / "run" / "dataset" / "unreviewed.parquet").to_pylist()
    by_id = {row["candidate_id"]: row for row in rows}
    assert len(drawn) == min(facts["states"]["accepted"], sum(bool(row["response"]) for row in rows))
    assert {row["id"] for row in drawn} <= set(by_id)
    assert any(by_id[row["id"]]["state"] != "accepted" for row in drawn)
    for row in drawn:
        assert row["completion"][0]["content"] == by_id[row["id"]]["response"]


@pytest.mark.parametrize(
    ("review", "message"),
    [
        ({"aggregate": "weighted"}, "fitted on control items"),
        ({"strategy": "adaptive"}, "fitted on control items"),
        ({"control_items": 4, "control_kinds": ["natural"]}, "control_questions"),
        ({"control_items": 4, "control_questions": "x.jsonl"}, "control_kinds"),
        ({"control_kinds": ["truncated"]}, "set `control_items`"),
        ({"open_domains": ["qa"]}, "set `control_items`"),
        ({"control_items": 4, "open_domains": ["prose"]}, "`prose` is not in `domains`"),
        ({"control_items": 4, "open_domains": ["qa"], "ask": "logprob"}, "an open domain may get no reviewer"),
        ({"control_items": 4, "open_domains": ["qa"], "ask": "likelihood"}, "any other domain may get no reviewer"),
        (
            {"control_items": 4, "control_kinds": ["natural"], "control_questions": "x", "open_domains": ["qa"]},
            "made from seeds",
        ),
        ({"control_instructions": 4}, "set `control_items`"),
        ({"control_items": 4, "control_kinds": ["truncated", "truncated"]}, "once"),
    ],
)
def test_settings_that_cannot_work_are_refused(review: dict[str, Any], message: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=message):
        make_recipe(review=review)


def test_share_of_right_control_items_does_not_move_the_scores() -> None:
    random = np.random.default_rng(5)
    few = [item for place, item in enumerate(natural(120)) if item.kind is ControlKind.WRONG_ANSWER or place % 6 == 0]
    for items in (natural(120), few):
        raw = {"a": {item.name: (1.0 if item.is_good else -1.0) + random.normal(0, 1) for item in items}}
        for aggregate in ("mean", "weighted"):
            found = fitted(items, raw, aggregate=aggregate)
            assert found.panel.score({"a": found.calibrations["a"](0.0)}) == pytest.approx(5.0, abs=1.0)
