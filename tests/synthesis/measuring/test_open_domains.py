"""Panels of open domains, which have no right answer, and reviewers that are asked in some domains only."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import scripted_run
from measured_run import REVIEW, knowing, made, prepare

from gra.engines.types import Call, Completion, Fault, Text
from gra.runs.panel import panel_sentences


def test_open_domain_has_a_panel_of_its_own_without_those_who_look_for_one_answer(tmp_path: Path) -> None:
    models: dict[str, Any] = {name: f"model-{name}" for name in "abcde"}
    models["b"] = {"model": "model-b", "ask": "logprob", "roles": ["reviewer"]}
    models["c"] = {"model": "model-c", "ask": "likelihood", "roles": ["reviewer"]}
    committee = {"models": models, "assignment": "fixed", "reviewers": 3}
    review = REVIEW | {"ask": "integers", "open_domains": ["qa"], "aggregate": "weighted", "accept_mean": 1.0}
    review["control_instructions"] = 0
    rows, facts = made(tmp_path / "run", committee=committee, review=review)
    reviewed = [row for row in rows if row["reviews"]]
    assert {row["domain"] for row in reviewed} == {"qa", "math"}
    for row in reviewed:
        names = {review["reviewer"] for review in row["reviews"]}
        assert names == ({"b", "d"} if row["domain"] == "math" else {"c", "d"})
    panel = facts["panel"]
    assert panel["target"] == "natural"
    assert panel["open"]["domains"] == ["qa"]
    assert set(panel["open"]["items"]) == {"good", "mismatched"}
    assert (set(panel["kinds"]), set(panel["open"]["kinds"])) == ({"a", "b", "d", "e"}, {"a", "c", "d", "e"})
    assert any(s.startswith("In open domains (qa): ") for s in panel_sentences(panel))
    items = pq.read_table(tmp_path / "run" / "control_items.parquet").to_pylist()
    unasked = [item for item in items if "b" not in json.loads(item["scores"])]
    assert {item["kind"] for item in unasked} == {"good", "mismatched"}


def test_members_that_differ_in_draws_share_answers_and_a_recipe_says_where_each_is_asked(tmp_path: Path) -> None:
    models: dict[str, Any] = {name: f"model-{name}" for name in "ae"}
    for name, draws in (("one", 1), ("two", 2)):
        models[name] = {"model": "model-b", "ask": "agreement", "draws": draws, "roles": ["reviewer"]}
        models[name]["asked_in"] = "closed"
    models["critic"] = {"model": "model-d", "ask": "integers", "roles": ["reviewer"], "asked_in": "open"}
    committee = {"models": models, "assignment": "fixed", "reviewers": 3}
    review = REVIEW | {"ask": "integers", "open_domains": ["qa"], "accept_mean": 1.0}
    review["control_instructions"] = 0
    rows, facts = made(tmp_path / "run", committee=committee, review=review)
    panel = facts["panel"]
    assert (set(panel["kinds"]), set(panel["open"]["kinds"])) == ({"a", "e", "one", "two"}, {"a", "e", "critic"})
    asked = {(row["domain"], review["reviewer"]) for row in rows for review in row["reviews"]}
    assert {("math", "one"), ("qa", "critic")} <= asked
    assert not {("math", "critic"), ("qa", "one"), ("qa", "two")} & asked
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "ledger.sqlite")) as db:
        requests = db.execute("SELECT request FROM calls WHERE role = 'solver' AND model = 'model-b'").fetchall()
    drawn = Counter((str(given["messages"]), given["sample"]) for given in (json.loads(r) for (r,) in requests))
    assert {sample for _, sample in drawn} == {0, 1, 2}  # 0 answers a control question
    assert set(drawn.values()) == {1}  # the draw that both members need is one call


def test_members_answer_control_questions_themselves_while_others_answer_theirs(tmp_path: Path) -> None:
    models: dict[str, Any] = {name: f"model-{name}" for name in "acde"}
    models["b"] = {"model": "model-b", "ask": "agreement", "draws": 2, "roles": ["reviewer"]}
    drawn: list[int] = []

    def noting(call: Call) -> Completion | Fault:
        if isinstance(call.output, Text) and call.messages[-1][1].startswith("What is "):
            drawn.append(call.sample)
        return knowing(call)

    prepare(tmp_path, committee={"models": models}, review=REVIEW | {"ask": "yes_no"})
    scripted_run.make(tmp_path, answer=noting)
    last_of_others = len(drawn) - 1 - drawn[::-1].index(0)
    assert {1, 2} <= set(drawn[:last_of_others])


def test_adjudicator_is_measured_on_the_items_that_calibrate_it_alone(tmp_path: Path) -> None:
    models: dict[str, Any] = {name: f"model-{name}" for name in "abcd"}
    models["judge"] = {"model": "model-e", "roles": ["adjudicator"]}
    review = REVIEW | {"ask": "integers", "dispute_std": 0.0, "control_instructions": 0}
    _, facts = made(tmp_path / "run", committee={"models": models, "reviewers": 2}, review=review)
    items = facts["panel"]["items"]
    assert {"good", "mismatched"} < set(items)
    judge, reviewer = facts["reviewers"]["judge"], facts["reviewers"]["a"]
    assert len(judge["good"]) + len(judge["bad"]) + judge["unanswered"] == items["right_answer"] + items["wrong_answer"]
    assert len(reviewer["good"]) + len(reviewer["bad"]) + reviewer["unanswered"] == sum(items.values())


def test_only_the_reviewers_of_a_disputed_response_are_asked_for_comments(tmp_path: Path) -> None:
    models: dict[str, Any] = {name: f"model-{name}" for name in "abcde"}
    models["b"] = {"model": "model-b", "ask": "logprob", "roles": ["reviewer"]}
    review = REVIEW | {"ask": "integers", "open_domains": ["qa"], "comments": "disputed", "dispute_std": 0.0}
    review["control_instructions"] = 0
    committee = {"models": models, "assignment": "fixed", "reviewers": 3}
    rows, _ = made(tmp_path / "run", committee=committee, review=review)
    disputed = [row for row in rows if row["disputed"]]
    assert {len(row["reviews"]) for row in disputed if row["domain"] == "qa"} == {2}
    assert all(review["comment"] for row in disputed for review in row["reviews"])
