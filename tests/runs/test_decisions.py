"""What people decided holds for the texts they saw, outlives the synthesis, and is seen by every reader of a run."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import make
from synthesised import RECIPE, command, synthesise

from gra.core.errors import Mismatch
from gra.core.types import Candidate, HumanDecision, State
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.data.export import read_candidates
from gra.ledger.decisions import DecisionLog
from gra.runs.decisions import apply_decisions, read_decisions, run_name, standing, why_not_kept
from gra.runs.export import Selection, export_run
from gra.runs.verify import verify
from gra.synthesis.rounds import write_samples

KEEP, DROP, EDIT, SKIP, UNDO = HumanVerdict


def candidate(state: State = State.ACCEPTED) -> Candidate:
    return Candidate("r1-000001", 1, 1, "qa", state, "why", instruction="Q", response="A")


SUBJECT = HumanDecision.subject_of("Q", "A")


def by(name: str, verdict: HumanVerdict, written: float = 1.0, subject: str = SUBJECT) -> HumanDecision:
    texts = ("Q?", "A!") if verdict is EDIT else ("", "")
    return HumanDecision(f"human:{name}", verdict, written, subject, *texts)


def decide(state: State, *decisions: HumanDecision) -> Candidate:
    return apply_decisions(candidate(state), {"r1-000001": decisions})


def test_dropped_row_is_rejected_and_says_by_whom() -> None:
    found = decide(State.ACCEPTED, by("ann", DROP))
    assert (found.state, found.rejected_at) == (State.REJECTED, RejectedAt.PERSON)
    assert found.reason == "human:ann dropped it"
    assert found.decisions == (by("ann", DROP),)
    assert Candidate.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_edited_row_has_the_texts_of_the_person() -> None:
    found = decide(State.REJECTED, by("ann", EDIT))
    assert (found.state, found.instruction, found.response) == (State.ACCEPTED, "Q?", "A!")


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verdict", [KEEP, EDIT])
def test_kept_candidate_is_accepted_unless_contaminated_or_failed(state: State, verdict: HumanVerdict) -> None:
    found = decide(state, by("ann", verdict))
    assert (found.state is State.ACCEPTED) == (state not in (State.CONTAMINATED, State.FAILED))
    assert (found.rejected_at is None) or found.state is not State.ACCEPTED


def test_newest_person_stands_and_others_stay_recorded() -> None:
    found = decide(State.ACCEPTED, by("ann", DROP, 3.0), by("bob", KEEP, 2.0))
    assert found.state is State.REJECTED
    assert [d.reviewer for d in found.decisions] == ["human:bob", "human:ann"]


def test_decision_about_other_texts_does_not_hold() -> None:
    assert decide(State.ACCEPTED, by("ann", DROP, subject="earlier")) == candidate()


@given(st.lists(st.sampled_from([KEEP, DROP, EDIT, SKIP, UNDO]), max_size=12))
def test_undo_takes_back_the_last_decision_of_the_person(verdicts: list[HumanVerdict]) -> None:
    stack: list[HumanVerdict] = []
    for verdict in verdicts:
        if verdict is not UNDO:
            stack.append(verdict)
        elif stack:
            stack.pop()
    other = by("bob", KEEP, 0.5)
    found = standing([other, *(by("ann", verdict) for verdict in verdicts)], SUBJECT)
    expected = [stack[-1]] if stack and stack[-1] is not SKIP else []
    assert [d.verdict for d in found] == [KEEP, *expected]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("decisions") / "one", best_of=1)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "one")
    return tmp_path / "one"


def record(run: Path, chosen: Candidate, verdict: HumanVerdict) -> None:
    log = DecisionLog(run / "ledger.sqlite", run_name(run))
    subject = HumanDecision.subject_of(chosen.instruction, chosen.response)
    texts = ("Better?", "Better.") if verdict is EDIT else ("", "")
    log.add(chosen.id, HumanDecision("human:ann", verdict, 1764.0, subject, *texts))
    log.close()


def test_every_reader_of_a_run_knows_the_decisions(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [c for c in read_candidates(run / "lineage.parquet") if c.state is State.ACCEPTED]
    before, content = verify(run), (run / "lineage.parquet").read_bytes()
    for chosen, verdict in zip(rows, (DROP, EDIT, KEEP), strict=False):
        record(run, chosen, verdict)
    after = verify(run)
    assert (after.decisions, after.rows, after.answers) == (3, before.rows, before.answers)
    assert (run / "lineage.parquet").read_bytes() == content
    explained = []
    for row in rows[:3]:
        assert command("explain", str(run), row.id) == 0
        explained.append(capsys.readouterr().out)
    assert "human:ann: drop, 1970-01-01 00:29 UTC" in explained[0]
    assert ["before people decided: accepted" in page for page in explained] == [True, True, False]
    assert "REJECTED  human:ann dropped it" in explained[0]
    assert "ACCEPTED  human:ann edited it" in explained[1]
    assert ["Better." in page for page in explained] == [False, True, False]
    assert "response before the edit, as it was reviewed" in explained[1]
    found = export_run(run, "jsonl", tmp_path / "all")
    exported = [json.loads(line) for line in (found.folder / "train.jsonl").read_text().splitlines()]
    assert [row["id"] for row in exported] == [c.id for c in rows[1:]]
    assert found.left_out["dropped by people"] == 1
    assert "1 dropped by people" in (found.folder / "README.md").read_text()
    assert (exported[0]["response"], exported[0]["edited"]) == ("Better.", True)
    assert [row["reviewed_by"] for row in exported[:3]] == [["human:ann edit"], ["human:ann keep"], []]
    found = export_run(run, "jsonl", tmp_path / "some", Selection(reviewed=True))
    assert found.files == {"train.jsonl": 2}


def test_synthesis_run_again_keeps_decisions_about_the_same_texts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Embedder", "resolve"):  # `make` puts stand-ins in their place
        monkeypatch.setattr(write_samples, name, getattr(write_samples, name))
    row = next(c for c in read_candidates(run / "lineage.parquet") if c.state is State.ACCEPTED)
    record(run, row, DROP)
    recipe = json.loads((run / "recipe.yaml").read_text())
    recipe["review"]["accept_mean"] = RECIPE["review"]["accept_mean"] + 0.25
    (run / "recipe.yaml").write_text(json.dumps(recipe))
    make(run)
    assert apply_decisions(row, read_decisions(run)).state is State.REJECTED
    assert verify(run).decisions == 1


def test_changed_decision_fails_verify(run: Path) -> None:
    record(run, read_candidates(run / "lineage.parquet")[0], KEEP)
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE decisions SET verdict = 'drop'")
    with pytest.raises(Mismatch, match="the decision about r1-000000 of `one` is not what was written"):
        verify(run)


@pytest.mark.parametrize(
    ("response", "rejected_at", "why"),
    [
        ("", RejectedAt.INSTRUCTION_CHECK, "no response"),
        ("<|im_end|>", RejectedAt.SPECIAL_TOKEN, "token"),
        ("Fine.", RejectedAt.MEAN_SCORE, ""),
    ],
)
def test_page_and_dataset_agree_on_what_can_be_kept(response: str, rejected_at: RejectedAt, why: str) -> None:
    said = why_not_kept(response, rejected_at)
    assert why in said
    assert bool(said) == bool(why)
    rejected = replace(candidate(State.REJECTED), response=response, rejected_at=rejected_at)
    made = {rejected.id: [by("ann", KEEP, subject=HumanDecision.subject_of("Q", response))]}
    assert (apply_decisions(rejected, made).state is State.ACCEPTED) == (not why)
