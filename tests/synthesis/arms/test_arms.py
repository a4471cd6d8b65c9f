"""Every arm and every ablation through the real `synthesize`, on scripted models."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import scripted_run
from scripted_run import make_recipe, write_job

from gra.config.synthesis import SynthesisRecipe
from gra.core.errors import DataError
from gra.core.hashing import digest
from gra.core.progress import read_events
from gra.data.export import read_lineage
from gra.stats.reliability import Logistic
from gra.synthesis.measuring.calibration import ReviewerMeasurement, committee_auc
from gra.synthesis.rounds import write_samples

ROUNDS = {"count": 2, "accept": 8, "max_candidates": 60}
# One member and six seeds make few different prompts, and the same prompt has the same answer.
FEW = {"count": 2, "accept": 3, "max_candidates": 60}
ONE = {"models": {"student": "model-a"}, "assignment": "single", "reviewers": 0}


@pytest.fixture(autouse=True)
def _embedder() -> Iterator[None]:
    """`scripted_run.make` puts its own embedder in place; here it shares the process with other tests."""
    before = write_samples.Embedder, write_samples.resolve
    yield
    write_samples.Embedder, write_samples.resolve = before  # type: ignore[misc]


Made = tuple[list[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Made]:
    """Makes an arm and returns its lineage and its section of the manifest."""

    def make(folder: str = "run", **changes: Any) -> Made:
        where = tmp_path / folder
        write_job(where, make_recipe(**{"rounds": ROUNDS} | changes))
        scripted_run.make(where)
        return read_lineage(where / "lineage.parquet"), json.loads((where / "manifest.json").read_text())["synthesis"]

    return make


def questions(folder: Path) -> set[str]:
    """What was asked, by content."""
    return set((folder / "asked.txt").read_text().split())


def accepted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["state"] == "accepted"]


# --- arms -----------------------------------------------------------------------------------------------------------


def test_vanilla_asks_no_model(made, tmp_path: Path) -> None:
    rows, facts = made(arm="vanilla", committee=None)
    assert {row["state"] for row in rows} == {"accepted"}
    assert len(rows) == 6
    assert questions(tmp_path / "run") == set()
    assert facts["stopped"] == []


def test_a_teacher_answers_every_seed(made, tmp_path: Path) -> None:
    rows, facts = made(arm="distilled", committee=None, teacher={"model": "model-t"})
    assert [row["candidate_id"] for row in rows] == [f"distilled-{d}-{i}" for d in ("qa", "math") for i in range(3)]
    assert {row["generator"] for row in rows} == {"teacher"}
    assert facts["tokens_by_role"].keys() == {"teacher"}


def test_a_teacher_that_writes_samples_goes_through_rounds_and_dedup_without_review(made) -> None:
    teacher = {"model": "model-t", "writes": "samples"}
    rows, facts = made(arm="distilled", committee=None, teacher=teacher, rounds=FEW)
    assert facts["states"]["accepted"] == 6
    assert {row["round"] for row in rows} == {1, 2}
    assert {row["reason"] for row in accepted(rows)} == {"no reviewers"}
    assert facts["tokens_by_role"].keys() == {"generator", "enricher"}
    assert facts["members"] == {"teacher": {"model": "model-t", "ask": "integers",
                                            "roles": ["generator", "reviewer", "adjudicator", "enricher"]}}  # fmt: skip


@pytest.mark.parametrize("reviewers", [0, 1])
def test_self_guide_is_one_member_in_every_role(made, reviewers: int) -> None:
    committee = ONE | {"reviewers": reviewers}
    rows, facts = made(arm="self_guide", committee=committee, rounds=FEW, review={"accept_mean": 6.0})
    assert facts["states"]["accepted"] == 6
    assert {row["generator"] for row in rows} == {"student"}
    assert {tuple(row["reviewers"]) for row in rows} == {("student",) * reviewers}
    assert not any(row["disputed"] or row["adjudicator"] for row in rows)
    assert all((row["mean"] is None) == (reviewers == 0) for row in accepted(rows))


def test_refined_keeps_the_instructions_and_reviews_new_responses(made, tmp_path: Path) -> None:
    rows, facts = made(arm="refined", review={"accept_mean": 5.0})
    seeds = {row["id"]: row for row in map(json.loads, (tmp_path / "run" / "seeds.jsonl").open())}
    assert [row["candidate_id"] for row in rows] == [f"refined-{name}" for name in seeds]
    for row in rows:
        (parent,) = row["parents"]
        assert row["instruction"] == seeds[parent]["instruction"]
        assert row["response"] != seeds[parent]["response"]
        assert row["checks"] == []
        assert row["state"] == "failed" or len(row["reviews"]) == 3
        assert row["generator"] not in row["reviewers"]
    assert len(accepted(rows)) > 1
    assert "enricher" not in facts["tokens_by_role"]


def test_a_rewriter_sees_the_old_response_and_an_answerer_does_not(made, monkeypatch) -> None:
    seen: list[str] = []
    real = scripted_run.answer_by_content

    def script(call):
        seen.append(call.messages[-1][1])
        return real(call)

    monkeypatch.setattr(scripted_run, "answer_by_content", script)
    made("rewrite", arm="refined")
    assert any("<answer>\ntides\n</answer>" in prompt and "Write the best answer" in prompt for prompt in seen)
    seen.clear()
    made("answer", arm="refined", refine={"writes": "answer"})
    assert not any("<answer>\ntides\n</answer>" in prompt for prompt in seen)


def test_a_rejected_rewriting_can_leave_the_seed_in_the_data(made, tmp_path: Path) -> None:
    strict = {"accept_mean": 9.9}
    rows, _ = made("drop", arm="refined", review=strict)
    assert len(accepted(rows)) < 6
    kept, facts = made("keep", arm="refined", review=strict, refine={"rejected": "keep"})
    assert facts["states"]["accepted"] == 6
    assert [row for row in kept if row["candidate_id"].startswith("refined-")] == rows
    own = [row for row in kept if row["candidate_id"].startswith("seed-")]
    assert {row["parents"][0] for row in accepted(kept)} == {row["parents"][0] for row in rows}
    assert {row["reason"] for row in own} == {"seed, its rewriting was not accepted"}


def without_arm(row: dict[str, Any]) -> dict[str, Any]:
    """A row but for its arm's name, and for keywords that only an arm with parents has of its seeds."""
    return {k: v for k, v in row.items() if k != "arm" and not (k == "keywords" and row["round"] == 0)}


def test_integrated_is_refined_and_gra_together(made, tmp_path: Path) -> None:
    lenient = {"accept_mean": 5.0}
    refined, _ = made("refined", arm="refined", review=lenient)
    new, _ = made("gra", arm="gra", review=lenient)
    both, facts = made("integrated", arm="integrated", review=lenient)
    bare = [without_arm(row) for row in both]
    last = [max(i for i, row in enumerate(new) if row["round"] == n and row["state"] == "accepted") for n in (1, 2)]
    firm = {row["candidate_id"] for n, row in enumerate(new) if n <= last[0] or (row["round"] == 2 and n <= last[1])}
    for row in refined + [row for row in new if row["candidate_id"] in firm]:
        assert without_arm(row) in bare
    assert {row["arm"] for row in both} == {"integrated"}
    assert {row["round"] for row in accepted(both)} == {0, 1, 2}
    assert facts["stopped"] == ["enough accepted"] * 2


def test_a_spent_budget_leaves_seeds_untold_and_says_so(made, tmp_path: Path) -> None:
    rows, facts = made(arm="refined", budget={"tokens": 1200})
    assert facts["stopped"] == ["budget"]
    assert 0 < len(rows) < 6
    assert facts["spent"]["tokens"] <= 1200
    notes = [event["text"] for event in read_events(tmp_path / "run" / "log.jsonl") if event["event"] == "note"]
    assert f"! the budget is spent: {6 - len(rows)} of 6 seeds were not begun" in notes
    more, facts = made(arm="refined")
    assert len(more) == 6
    assert facts["stopped"] == []


# --- the default path ----------------------------------------------------------------------------------------------

WHOLE = {
    "rounds": {"count": 2, "accept": 20, "max_candidates": 20},
    "review": {"comments": "always", "control_items": 4, "accept_mean": 6.0, "dispute_std": 1.0},
}


def test_what_the_default_path_asks_stays_what_it_was(made, tmp_path: Path) -> None:
    """By content, over two whole rounds: when this changes, every ledger there is will be asked anew."""
    made(**WHOLE)
    assert digest(sorted(questions(tmp_path / "run"))) == PINNED


PINNED = "72e02a129247e6e65a498b2737943252f8a193f01b7b353c88872f784d230d5a"


def test_adjudicator_is_measured_at_its_first_dispute(made, tmp_path: Path) -> None:
    models = {name: {"model": f"model-{name}", "roles": ["generator", "reviewer", "enricher"]} for name in "abcd"}
    models["judge"] = {"model": "model-judge", "roles": ["adjudicator"]}
    review = {"comments": "never", "control_items": 4, "accept_mean": 5.0, "dispute_std": 0.3}
    few = {"count": 1, "accept": 20, "max_candidates": 20}
    rows, facts = made(committee={"models": models}, review=review, rounds=few)
    rulings = [row["ruling"] for row in rows if row["ruling"]]
    assert rulings
    assert list(facts["reviewers"]) == [*"abcd", "judge"]
    with sqlite3.connect(tmp_path / "run" / "ledger.sqlite") as db:
        asked = db.execute("SELECT member, candidate FROM calls ORDER BY rowid").fetchall()
    measured_members = [member for member, candidate in asked if candidate.startswith("probe-")]
    first = measured_members.index("judge")
    assert set(measured_members[:first]) == set("abcd")
    assert set(measured_members[first:]) == {"judge"}
    scale = facts["reviewers"]["judge"]["calibration"]
    assert any(ruling["score"] != fmean(ruling["values"].values()) for ruling in rulings), scale
    again, repeated = made("again", committee={"models": models}, review=review, rounds=few)
    assert again == rows
    assert repeated["reviewers"] == facts["reviewers"]
    without = {name: r for name, r in facts["reviewers"].items() if name != "judge"}
    assert facts["committee_auc"] == pytest.approx(committee_auc([measured(name, r) for name, r in without.items()]))


def measured(name: str, recorded: dict[str, Any]) -> ReviewerMeasurement:
    """Return a reviewer's measurement as the manifest holds it."""
    good, bad = ({str(i): raw for i, raw in enumerate(recorded[kind])} for kind in ("good", "bad"))
    scale = Logistic(**recorded["calibration"])
    return ReviewerMeasurement(name, recorded["auc"], good, bad, recorded["unanswered"], scale, recorded["thresholds"])


# --- ablations ------------------------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "rounds": {"count": 1, "accept": 30, "max_candidates": 30},
    "review": {"comments": "always", "accept_mean": 6.0, "dispute_std": 0.8},
    "committee": {"models": {name: f"model-{name}" for name in "abcde"}},
}


@pytest.fixture(scope="module")
def asked_in_full(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the arm without any ablation asks."""
    where = tmp_path_factory.mktemp("full") / "run"
    before = write_samples.Embedder, write_samples.resolve
    write_job(where, make_recipe(**FULL))
    scripted_run.make(where)
    write_samples.Embedder, write_samples.resolve = before  # type: ignore[misc]
    return questions(where)


@pytest.mark.parametrize(
    ("changes", "fewer"),
    [
        ({"committee": {"reviewers": 0}}, True),
        ({"committee": {"reviewers": 1}}, True),
        ({"review": {"disputed": "accept"}}, True),
        ({"review": {"disputed": "reject"}}, True),
        ({"committee": {"assignment": "fixed"}}, False),
        ({"committee": {"assignment": "balanced"}}, False),
        ({"committee": {"assignment": "single", "reviewers": 1}}, False),
        ({"enrichment": {"keywords": "extract"}}, False),
        ({"rounds": {"quotas": "even"}}, False),
    ],
)
def test_ablations_end_every_candidate_once_and_repeat_what_can_be_repeated(
    made, tmp_path, asked_in_full, changes, fewer
) -> None:
    rows, facts = made("ablation", **FULL | {key: {**FULL.get(key, {}), **value} for key, value in changes.items()})
    assert len({row["candidate_id"] for row in rows}) == len(rows) == 30
    assert all(row["reason"] for row in rows)
    assert len(accepted(rows)) >= 3
    if fewer:  # in a shared ledger such an ablation costs only what it lets through further
        new = questions(tmp_path / "ablation") - asked_in_full
        assert len(new) < 0.35 * len(questions(tmp_path / "ablation")), len(new)
    if "disputed" in changes.get("review", {}):
        disputed = [row for row in rows if row["disputed"]]
        assert disputed
        ending = {"accept": "accepted", "reject": "rejected"}[changes["review"]["disputed"]]
        assert {row["state"] for row in disputed} <= {ending, "duplicate"}
        assert {row["ruling"] for row in rows} == {None}
    if changes.get("committee", {}).get("reviewers") == 0:
        assert facts["tokens_by_role"].keys() == {"generator", "enricher"}


def test_extracted_keywords_are_the_enrichers_and_kept_ones_the_generators(made, tmp_path: Path) -> None:
    kept, _ = made("keep")
    extracted, _ = made("extract", enrichment={"keywords": "extract"})
    assert [r for r in kept if r["round"] == 1][:8] == [r for r in extracted if r["round"] == 1][:8]
    assert [r for r in kept if r["round"] == 2][:8] != [r for r in extracted if r["round"] == 2][:8]


# --- rounds and pool ------------------------------------------------------------------------------------------------


def test_the_pool_grows_with_what_was_accepted_and_only_with_that(made) -> None:
    rows, facts = made(rounds={"count": 3, "accept": 10, "max_candidates": 120})
    ended = {row["candidate_id"]: row for row in rows}
    young = 0
    for row in rows:
        assert len(set(row["parents"])) == 2
        for parent in (ended[name] for name in row["parents"] if name in ended):
            assert (parent["state"], parent["domain"]) == ("accepted", row["domain"])
            assert parent["round"] < row["round"]
            young += 1
    assert young > 10
    assert facts["states"]["accepted"] == 30
    assert Counter(row["round"] for row in accepted(rows)) == {1: 10, 2: 10, 3: 10}


def test_a_round_that_cannot_be_filled_says_so_and_the_next_one_begins(made, tmp_path: Path) -> None:
    rows, facts = made(rounds={"count": 2, "accept": 24, "max_candidates": 25, "quotas": "even"})
    assert facts["stopped"] == ["candidate limit"] * 2
    count = Counter((row["round"], row["domain"]) for row in accepted(rows))
    notes = [event["text"] for event in read_events(tmp_path / "run" / "log.jsonl") if event["event"] == "note"]
    total = count[1, "qa"] + count[1, "math"]
    assert (
        f"! round 1 ends with {total} of 24 rows: 25 candidates are all that `rounds.max_candidates` allows "
        f"(qa {count[1, 'qa']} of 12, math {count[1, 'math']} of 12)"
    ) in notes
    lost = Counter(row["state"] for row in rows if row["round"] == 1 and row["state"] != "accepted")
    recorded = [note.split() for note in notes if note.startswith("!   ")]
    assert {state.rstrip(",") for _, _, state, *_ in recorded} <= set(lost)
    assert 0 < sum(int(number) for _, number, *_ in recorded[:3]) <= lost.total()


def test_a_quota_without_two_seeds_is_refused_before_anything_is_spent(made, tmp_path: Path) -> None:
    changes = {"domains": ["qa", "math", "coding"], "rounds": {**ROUNDS, "quotas": "even"}}
    with pytest.raises(DataError, match=r"`rounds\.quotas` asks for rows of coding"):
        made(**changes)
    assert questions(tmp_path / "run") == set()
    changes["rounds"] = {**ROUNDS, "quotas": {"qa": 1, "math": 1, "coding": 0}}
    rows, _ = made(**changes)
    assert Counter((row["round"], row["domain"]) for row in accepted(rows)) == {
        (1, "qa"): 4, (1, "math"): 4, (2, "qa"): 4, (2, "math"): 4
    }  # fmt: skip


def test_seeds_without_a_domain_are_given_one(made, tmp_path: Path, monkeypatch) -> None:
    before = write_job

    def write(folder: Path, recipe: SynthesisRecipe) -> None:
        before(folder, recipe)
        rows = [json.loads(line) for line in (folder / "seeds.jsonl").open()]
        for row in rows[1:]:
            del row["domain"]
        (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    monkeypatch.setitem(globals(), "write_job", write)
    rows, facts = made(rounds={"count": 1, "accept": 4, "max_candidates": 40})
    assert {row["domain"] for row in rows} <= {"qa", "math"}
    assert facts["tokens_by_role"]["enricher"]["calls"] >= 5 + 6
    assert facts["states"]["accepted"] == 4


# --- rounds in the dataset ------------------------------------------------------------------------------------------


def test_the_datasets_library_loads_the_data_as_it_was_after_any_round(made, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    made(rounds={"count": 3, "accept": 4, "max_candidates": 60})
    folder, cache = str(tmp_path / "run" / "dataset"), str(tmp_path / "cache")
    everything = datasets.load_dataset(folder, split="train", cache_dir=cache)
    assert Counter(everything["round"]) == {1: 4, 2: 4, 3: 4}
    for last in (1, 2):
        part = datasets.load_dataset(folder, f"rounds-to-{last}", split="train", cache_dir=cache)
        assert part[:] == everything.filter(lambda row, last=last: row["round"] <= last)[:]
    made(rounds={"count": 2, "accept": 4, "max_candidates": 60})
    assert sorted(file.name for file in (tmp_path / "run" / "dataset" / "rounds").iterdir()) == [
        "1.parquet",
        "2.parquet",
    ]


def test_a_recipe_needs_what_its_arm_needs() -> None:
    for arm in ("refined", "gra", "integrated", "self_guide"):
        with pytest.raises(ValueError, match=f"`arm: {arm}` needs a `committee`"):
            make_recipe(arm=arm, committee=None)
    with pytest.raises(ValueError, match=r"set `committee\.assignment: single`"):
        make_recipe(arm="self_guide")
    assert isinstance(make_recipe(arm="self_guide", committee=ONE), SynthesisRecipe)
