"""`gra gate`: the version is what a synthesis with that gate would have made, and no model is asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from scripted_run import WordEmbedder, fake_resolve
from synthesised import command, synthesise

from gra.core.errors import DataError, RecipeError
from gra.core.types import Candidate, HumanDecision, State
from gra.core.vocabulary import HumanVerdict, RejectedAt
from gra.data.export import read_candidates
from gra.desk import gate as gates
from gra.desk.gate import NO_RULING, move_gate
from gra.ledger.decisions import DecisionLog
from gra.runs.export import export_run
from gra.runs.verify import verify

ROUND = {"count": 1, "accept": 60, "max_candidates": 60}


def review(accept_mean: float) -> dict[str, Any]:
    return {"comments": "disputed", "accept_mean": accept_mean, "dispute_std": 1.0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("gate") / "one", rounds=ROUND, review=review(8.0))


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gates, "Embedder", WordEmbedder)
    monkeypatch.setattr(gates, "resolve", fake_resolve)
    shutil.copytree(whole, tmp_path / "one")
    return tmp_path / "one"


def ends(run: Path) -> dict[str, tuple[Any, ...]]:
    return {
        c.id: (c.state, c.reason, c.rejected_at, c.response, c.mean, c.disputed, c.neighbour, len(c.alternatives))
        for c in read_candidates(run / "lineage.parquet")
    }


def test_unmoved_gate_gives_the_same_rows(run: Path) -> None:
    asked = (run / "asked.txt").read_bytes()
    found = move_gate(run, [])
    assert (found.added, found.removed, found.unruled) == (0, 0, 0)
    assert found.rows == found.before > 10
    assert ends(found.folder) == ends(run)
    assert (run / "asked.txt").read_bytes() == asked


def test_raised_gate_gives_what_a_synthesis_with_it_makes(run: Path, tmp_path: Path) -> None:
    found = move_gate(run, ["review.accept_mean=9"])
    assert 0 < found.rows < found.before
    assert ends(found.folder) == ends(synthesise(tmp_path / "fresh", rounds=ROUND, review=review(9.0)))


def test_lowered_gate_adds_rows_and_says_what_was_never_ruled_on(run: Path) -> None:
    before = ends(run)
    found = move_gate(run, ["review.accept_mean=5"])
    assert found.added > 0
    after = ends(found.folder)
    assert found.unruled == sum(end[1] == NO_RULING for end in after.values())
    assert {name for name, end in before.items() if end[2] is RejectedAt.INSTRUCTION_CHECK} == {
        name for name, end in after.items() if end[2] is RejectedAt.INSTRUCTION_CHECK
    }


def test_versions_stand_beside_the_run_and_pass_verify(run: Path, tmp_path: Path) -> None:
    alone, content = verify(run), (run / "manifest.json").read_bytes()
    rows = [c for c in read_candidates(run / "lineage.parquet") if c.state is State.ACCEPTED]
    decide(run, rows[0], HumanVerdict.DROP)
    decide(run, rows[1], HumanVerdict.EDIT)
    decide(run, next(c for c in read_candidates(run / "lineage.parquet") if c.rejected_at is RejectedAt.MEAN_SCORE),
           HumanVerdict.KEEP)  # fmt: skip
    one, two = move_gate(run, []), move_gate(run, ["review.accept_mean=9"], "strict")
    assert (one.folder, two.folder) == (run / "versions" / "v2", run / "versions" / "strict")
    assert (one.removed, one.dropped_by_people, one.added_by_people) == (1, 1, 1)
    assert "1 removed: 1 by people, 0 by the gate or a later step" in one.sentence()
    assert two.dropped_by_people == 1 < two.removed
    assert one.added >= 1  # the kept candidate, and what the dropped row had hidden
    assert (run / "manifest.json").read_bytes() == content
    version = {c.id: c for c in read_candidates(one.folder / "lineage.parquet")}
    assert version[rows[0].id].reason == "human:ann dropped it"
    assert (version[rows[1].id].response, version[rows[1].id].decisions[0].reviewer) == ("Better.", "human:ann")
    every = verify(run)
    assert (every.manifests, every.decisions) == (3, 3)
    assert every.rows > 2 * alone.rows
    assert export_run(one.folder, "jsonl", tmp_path / "out").files["train.jsonl"] == one.rows
    assert move_gate(run, []).folder == run / "versions" / "v3"


def decide(run: Path, chosen: Candidate, verdict: HumanVerdict) -> None:
    log = DecisionLog(run / "ledger.sqlite", "one")
    texts = ("Better?", "Better.") if verdict is HumanVerdict.EDIT else ("", "")
    subject = HumanDecision.subject_of(chosen.instruction, chosen.response)
    log.add(chosen.id, HumanDecision("human:ann", verdict, 1764.0, subject, *texts))
    log.close()


def test_limit_on_rows_holds_where_it_is_given(run: Path) -> None:
    found = move_gate(run, ["rounds.accept=5"])
    assert found.rows == 5
    assert sum(end[0] is State.SURPLUS for end in ends(found.folder).values()) == found.before - 5


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["seed=1"], 2, "`seed` cannot be changed without asking models again"),
        (["review.accept_mean=much"], 2, "accept_mean"),
        (["review.accept_mean=10"], 6, "no candidate passes this gate"),
        (["--name", "../x"], 2, "cannot be the name of a folder"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str], code: int, sentence: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("gate", str(run), *arguments) == code
    assert sentence in capsys.readouterr().err
    assert not (run / "versions").exists()


def test_changed_seeds_and_versions_of_versions_are_refused(run: Path) -> None:
    found = move_gate(run, [])
    with pytest.raises(DataError, match="is a version itself"):
        move_gate(found.folder, [])
    with pytest.raises(RecipeError, match="there already"):
        move_gate(run, [], "v2")
    with (run / "seeds.jsonl").open("a") as seeds:
        seeds.write("\n")
    with pytest.raises(DataError, match="is not the seed file that the run was made from"):
        move_gate(run, [])
