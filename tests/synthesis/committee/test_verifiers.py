"""Verifiers: filters reject before reviews, scores count in the mean, abstentions count as nothing."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from rich.console import Console
from scripted_run import JitteryEngine, Script, make_recipe, make_seeds, open_ledger, said
from verified_candidates import committee

from gra.checks import answers
from gra.config.loader import load_recipe
from gra.config.review import VerifierConfig
from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import RecipeError
from gra.core.types import Abstained, Candidate, State, Verified
from gra.data.export import export
from gra.engines.broker import Broker, EnginePool
from gra.engines.types import Call, Completion, Fault, ModelId
from gra.runs.explain import explain
from gra.synthesis.candidate import CandidateSettings, generate_candidate
from gra.synthesis.committee import verifiers as programs
from gra.synthesis.committee.calls import CallRecorder
from gra.synthesis.committee.members import Member, make_members
from gra.synthesis.committee.verifiers import VerifierCounts, VerifierInput, VerifierResources, make_verifiers, versions
from gra.synthesis.funnel import PROGRAMS, steps
from gra.synthesis.rounds.round import grow
from gra.synthesis.summary import CandidateCounts

fresh = itertools.count()


def run_candidate(
    folder: Path,
    script: Script,
    *sections: dict[str, Any],
    models: dict[str, Any] | None = None,
    reviewers: int = 3,
    **review: Any,
) -> Candidate:
    """Run one candidate under a recipe with these verifiers."""
    recipe = make_recipe(
        domains=["math"],
        committee={"models": models or {name: f"model-{name}" for name in "abcde"}, "reviewers": reviewers},
        review={"comments": "never", "verifiers": list(sections), **review},
    )
    assert recipe.committee is not None
    ids = {name: ModelId(m.model, f"sha256:{m.model}", "t") for name, m in recipe.committee.models.items()}
    members = make_members(recipe.committee, recipe.review, ids)
    setting = CandidateSettings(recipe, members, verifiers=make_verifiers(recipe.review.verifiers, members))
    ledger = open_ledger(folder / f"{next(fresh)}.sqlite")
    try:
        pool = EnginePool({m.model.name: JitteryEngine(m.model.name, script) for m in members.values()}, 100.0)
        return asyncio.run(
            generate_candidate(setting, Broker(ledger, pool, backoff_s=0.0), grow({}, make_seeds()), 1, 0)
        )
    finally:
        ledger.close()


MATH_FILTER = {"kind": "math", "mode": "filter"}
FORMAT_FILTER = {"kind": "format", "mode": "filter"}
FORMAT_SCORE = {"kind": "format", "mode": "score"}


def test_failed_filter_rejects_before_any_review(tmp_path: Path) -> None:
    asked: list[Call] = []
    script = committee("What is 6 times 7?", "6 * 7 = 48, so 48.", asked=asked)
    ended = run_candidate(tmp_path, script, MATH_FILTER)
    assert (ended.state, ended.reason) == (State.REJECTED, "program math: wrong arithmetic")
    assert ended.verifications == (Verified("math", "filter", (), ("6 * 7 = 48",), 0.0),)
    assert (ended.reviews, ended.mean) == ((), None)
    assert sum(call.role == "reviewer" for call in asked) == 3  # the instruction checks


def test_passed_or_abstaining_filter_leaves_the_decision_to_reviewers(tmp_path: Path) -> None:
    script = committee("What is 6 times 7?", "6 * 7 = 42.")
    ended = run_candidate(tmp_path, script, MATH_FILTER, FORMAT_FILTER)
    assert ended.state is State.ACCEPTED
    passed, silent = ended.verifications
    assert passed == Verified("math", "filter", ("6 * 7 = 42",), (), 10.0)
    assert silent == Abstained("format", "filter", "the instruction plainly demands no form")
    assert ended.mean == 9.0  # of the three reviewers alone


def test_first_failed_filter_gives_the_reason(tmp_path: Path) -> None:
    script = committee("What is 6 times 7? Use at most 2 words.", "Well, 6 * 7 = 48.")
    first = run_candidate(tmp_path, script, FORMAT_FILTER, MATH_FILTER)
    assert first.reason == "program format: a demand on its form is not met"
    assert [verdict.verifier for verdict in first.verifications] == ["format"]
    assert run_candidate(tmp_path, script, MATH_FILTER, FORMAT_FILTER).reason.startswith("program math")


@pytest.mark.parametrize(
    ("answer", "score", "state"),
    [
        ("a small reply", 10.0, State.ACCEPTED),
        ("A Small Reply", 5.0, State.ACCEPTED),
        ("A Small Reply of many words", 0.0, State.REJECTED),
    ],
)
def test_scoring_verifier_counts_in_mean_and_spread(tmp_path: Path, answer: str, score: float, state: State) -> None:
    script = committee("Say hello in lowercase letters and at most 4 words.", answer)
    ended = run_candidate(tmp_path, script, FORMAT_SCORE, dispute_std=2.0)
    (verdict,) = ended.verifications
    assert isinstance(verdict, Verified)
    assert verdict.score == score
    assert ended.mean == pytest.approx(fmean([9, 9, 9, score]))
    assert len(ended.reviews) == 3
    assert ended.state is state


def test_abstention_of_a_scoring_verifier_is_no_score(tmp_path: Path) -> None:
    ended = run_candidate(tmp_path, committee("Greet me, please.", "Hello."), FORMAT_SCORE)
    assert isinstance(ended.verifications[0], Abstained)
    assert (ended.mean, ended.std, ended.state) == (9.0, 0.0, State.ACCEPTED)


def test_adjudicator_reads_findings_of_scoring_verifiers(tmp_path: Path) -> None:
    asked: list[Call] = []
    script = committee("Say hello in lowercase letters and at most 4 words.", "A Small Reply", asked=asked)
    ended = run_candidate(tmp_path, script, FORMAT_SCORE, dispute_std=1.0)
    assert ended.disputed
    (question,) = [call.messages[-1][1] for call in asked if call.role == "adjudicator"]
    assert "4 reviewers disagree" in question
    assert "a program found wrong: lowercase" in question


def test_reviewer_and_scoring_verifier_can_disagree(tmp_path: Path) -> None:
    script = committee("Say hello in lowercase letters and at most 4 words.", "A Small Reply")
    ended = run_candidate(tmp_path, script, FORMAT_SCORE, dispute_std=1.0, accept_mean=7.0, reviewers=1)
    assert (ended.mean, ended.disputed, ended.reason) == (7.0, True, "adjudicator kept it")


def test_a_program_is_heard_only_in_its_domains(tmp_path: Path) -> None:
    script = committee("What is 6 times 7?", "6 * 7 = 48.")
    recipe = make_recipe(review={"verifiers": [{**MATH_FILTER, "domains": ["qa"]}]})
    assert recipe.review.verifiers[0].domains == ["qa"]
    ended = run_candidate(tmp_path, script, {**MATH_FILTER, "domains": ["math"]})
    assert ended.state is State.REJECTED
    with pytest.raises(ValidationError, match="is for the domain `cooking`"):
        make_recipe(review={"verifiers": [{**MATH_FILTER, "domains": ["cooking"]}]})


def test_an_equation_that_the_exercise_gives_is_not_held_against_the_answer(tmp_path: Path) -> None:
    script = committee("Find the slip in 6 * 7 = 48.", "It says 6 * 7 = 48; in truth 6 * 7 = 42.")
    assert run_candidate(tmp_path, script, MATH_FILTER).state is State.ACCEPTED


@pytest.mark.parametrize(("answer", "passes"), [("3x = 18\nx = 6", True), ("3x = 15\nx = 5", False)])
def test_a_stated_solution_is_put_into_the_exercises_equation(tmp_path: Path, answer: str, passes: bool) -> None:
    ended = run_candidate(tmp_path, committee("Solve 3x + 7 = 25 for x.", answer), MATH_FILTER)
    assert (ended.state is State.ACCEPTED) is passes


needs_math_verify = pytest.mark.skipif(not answers.can_compare(), reason="math-verify is not installed")
CONSISTENT = {"kind": "consistency", "mode": "filter", "draws": 4}


def solving(own: str, *further: str) -> Script:
    """The generator answers `own`, those who answer again say `further` in turn."""
    turns = itertools.cycle(further)
    base = committee("What is six times seven?", own)
    return lambda call: said(next(turns)) if call.role == "solver" else base(call)


@needs_math_verify
@pytest.mark.parametrize(
    ("own", "further", "outcome"),
    [
        ("It is 42.", ["42", "The answer is 42.", "42", "41"], "passed"),
        ("It is 48.", ["42", "The answer is 42.", "42", "48"], "failed"),
        ("It is 48.", ["42", "41", "40", "43"], "abstained"),
        ("It is 48.", ["I do not know.", "Hard to say.", "No idea.", "42"], "abstained"),
        ("It is many.", ["42"], "abstained"),
        ("It is 0.5.", ["1/2", "0.50", "1/2", "7"], "passed"),
    ],
)
def test_independent_answers_vote(tmp_path: Path, own: str, further: list[str], outcome: str) -> None:
    ended = run_candidate(tmp_path, solving(own, *further), CONSISTENT)
    assert ended.verifications[0].outcome == outcome
    assert (ended.state is State.REJECTED) is (outcome == "failed")
    if outcome == "failed":
        assert ended.reason == "program consistency: independent answers agree on another value"


@needs_math_verify
def test_scoring_verifier_gives_the_share_that_agrees(tmp_path: Path) -> None:
    ended = run_candidate(tmp_path, solving("It is 42.", "42", "42", "42", "41"), {**CONSISTENT, "mode": "score"})
    assert ended.verifications[0] == Verified("consistency", "score", ("3 of 4 further answers agree on 42",), (), 7.5)


@needs_math_verify
def test_further_answers_are_asked_of_other_weights_recorded_and_accounted_for(tmp_path: Path) -> None:
    asked: list[Call] = []
    inner = solving("It is 42.", "42")

    def script(call: Call) -> Completion | Fault:
        asked.append(call)
        return inner(call)

    ended = run_candidate(tmp_path, script, CONSISTENT, models={n: f"model-{n if n > 'b' else 'a'}" for n in "abcdef"})
    drawn = [call for call in asked if call.role == "solver"]
    weights = {name: f"model-{name if name > 'b' else 'a'}" for name in "abcdef"}
    assert len(drawn) == 4
    assert weights[ended.generator] not in {call.model.name for call in drawn}
    assert len({(call.model.name, call.sample) for call in drawn}) == 4
    assert ended.usage["solver"].calls == 4
    again = run_candidate(tmp_path, solving("It is 42.", "42"), {**CONSISTENT, "by": "author"})
    assert again.verifications[0].outcome == "passed"


@needs_math_verify
def test_unusable_draw_gives_no_value_and_lost_engine_fails_the_candidate(tmp_path: Path) -> None:
    def cut(call: Call) -> Completion | None:
        return said("4", "length") if call.role == "solver" and call.sample == 1 else None

    ended = run_candidate(tmp_path, committee("What is 6 times 7?", "42", fault=cut), {**CONSISTENT, "by": "author"})
    assert ended.verifications[0] == Verified(
        "consistency", "filter", ("3 of 3 further answers agree on 42",), (), 10.0
    )

    def lost(call: Call) -> Fault | None:
        return Fault("error", "too long for the context", permanent=True) if call.role == "solver" else None

    ended = run_candidate(tmp_path, committee("What is 6 times 7?", "42", fault=lost), {**CONSISTENT, "by": "author"})
    assert ended.state is State.FAILED
    assert "too long for the context" in ended.reason


@needs_math_verify
def test_recipe_without_solver_is_refused(tmp_path: Path) -> None:
    one = {name: {"model": "model-a", "sampling": {"temperature": 0.0}} for name in "abcde"}
    script = committee("What is 6 times 7?", "42")
    with pytest.raises(RecipeError, match="add a member with the role `generator` and other weights"):
        run_candidate(tmp_path, script, CONSISTENT, models=one)
    with pytest.raises(RecipeError, match=r"needs a `sampling\.temperature` above 0"):
        run_candidate(tmp_path, script, {**CONSISTENT, "by": "author"}, models=one)


def test_without_math_verify_nothing_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    asked: list[Call] = []
    with pytest.raises(RecipeError, match=r"by math-verify, which is not installed; install it \(pip install"):
        run_candidate(tmp_path, committee("What is 6 times 7?", "42", asked=asked), CONSISTENT)
    assert asked == []
    assert run_candidate(tmp_path, committee("What is 6 times 7?", "6 * 7 = 42."), MATH_FILTER).state is State.ACCEPTED


@dataclass(frozen=True)
class Shortness:
    """A verifier as a user may write it."""

    recipe: VerifierConfig
    resources: VerifierResources
    kind: ClassVar[str] = "tests"
    version: ClassVar[str] = "7"
    fault: ClassVar[str] = "too long"

    async def judge(self, sample: VerifierInput, recorder: CallRecorder) -> Verified | Abstained:
        long = len(sample.response) > 5
        return Verified("tests", self.recipe.mode, (), ("length",) * long, 0.0 if long else 10.0)


def test_a_program_can_be_plugged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_MAKERS", dict(programs._MAKERS))
    programs.register("tests", Shortness)
    section = {"kind": "tests", "mode": "filter"}
    assert (
        run_candidate(tmp_path, committee("Say something.", "Hello there."), section).reason
        == "program tests: too long"
    )
    assert run_candidate(tmp_path, committee("Say something.", "Hi."), section).state is State.ACCEPTED
    assert versions([VerifierConfig.model_validate(section)]) == {"tests": "7"}


RECIPE = """
name: x
seeds: {source: s.jsonl}
committee: {models: {a: m, b: m, c: m, d: m, e: m}}
review:
  verifiers:
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("    - {kind: maths, mode: filter}", "did you mean `math`"),
        ("    - {kind: math}", "mode` is required"),
        ("    - {kind: math, mode: vote}", "must be one of 'score' or 'filter'"),
        ("    - {kind: math, mode: filter, draws: 3}", "`draws` belongs to `kind: consistency` and `kind: functions`"),
        ("    - {kind: consistency, mode: filter, draws: 1}", "must be at least 2"),
        ("    - {kind: math, mode: filter, domain: [math]}", "did you mean `domains`"),
        ("    - {kind: math, mode: filter}\n    - {kind: math, mode: score}", "has `kind: math` twice"),
    ],
)
def test_a_wrong_section_is_named(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE + lines + "\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml", SynthesisRecipe)
    assert message in str(caught.value)
    assert "line" in str(caught.value)


def test_a_resolved_recipe_with_programs_reads_back(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE + "    - {kind: consistency, mode: score, domains: [math]}\n")
    loaded = load_recipe(tmp_path / "r.yaml", SynthesisRecipe)
    (tmp_path / "again.yaml").write_text(loaded.show(), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml", SynthesisRecipe).recipe == loaded.recipe


def test_lineage_and_funnel_name_each_verifier(tmp_path: Path) -> None:
    script = committee("What is 6 times 7? Use at most 20 words.", "[red]6 * 7 = 48[/red], so 6 * 7 = 48.")
    scoring = {"kind": "math", "mode": "score"}
    filtered = run_candidate(tmp_path, script, MATH_FILTER)
    scored = replace(run_candidate(tmp_path, script, FORMAT_FILTER, scoring), id="r1-000001")
    candidates = [filtered, scored]
    tally, none = VerifierCounts(), VerifierCounts()
    tally.add(filtered), tally.add(scored), none.add(replace(filtered, verifications=()))
    assert (none.summary(), json.dumps([steps(candidate)[PROGRAMS] for candidate in candidates])) == ({}, "[0, 1]")
    of_both, of_none = CandidateCounts(), CandidateCounts()
    of_both.add(filtered), of_both.add(scored), of_none.add(replace(filtered, verifications=()))
    assert (of_both.facts()["funnel"][PROGRAMS], PROGRAMS in of_none.facts()["funnel"]) == (1, False)
    assert tally.summary() == {"math": {"takes": "seat", "failed": 2}, "format": {"takes": "veto", "passed": 1}}
    (tmp_path / "dataset").mkdir()
    facts = {"name": "x", "arm": "gra", "states": {}, "models": [], "shared_weights": {}, "seeds": "s", "reviewers": [],
             "committee_auc": None, "prompts": {}, "programs": tally.summary()}  # fmt: skip
    export(tmp_path, candidates, facts)
    assert "| format | filter | 1 | 0 | 0 |" in (tmp_path / "dataset" / "README.md").read_text(encoding="utf-8")
    console = Console(width=140, record=True, file=io.StringIO())
    for candidate in candidates:
        console.print(explain(tmp_path, candidate.id))
    page = console.export_text()
    assert "program math: wrong arithmetic" in page
    assert "broken: 6 * 7 = 48" in page
    assert "holds: words_at_most (n 20)" in page
    assert re.search(r"math +score +failed", page)
    assert re.search(r"format +filter +passed", page)


def test_members_are_not_asked_for_programs_that_need_none(tmp_path: Path) -> None:
    plain = run_candidate(tmp_path, committee("What is 6 times 7?", "6 * 7 = 42."))
    checked = run_candidate(tmp_path, committee("What is 6 times 7?", "6 * 7 = 42."), MATH_FILTER, FORMAT_FILTER)
    assert checked.calls == plain.calls
    assert isinstance(make_verifiers([], {}), tuple)


def member(name: str, temperature: float = 0.7) -> Member:
    recipe = make_recipe(
        committee={"models": {n: {"model": n, "sampling": {"temperature": temperature}} for n in "abcde"}}
    )
    assert recipe.committee is not None
    ids = {n: ModelId(n, n, "t") for n in "abcde"}
    return make_members(recipe.committee, recipe.review, ids)[name]


@needs_math_verify
def test_a_greedy_member_answers_again_only_once() -> None:
    members = {name: member(name, 0.0) for name in "abc"}
    recipe = VerifierConfig.model_validate({**CONSISTENT, "draws": 6})
    plan = programs.ConsistencyVerifier(recipe, VerifierResources(members))._plan(VerifierInput("math", "?", "!", "a"))
    assert [(who.name, place) for who, place in plan] == [("b", 1), ("c", 1)]
    warm = {name: member(name) for name in "abc"}
    plan = programs.ConsistencyVerifier(recipe, VerifierResources(warm))._plan(VerifierInput("math", "?", "!", "a"))
    assert [(who.name, place) for who, place in plan] == [(n, i) for i in (1, 2, 3) for n in "bc"]
