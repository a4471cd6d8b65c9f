"""Roles by competence: who writes and reviews what, in a whole run, and what cannot be assigned so."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from scripted_run import answer_by_content, content, make_recipe, make_seeds, said, write_job

from gra.config.committee import CommitteeConfig
from gra.config.synthesis import SynthesisRecipe
from gra.data.export import read_lineage
from gra.engines.types import Call, Choice, Completion, Fault, ModelId, Text
from gra.runs.panel import competence_sentences
from gra.stats.competence import MemberCompetence
from gra.synthesis.committee.members import Member, make_members
from gra.synthesis.committee.roles import SampleKind, assign_roles
from gra.synthesis.measuring.competence import CommitteeCompetence, features

DOMAINS = ("qa", "math")
REVIEW = {
    "ask": "yes_no",
    "comments": "never",
    "control_items": 12,
    "control_kinds": ["natural"],
    "control_questions": "questions.jsonl",
    "accept_mean": 4.0,
    "dispute_std": 10.0,
}
COMMITTEE = {
    "models": {name: f"model-{name}" for name in "abcde"},
    "reviewers": 2,
    "assignment": "competence",
    "competence": {"random": 0.0},
}


def sure(*log_odds: float) -> MemberCompetence:
    """Return a competence with these log-odds by domain."""
    return MemberCompetence((*log_odds, 0.0), 0.0, None)


def competence(price: float = 0.0, **reviewers: MemberCompetence) -> CommitteeCompetence:
    written = {"a": sure(3, -3), "b": sure(-3, 3), "c": sure(0, 0), "d": sure(0, 0), "e": sure(0, 0)}
    costs = {"a": 1.0, "b": 0.5, "c": 0.1, "d": 0.1, "e": 0.1}
    return CommitteeCompetence(DOMAINS, written, reviewers, (costs, costs), price)


def members(recipe: SynthesisRecipe) -> dict[str, Member]:
    assert recipe.committee is not None
    ids = {n: ModelId(m.model, f"sha256:{m.model}", "t") for n, m in recipe.committee.models.items()}
    return make_members(recipe.committee, recipe.review, ids)


def recipe(**committee: Any) -> SynthesisRecipe:
    return make_recipe(committee=COMMITTEE | committee, review=REVIEW)


def test_each_domain_goes_to_the_member_that_knows_it() -> None:
    made = recipe()
    for domain, expected in (("qa", "a"), ("math", "b")):
        roles = [assign_roles(made, members(made), 1, i, competence(), domain, make_seeds()[:2]) for i in range(10)]
        assert {each.generator.name for each in roles} == {expected}


def test_reviewers_are_those_worth_asking_and_at_most_the_recipes_number() -> None:
    made = recipe(competence={"random": 0.0, "price": 0.5})
    known = {"b": sure(-1, 2), "c": sure(3, -1), "d": sure(2, -1), "e": sure(0.01, -1)}
    for index in range(20):
        roles = assign_roles(made, members(made), 1, index, competence(0.5, **known), "qa", make_seeds()[:2])
        able = [name for name in ("c", "d") if roles.adjudicator is None or name != roles.adjudicator.name]
        assert [member.name for member in roles.reviewers] == able
        assert roles.adjudicator is not None
        assert len({roles.generator.name, roles.adjudicator.name, *able}) == 2 + len(able)


def test_one_reviewer_is_left_where_none_is_worth_its_cost() -> None:
    made = recipe(competence={"random": 0.0, "price": 0.5})
    known = {name: sure(-1, -1) for name in "bcde"}
    roles = assign_roles(made, members(made), 1, 0, competence(0.5, **known), "qa", [])
    assert len(roles.reviewers) == 1


def test_a_tenth_of_the_candidates_is_drawn_at_random() -> None:
    made = recipe(competence=None)
    drawn = [assign_roles(made, members(made), 1, i, competence(), "qa", []).generator.name for i in range(1000)]
    assert 850 < Counter(drawn)["a"] < 950
    assert set(drawn) == set("abcde")


def test_roles_are_drawn_until_competence_is_measured() -> None:
    made = recipe()
    drawn = {assign_roles(made, members(made), 1, i).generator.name for i in range(60)}
    assert drawn == set("abcde")


def test_features_are_domain_and_length() -> None:
    assert features(DOMAINS, SampleKind("math", 20)) == [0.0, 1.0, 0.0]
    assert features(DOMAINS, SampleKind("", 41))[2] == pytest.approx(0.693, abs=0.001)


# --- whole runs -----------------------------------------------------------------------------------------------------


def knowing(call: Call) -> Completion | Fault:
    """Member a knows sums, b knows capitals; reviewers c and d see what is right, a and b do not."""
    prompt, luck = call.messages[-1][1], random.Random(content(call))
    name = call.model.name[-1]
    if isinstance(call.output, Text) and prompt.startswith("What is "):
        number, kind = int(prompt.split()[2]), "math" if "+" in prompt else "qa"
        right = luck.random() < (0.95 if {"a": "math", "b": "qa"}.get(name) == kind else 0.2)
        return said(f"The answer is {2 * number + (not right)}.")
    if isinstance(call.output, Choice) and "<answer>" in prompt and "What is " in prompt:
        number = int(prompt.split("What is ")[1].split()[0])
        good = 0.8 if f"The answer is {2 * number}." in prompt else 0.2
        yes = min(0.95, max(0.05, (good if name in "cd" else 0.5) + luck.gauss(0, 0.1)))
        return said("yes", "length", yes=yes, no=1 - yes)
    if isinstance(call.output, Choice):
        return said("yes", "length", yes=0.9, no=0.1)
    return answer_by_content(call)


def run(folder: Path, made: SynthesisRecipe) -> dict[str, Any]:
    """Run a recipe with its control questions; return the manifest's facts."""
    write_job(folder, made)
    questions = [
        {"id": f"n{i}", "domain": "math", "instruction": f"What is {i} + {i} ?", "value": 2 * i} for i in range(20)
    ] + [{"id": f"m{i}", "domain": "qa", "instruction": f"What is {i} twice?", "value": 2 * i} for i in range(20)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    scripted_run.make(folder, answer=knowing)
    facts: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["synthesis"]
    return facts


def test_a_run_lets_members_write_what_they_know_and_another_start_asks_nothing(tmp_path: Path) -> None:
    made = make_recipe(committee=COMMITTEE, review=REVIEW, rounds={"count": 1, "accept": 8, "max_candidates": 24})
    facts = run(tmp_path, made)["competence"]
    rows = read_lineage(tmp_path / "lineage.parquet")
    writers = {domain: Counter(r["generator"] for r in rows if r["domain"] == domain) for domain in DOMAINS}
    assert writers["math"].most_common(1)[0][0] == "a"
    assert writers["qa"].most_common(1)[0][0] == "b"
    for row in rows:  # e, which says nothing, reviews only where one that sees what is right adjudicates
        seeing = {"c", "d"} - {row["adjudicator"]}
        assert seeing <= set(row["reviewers"]) <= seeing | ({"e"} if len(seeing) == 1 else set())
    assert facts["generators"]["questions"] == 24
    assert facts["generators"]["gain"][0] > 0.1
    assert facts["generators"]["router"] > 0.8
    assert any("Choosing generators by competence is right on" in text for text in competence_sentences(facts))
    asked = (tmp_path / "asked.txt").read_text()
    scripted_run.make(tmp_path, answer=knowing)
    assert (tmp_path / "asked.txt").read_text() == asked
    assert read_lineage(tmp_path / "lineage.parquet") == rows


def test_competence_is_measured_on_the_items_of_the_panel_beside_open_domains(tmp_path: Path) -> None:
    review = REVIEW | {"control_kinds": ["natural", "mismatched"], "open_domains": ["qa"]}
    rounds = {"count": 1, "accept": 2, "max_candidates": 8}
    facts = run(tmp_path, make_recipe(committee=COMMITTEE, review=review, rounds=rounds))
    panel = facts["panel"]
    assert panel["open"]["domains"] == ["qa"]
    assert facts["competence"]["reviewers"]["questions"] == sum(panel["items"].values())
    assert all(row["reviews"] for row in read_lineage(tmp_path / "lineage.parquet") if row["state"] == "accepted")


def test_competence_that_could_leave_an_open_domain_without_reviewers_is_one_sentence() -> None:
    models = {name: f"model-{name}" for name in "abcd"} | {
        "e": {"model": "model-e", "ask": "logprob", "roles": ["reviewer"]}
    }
    review = REVIEW | {"control_kinds": ["natural", "mismatched"], "open_domains": ["qa"]}
    with pytest.raises(ValueError, match=r"because e \(.*\) are not asked there; take another `committee.assignment`"):
        make_recipe(committee=COMMITTEE | {"models": models}, review=review)
    drawn = COMMITTEE | {"models": models, "assignment": "random", "competence": None}
    assert make_recipe(committee=drawn, review=review).review.open_domains == ["qa"]


def test_competence_without_questions_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"learns from questions that members answer; set `review.control_items`"):
        make_recipe(committee=COMMITTEE)


def test_section_without_its_assignment_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="only with `assignment: competence`, not `random`"):
        CommitteeConfig.model_validate(COMMITTEE | {"assignment": "random"})
