"""An author that is asked again: revisions, shorter answers, and what becomes of both; and how parents are drawn."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scripted_run
from pydantic import ValidationError
from resumed_runs import FILES, asked
from scripted_rounds import fresh, make_setting
from scripted_run import (
    Script,
    WordEmbedder,
    answer_by_content,
    content,
    fake_resolve,
    make_recipe,
    make_seeds,
    open_ledger,
    said,
    write_job,
)
from synthesised import command

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.hashing import file_digest
from gra.core.run_folder import RunFolder
from gra.core.types import CHECKS, DIMENSIONS, Candidate, State, Verified
from gra.core.vocabulary import RejectedAt
from gra.data.export import export_unreviewed, preference_rows, read_candidates
from gra.desk import gate as gates
from gra.engines.broker import Broker, EnginePool
from gra.engines.mock import MockEngine
from gra.engines.types import Call, Completion, Fault, Json, Text
from gra.serving.models import ModelRegistry
from gra.synthesis import job
from gra.synthesis.best_of_n import mark_versions, pick_best, versions_of
from gra.synthesis.candidate import generate_candidate
from gra.synthesis.committee.generator import response_words
from gra.synthesis.committee.revision import criticize
from gra.synthesis.rounds import write_samples
from gra.synthesis.rounds.parents import draw_parents, thin_weights
from gra.synthesis.rounds.round import grow

COMMENT = "It names no owl, which was asked for."
SENT_BACK, CUT_OFF = "did not pass", "was cut off"


def candidate_of(folder: Path, script: Script, **changes: Any) -> tuple[Candidate, list[Call]]:
    """Generate one candidate, and return it with the calls that its engines received."""
    calls: list[Call] = []

    def note(call: Call) -> Completion | Fault:
        calls.append(call)
        return script(call)

    setting = make_setting(make_recipe(**changes))
    engines = {m.model.name: MockEngine(m.model.name, note) for m in setting.members.values()}
    ledger = open_ledger(folder / f"{next(fresh)}.sqlite")
    try:
        broker = Broker(ledger, EnginePool(engines, 100.0), backoff_s=0.0)
        return asyncio.run(generate_candidate(setting, broker, grow({}, make_seeds()), 1, 0)), calls
    finally:
        ledger.close()


def committee(first: str, revised: str, scores: dict[str, int]) -> Script:
    """Return a script: the author writes one text at first and another when it comes back; reviewers score by text."""

    def script(call: Call) -> Completion:
        prompt = call.messages[-1][1]
        if isinstance(call.output, Text):
            return said(revised if SENT_BACK in prompt else first if not call.sample else f"{first} Again.")
        assert isinstance(call.output, Json)
        score = next((score for text, score in scores.items() if text in prompt), 0)
        known = dict.fromkeys(DIMENSIONS, score) | dict.fromkeys(CHECKS, True) | {"comment": COMMENT}
        known |= {"keywords": ["tide", "owl", "bread"], "exercise": "Write about tides and owls."}
        return said(json.dumps({name: known[name] for name in call.output.schema["properties"]}))

    return script


GOOD = {"Owls fly": 9, "Tides rise": 5}


@pytest.mark.parametrize("comments", ["always", "disputed"])
def test_rejected_response_goes_back_with_comments(tmp_path: Path, comments: str) -> None:
    script = committee("Tides rise.", "Owls fly.", GOOD)
    ended, calls = candidate_of(tmp_path, script, revise=1, review={"comments": comments})
    sent_back = [call.messages[-1][1] for call in calls if SENT_BACK in call.messages[-1][1]]
    assert (ended.state, ended.response, ended.mean) == (State.ACCEPTED, "Owls fly.", 9.0)
    assert [text.count(COMMENT) for text in sent_back] == [1]
    (first,) = ended.alternatives
    assert (first.number, first.response, first.mean, first.version) == (0, "Tides rise.", 5.0, "first")
    assert first.rejected_at is RejectedAt.MEAN_SCORE
    assert [review.comment for review in first.reviews] == [COMMENT] * 3
    assert [pair["score_rejected"] for pair in preference_rows(ended)] == [5.0]
    assert ended.usage["reviser"].calls == 1
    assert len(ended.calls) == len(calls)


def test_unreviewed_rows_are_first_versions(tmp_path: Path) -> None:
    ended, _ = candidate_of(tmp_path, committee("Tides rise.", "Owls fly.", GOOD), revise=1)
    assert ended.response == "Owls fly."
    path, drawn = export_unreviewed(tmp_path, [ended], 1, 0)
    (row,) = pq.read_table(path).to_pylist()
    assert (drawn, row["completion"][0]["content"]) == (1, "Tides rise.")


def test_author_sees_what_usable_reviewers_said_and_no_unit_test(tmp_path: Path) -> None:
    script = committee("Tides rise.", "Owls fly.", GOOD)

    def unusable(call: Call) -> Completion:
        asks_why = isinstance(call.output, Json) and list(call.output.schema["properties"]) == ["comment"]
        return said('{"comment": 3}') if asks_why and call.member == "b" else script(call)

    ended, calls = candidate_of(tmp_path, unusable, revise=1, review={"comments": "disputed"})
    (prompt,) = (call.messages[-1][1] for call in calls if SENT_BACK in call.messages[-1][1])
    assert COMMENT in prompt
    assert ended.response == "Owls fly."
    failed = Verified("tests", "filter", (), ("failed: AssertionError in `assert f(2) == 4`",), 0.0)
    rejected = replace(ended, rejected_at=RejectedAt.VERIFIER, verifications=(failed,), reviews=(), ruling=None)
    _, remarks = asyncio.run(criticize(None, [], rejected, ask=False))  # type: ignore[arg-type]
    assert remarks == ("its tests do not pass",)


def test_better_version_is_kept(tmp_path: Path) -> None:
    worse, _ = candidate_of(tmp_path, committee("Tides rise.", "No.", GOOD), revise=1)
    assert (worse.state, worse.response) == (State.REJECTED, "Tides rise.")
    assert [(other.number, other.response, other.version) for other in worse.alternatives] == [(1, "No.", "revised")]
    empty, _ = candidate_of(tmp_path, committee("Tides rise.", "", GOOD), revise=1)
    assert (empty.state, empty.response, empty.alternatives[0].rejected_at) == (State.REJECTED, "Tides rise.", None)
    passed, calls = candidate_of(tmp_path, committee("Owls fly.", "No.", GOOD), revise=1)
    assert (passed.state, passed.alternatives) == (State.ACCEPTED, ())
    assert not any(SENT_BACK in call.messages[-1][1] for call in calls)


def test_findings_of_a_verifier_are_shown_and_the_best_of_n_is_revised(tmp_path: Path) -> None:
    script = committee("2 + 2 = 5.", "2 + 2 = 4.", {"2 + 2 = 4": 9})
    review = {"comments": "never", "verifiers": [{"kind": "math", "mode": "filter"}]}
    ended, calls = candidate_of(tmp_path, script, revise=1, best_of=2, review=review)
    (prompt,) = (call.messages[-1][1] for call in calls if SENT_BACK in call.messages[-1][1])
    assert "- a program found wrong: 2 + 2 = 5" in prompt
    assert (ended.state, ended.response) == (State.ACCEPTED, "2 + 2 = 4.")
    assert [(other.number, other.version) for other in ended.alternatives] == [(0, "first"), (1, None)]


@pytest.mark.parametrize("scores", [(5.0, 4.0, 6.0), (5.0, 4.0, 3.0), (4.0, 5.0, 3.0)])
def test_versions_are_known_whichever_response_is_taken(scores: tuple[float, ...]) -> None:
    begun = Candidate("r1-000000", 1, 0, "qa", State.REJECTED, "response: mean score too low")
    taken = mark_versions(pick_best([replace(begun, mean=mean) for mean in scores]), {0: "first", 2: "revised"})
    assert versions_of(Candidate.from_json(json.loads(json.dumps(taken.to_json())))) == {0: "first", 2: "revised"}
    assert versions_of(pick_best([begun])) == {}


@pytest.mark.parametrize(("on_cutoff", "written"), [("repeat", 3), ("shorter", 2)])
def test_cut_off_response_is_asked_for_shorter(tmp_path: Path, on_cutoff: str, written: int) -> None:
    usual = committee("Tides rise, and", "", {"Owls fly": 9})

    def script(call: Call) -> Completion | Fault:
        if not isinstance(call.output, Text):
            return usual(call)
        return said("Owls fly.") if CUT_OFF in call.messages[-1][1] else said("Tides rise, and", "length")

    ended, calls = candidate_of(tmp_path, script, on_cutoff=on_cutoff)
    prompts = [call.messages[-1][1] for call in calls if isinstance(call.output, Text)]
    assert len(prompts) == written
    if on_cutoff == "repeat":
        assert (ended.state, ended.reason) == (
            State.FAILED, f"generator {ended.generator}: answer cut off at the length limit"
        )  # fmt: skip
        return
    assert prompts[1].startswith(prompts[0])
    assert "in at most 40 words" in prompts[1]
    assert (ended.state, ended.response, ended.usage["shortener"].calls) == (State.ACCEPTED, "Owls fly.", 1)


def script_of_run(call: Call) -> Completion | Fault:
    """Revisions keep to the exercise, and some responses ramble."""
    prompt, luck = call.messages[-1][1], int(content(call)[:2], 16)
    if isinstance(call.output, Text) and SENT_BACK in prompt:
        exercise = prompt.split("<exercise>\n")[1].splitlines()[0]
        return said(f"Answer {luck} to: {exercise}")
    if isinstance(call.output, Text) and luck < 50 and CUT_OFF not in prompt:
        return said("It goes on and", "length")
    return answer_by_content(call)


def test_run_with_all_keys_is_resumed_verified_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Embedder", "resolve"):  # `make` puts stand-ins in their place
        monkeypatch.setattr(write_samples, name, getattr(write_samples, name))
    rounds = {"count": 2, "accept": 10, "max_candidates": 14, "parent_count": 3, "draw": "thin"}
    write_job(tmp_path, make_recipe(rounds=rounds, revise=1, on_cutoff="shorter"))
    scripted_run.make(tmp_path, answer=script_of_run)
    before, questions = {name: file_digest(tmp_path / name) for name in FILES}, asked(tmp_path)
    scripted_run.make(tmp_path, answer=script_of_run)
    assert asked(tmp_path) == questions
    assert {name: file_digest(tmp_path / name) for name in FILES} == before
    assert command("verify", str(tmp_path)) == 0

    made, found = RunFolder(tmp_path).manifest()["synthesis"], read_candidates(tmp_path / "lineage.parquet")
    revised = [one for one in found if versions_of(one)]
    won = [one for one in revised if one.alternatives[0].version == "first"]
    assert made["asked_again"] == {
        "asked_shorter": sum("shortener" in one.usage for one in found), "revised": len(revised),
        "revision_taken": len(won), "revision_accepted": sum(one.state is State.ACCEPTED for one in won),
    }  # fmt: skip
    assert all(made["asked_again"].values())
    assert made["tokens_by_role"]["reviser"]["calls"] >= len(revised)
    assert {len(one.parents) for one in found} == {3}
    assert "optional/revise" in made["prompts"]

    one = next(one for one in won if one.state is State.ACCEPTED)
    capsys.readouterr()
    assert command("explain", str(tmp_path), one.id) == 0
    shown = capsys.readouterr().out
    assert "1, revised later" in shown
    assert "first version" in shown
    assert one.alternatives[0].reviews[0].comment in shown

    monkeypatch.setattr(gates, "Embedder", WordEmbedder)
    monkeypatch.setattr(gates, "resolve", fake_resolve)
    moved = read_candidates(gates.move_gate(tmp_path, []).folder / "lineage.parquet")
    assert [(c.id, c.state, c.response, c.alternatives) for c in moved] == [
        (c.id, c.state, c.response, c.alternatives) for c in found
    ]


def test_fingerprint_holds_the_keys_and_their_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "digest", lambda parts: parts)

    def parts(**changes: Any) -> Any:
        write_job(tmp_path, make_recipe(**changes))
        loaded = load_recipe(tmp_path / "recipe.yaml", SynthesisRecipe)
        return job.Job(loaded, RunFolder(tmp_path), tmp_path / "ledger").fingerprint(
            ModelRegistry(loaded.recipe.engine)
        )

    plain, changed = parts(), parts(revise=1, rounds={"parent_count": 4})
    assert (plain[0]["revise"], plain[0]["rounds"]["parent_count"]) == (0, 2)
    assert (changed[0]["revise"], changed[0]["rounds"]["parent_count"]) == (1, 4)
    (added,) = [part for part in changed[1:] if part not in plain]
    assert set(added["optional"]) == {"instruction", "keywords", "revise", "shorter"}


def test_prompts_show_all_parents(tmp_path: Path) -> None:
    rounds = {"count": 1, "accept": 8, "max_candidates": 9, "parent_count": 8}
    for changes, shown in (({}, "Two exercises"), ({"rounds": rounds}, "3 exercises")):
        ended, calls = candidate_of(tmp_path, committee("Owls fly.", "", GOOD), **changes)
        assert [shown in call.messages[-1][1] for call in calls[:2]] == [True, True]
        assert len(set(ended.parents)) == (3 if changes else 2)  # a domain of three samples gives all of them


def test_response_is_as_long_as_its_parents(tmp_path: Path) -> None:
    rounds = {"count": 1, "accept": 8, "max_candidates": 9, "response_length": "parents"}
    ended, calls = candidate_of(tmp_path, committee("Owls fly.", "", GOOD), rounds=rounds)
    longest = max(len(seed.response.split()) for seed in make_seeds() if seed.id in ended.parents)
    assert longest < 20
    (prompt,) = [call.messages[-1][1] for call in calls if isinstance(call.output, Text)]
    assert "at most 20 words" in prompt
    words = [response_words([replace(make_seeds()[0], response="word " * n)], "parents") for n in (0, 1, 20, 21, 95)]
    assert words == [20, 20, 20, 30, 100]
    assert response_words([replace(make_seeds()[0], response="字" * 300)], "parents") == 40
    assert response_words(make_seeds(), "prompt") is None


def test_instruction_is_written_after_its_parents_as_examples(tmp_path: Path) -> None:
    rounds = {"count": 1, "accept": 8, "max_candidates": 9, "parents": "examples"}
    seen: list[Call] = []

    def script(call: Call) -> Completion | Fault:
        seen.append(call)
        first = isinstance(call.output, Text) and "Topic: " in call.messages[-1][1]
        return said("  Name a bird that swims.\n") if first else committee("Owls fly.", "", GOOD)(call)

    ended, _ = candidate_of(tmp_path, script, rounds=rounds)
    by_id = {seed.id: seed for seed in make_seeds()}
    (messages,) = [c.messages for c in seen if isinstance(c.output, Text) and "Topic: " in c.messages[-1][1]]
    turns = [message for message in messages if message[0] != "system"]
    assert [role for role, _ in turns] == ["user", "assistant"] * len(ended.parents) + ["user"]
    for place, parent in enumerate(ended.parents):
        assert turns[2 * place][1].endswith(f"Topic: {', '.join(by_id[parent].keywords)}.")
        assert turns[2 * place + 1][1] == by_id[parent].instruction
    assert turns[-1][1].endswith(f"Topic: {', '.join(ended.keywords)}.")
    assert ended.instruction == "Name a bird that swims."


def test_response_is_written_after_its_parents_as_examples(tmp_path: Path) -> None:
    rounds = {"count": 1, "accept": 8, "max_candidates": 9, "response_length": "examples"}
    ended, calls = candidate_of(tmp_path, committee("Owls fly.", "", GOOD), rounds=rounds)
    by_id = {seed.id: seed for seed in make_seeds()}
    (messages,) = [call.messages for call in calls if isinstance(call.output, Text)]
    *turns, (role, last) = [message for message in messages if message[0] != "system"]
    assert [who for who, _ in turns] == ["user", "assistant"] * len(ended.parents)
    for place, parent in enumerate(ended.parents):
        assert turns[2 * place][1].startswith(by_id[parent].instruction)
        assert turns[2 * place + 1][1] == by_id[parent].response
    assert (role, last.startswith(ended.instruction)) == ("user", True)
    assert "at most 60 words" in last
    assert response_words(make_seeds(), "examples") is None


def test_thin_regions_give_more_parents() -> None:
    near = np.array([[1.0, 0.01 * n, 0.0] for n in range(9)], np.float32)
    rows = np.concatenate([near, np.array([[0.0, 0.0, 1.0]], np.float32)])
    weights = thin_weights(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    assert weights[:9] == [1] * 9
    assert weights[9] == 100
    assert thin_weights(rows[:1]) == [1]
    recipe, seeds = make_recipe(), make_seeds(5)
    drawn = [draw_parents(recipe, seeds, 1, n, weights) for n in range(50)]
    assert drawn == [draw_parents(recipe, seeds, 1, n, weights) for n in range(50)]
    assert all(len({seed.id for seed in pair}) == 2 for pair in drawn)
    counts = Counter(seed.id for pair in drawn for seed in pair)
    assert counts[seeds[9].id] > 40


SELF_GUIDE = {
    "arm": "self_guide", "self_guide": {},
    "committee": {"models": {"a": "m"}, "reviewers": 0, "assignment": "single"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"revise": 1, "arm": "vanilla", "committee": None}, "follows reviews, and `arm: vanilla` has none"),
        ({"revise": 1, "review": {"comments": "never"}}, "no reviewer gives comments"),
        ({"revise": 2}, "less than or equal to 1"),
        ({"on_cutoff": "shorter"} | SELF_GUIDE, "leave `on_cutoff` out"),
        ({"rounds": {"response_length": "parents"}} | SELF_GUIDE, "leave `rounds.response_length` out"),
        ({"rounds": {"draw": "thin"}} | SELF_GUIDE, "leave `rounds.draw` out"),
        ({"rounds": {"siblings": 2}} | SELF_GUIDE, "leave `rounds.siblings` out"),
        ({"rounds": {"siblings": 2}, "arm": "vanilla", "committee": None}, "`arm: vanilla` has none; leave it out"),
        ({"rounds": {"draw": "thin"}, "arm": "vanilla", "committee": None}, "`arm: vanilla` has none; leave it out"),
        ({"rounds": {"parent_count": 1}}, "greater than or equal to 2"),
        ({"rounds": {"siblings": 0}}, "greater than or equal to 1"),
        (
            {"rounds": {"siblings": 2, "quotas": "even"}},
            "needs domains that take turns, and `rounds.quotas` plans them",
        ),
    ],
)
def test_impossible_keys_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make_recipe(**changes)
