"""Failures of models and servers are no verdicts: the next start asks again what they left unanswered."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from scripted_rounds import run
from scripted_run import answer_by_content, make_recipe, write_job

from gra.core.errors import BudgetExhausted, EngineUnavailable, NoRows
from gra.core.progress import read_events
from gra.core.stored.release_0_1 import read_failure_cause, read_rejected_at
from gra.core.types import Candidate, State
from gra.core.vocabulary import FailureCause, RejectedAt
from gra.data.export import read_candidates
from gra.engines.broker import Broker
from gra.engines.types import Call, Completion, Fault, Text
from gra.ledger.schema import seal_verdict
from gra.synthesis.committee.calls import MissingAnswers
from gra.synthesis.rounds import write_samples
from gra.synthesis.run import run_stop

DISTILLED = {"arm": "distilled", "committee": None, "teacher": {"model": "model-t"}}
TEN = {"count": 1, "accept": 10, "max_candidates": 10}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a failed call be tried again after hundredths of a second; how often it is tried does not change."""
    monkeypatch.setitem(Broker.__init__.__kwdefaults__, "backoff_s", 0.02)


@pytest.fixture(autouse=True)
def _embedder() -> Iterator[None]:
    before = write_samples.Embedder, write_samples.resolve
    yield
    write_samples.Embedder, write_samples.resolve = before  # type: ignore[misc]


def failing(*candidates: str, kind: str = "error") -> scripted_run.Script:
    """Fail every call of some candidates, as a server does that answers 500 or not at all."""

    def script(call: Call) -> Completion | Fault:
        if call.candidate in candidates:
            return Fault(kind, "server error 500: out of memory")  # type: ignore[arg-type]
        return answer_by_content(call)

    return script


def synthesize(folder: Path, script: scripted_run.Script = answer_by_content, **changes: Any) -> dict[str, Candidate]:
    write_job(folder, make_recipe(**{"engine": {"max_attempts": 1}} | changes))
    scripted_run.make(folder, answer=script)
    return {candidate.id: candidate for candidate in read_candidates(folder / "lineage.parquet")}


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["synthesis"]
    return content


def notes(folder: Path) -> list[str]:
    return [event["text"] for event in read_events(folder / "log.jsonl") if event["event"] == "note"]


@pytest.mark.parametrize("kind", ["timeout", "died", "error"])
def test_short_round_asks_unanswered_candidates_again(tmp_path: Path, kind: str) -> None:
    whole = synthesize(tmp_path / "whole", rounds=TEN)
    first = synthesize(tmp_path / "failing", failing("r1-000001", "r1-000007", kind=kind), rounds=TEN)
    assert {name for name, c in first.items() if c.failed_by is FailureCause.INFRASTRUCTURE} == {
        "r1-000001", "r1-000007"
    }  # fmt: skip
    assert manifest(tmp_path / "failing")["stopped"] == ["infrastructure"]
    assert manifest(tmp_path / "failing")["unanswered"] == 2
    stop = run_stop({"scripted": manifest(tmp_path / "failing")})
    assert isinstance(stop, MissingAnswers)
    assert stop.exit_code == 4
    assert "server error 500: out of memory" in str(stop) or kind == "timeout"
    assert synthesize(tmp_path / "failing", rounds=TEN) == whole
    assert manifest(tmp_path / "failing")["unanswered"] == 0
    assert not isinstance(run_stop({"scripted": manifest(tmp_path / "failing")}), MissingAnswers)


def test_full_round_keeps_its_rows_when_late_answers_come(tmp_path: Path) -> None:
    rounds = {"count": 2, "accept": 3, "max_candidates": 60}
    review = {"accept_mean": 5.0}
    failed = synthesize(tmp_path, failing("r1-000000"), rounds=rounds, review=review)
    rows = {name for name, c in failed.items() if c.state is State.ACCEPTED}
    assert failed["r1-000000"].failed_by is FailureCause.INFRASTRUCTURE
    assert manifest(tmp_path)["stopped"] == ["enough accepted"] * 2
    assert run_stop({"scripted": manifest(tmp_path)}) is None
    assert any("1 candidates got no answer" in note and "asks them again" in note for note in notes(tmp_path))
    healthy = synthesize(tmp_path, rounds=rounds, review=review)
    assert {name for name, c in healthy.items() if c.state is State.ACCEPTED} == rows
    late = healthy["r1-000000"]
    assert late.failed_by is None
    assert late.state is not State.ACCEPTED
    assert late.state is not State.SURPLUS or late.rejected_at is RejectedAt.QUOTA
    assert manifest(tmp_path)["unanswered"] == 0


def test_teacher_answers_seeds_again_after_server_errors(tmp_path: Path) -> None:
    whole = synthesize(tmp_path / "whole", **DISTILLED)
    first = synthesize(tmp_path / "failing", failing("distilled-qa-1"), **DISTILLED)
    assert first["distilled-qa-1"].state is State.FAILED
    assert manifest(tmp_path / "failing")["stopped"] == ["infrastructure"]
    stop = run_stop({"scripted": manifest(tmp_path / "failing")})
    assert isinstance(stop, MissingAnswers)
    assert stop.exit_code == 4
    assert "server error 500: out of memory" in str(stop)
    assert synthesize(tmp_path / "failing", **DISTILLED) == whole
    assert run_stop({"scripted": manifest(tmp_path / "failing")}) is None


def test_server_that_recovers_within_the_run_loses_no_seed(tmp_path: Path) -> None:
    failures = iter([True, True, False])

    def script(call: Call) -> Completion | Fault:
        if call.candidate == "distilled-qa-1" and next(failures, False):
            return Fault("error", "server error 500")
        return answer_by_content(call)

    found = synthesize(tmp_path, script, engine={"max_attempts": 2}, **DISTILLED)
    assert all(candidate.failed_by is not FailureCause.INFRASTRUCTURE for candidate in found.values())
    assert manifest(tmp_path)["stopped"] == []


def test_kept_seed_does_not_replace_an_unanswered_rewriting(tmp_path: Path) -> None:
    keep = {"arm": "refined", "refine": {"rejected": "keep"}}
    found = synthesize(tmp_path, failing("refined-qa-1"), **keep)
    assert found["refined-qa-1"].failed_by is FailureCause.INFRASTRUCTURE
    assert "seed-qa-1" not in found


def test_one_failed_response_of_several_leaves_the_candidate_unanswered(tmp_path: Path) -> None:
    whole = synthesize(tmp_path / "whole", rounds=TEN, best_of=2)
    name = next(c.id for c in whole.values() if c.alternatives and c.reviews)

    def script(call: Call) -> Completion | Fault:
        if call.candidate == name and isinstance(call.output, Text) and call.sample == 1:
            return Fault("error", "server error 500")
        return answer_by_content(call)

    first = synthesize(tmp_path / "failing", script, rounds=TEN, best_of=2)
    assert first[name].failed_by is FailureCause.INFRASTRUCTURE
    assert synthesize(tmp_path / "failing", rounds=TEN, best_of=2) == whole


def test_failed_enrichment_ends_the_run_and_the_next_start_goes_on(tmp_path: Path) -> None:
    whole = synthesize(tmp_path / "whole", rounds=TEN)
    with pytest.raises(EngineUnavailable, match=r"1 seeds or rows without metadata.*server error 500.*run the same"):
        synthesize(tmp_path / "failing", failing("enrich-qa-1"), rounds=TEN)
    assert synthesize(tmp_path / "failing", rounds=TEN) == whole


def test_outage_stops_a_round_early(tmp_path: Path) -> None:
    asked: list[str] = []

    def script(call: Call) -> Completion | Fault:
        asked.append(call.candidate)
        return Fault("error", "server error 503", permanent=False)

    recipe = make_recipe(rounds={"count": 1, "accept": 300, "max_candidates": 300})
    found = run(tmp_path, recipe, 4, script)
    assert found.stopped == "infrastructure"
    assert 8 < len(set(asked)) < 30


def test_run_without_rows_has_its_own_exit_code(tmp_path: Path) -> None:
    synthesize(tmp_path, rounds=TEN, review={"accept_mean": 10.0, "dispute_std": 0.0})
    facts = manifest(tmp_path)
    assert facts["states"]["accepted"] == 0
    stop = run_stop({"scripted": facts})
    assert isinstance(stop, NoRows)
    assert stop.exit_code == 6
    assert "response: mean score too low" in str(stop)


def test_spent_budget_goes_before_missing_answers() -> None:
    facts = {"stopped": ["infrastructure", "budget"], "states": {"accepted": 0}, "unanswered": 3, "last_failure": "x"}
    assert isinstance(run_stop({"a": facts}), BudgetExhausted)


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("generator a: unusable answer (not JSON: x)", FailureCause.ANSWER),
        ("teacher teacher: answer cut off at the length limit", FailureCause.ANSWER),
        ("reviewer b: refused", FailureCause.ANSWER),
        ("generator a: no answer in 600 s", FailureCause.INFRASTRUCTURE),
        ("generator a: http://x answered 500", FailureCause.INFRASTRUCTURE),
    ],
)
def test_release_0_1_reason_gives_the_failure_cause(reason: str, cause: FailureCause) -> None:
    assert read_failure_cause(reason) is cause


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("instruction: clear, complete", RejectedAt.INSTRUCTION_CHECK),
        ("response: mean score too low", RejectedAt.MEAN_SCORE),
        ("program format: a demand on its form is not met", RejectedAt.VERIFIER),
        ("too similar to qa-1", RejectedAt.SAME_EMBEDDING),
        ("accepted after the quota of qa was full", RejectedAt.QUOTA),
        ("reviewers agree", None),
        ("seed", None),
    ],
)
def test_release_0_1_reason_gives_the_rejecting_step(reason: str, step: RejectedAt | None) -> None:
    assert read_rejected_at(reason) is step


def test_verdicts_of_release_0_1_on_failed_servers_are_asked_again(tmp_path: Path) -> None:
    """Release 0.1 recorded such failures as verdicts, without a cause, and its round as ended."""
    whole = synthesize(tmp_path / "whole", rounds=TEN)
    synthesize(tmp_path / "old", rounds=TEN)
    with sqlite3.connect(tmp_path / "old" / "ledger.sqlite") as db:
        for name, text in list(db.execute("SELECT candidate, story FROM verdicts WHERE candidate LIKE 'r1-%'")):
            record = json.loads(text)
            for key in ("rejected_at", "failed_by", "thinking"):
                del record["story"][key]
            if name == "r1-000003":
                record["story"] |= {"state": "failed", "reason": "generator a: no answer in 600 s"}
            db.execute("UPDATE verdicts SET story = ? WHERE candidate = ?", (json.dumps(record), name))
        (text,) = db.execute("SELECT story FROM verdicts WHERE candidate = 'round-1'").fetchone()
        record = json.loads(text)
        del record["story"]["unanswered"]
        record["story"]["settled"] = {k: v[:4] for k, v in record["story"]["settled"].items()}
        db.execute("UPDATE verdicts SET story = ? WHERE candidate = 'round-1'", (json.dumps(record),))
        db.create_function("seal_verdict", 3, seal_verdict)
        db.execute("UPDATE verdicts SET seal = seal_verdict(run, candidate, story)")
    assert synthesize(tmp_path / "old", rounds=TEN) == whole
