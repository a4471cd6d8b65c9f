"""What a run leaves behind: files that others can load, and the story of every candidate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_candidates import candidates

from gra.core.types import AlternativeResponse, Candidate, InstructionReview, Review, Ruling, State, Usage
from gra.core.vocabulary import RejectedAt
from gra.data.export import (
    CONTESTED_SCHEMA,
    LINEAGE_SCHEMA,
    PREFERENCE_SCHEMA,
    SCHEMAS,
    TRAIN_SCHEMA,
    dataset_rows,
    export,
    lineage_row,
    preference_rows,
    read_candidates,
    read_lineage,
)

FACTS: dict[str, Any] = {
    "name": "demo",
    "arm": "gra",
    "states": {"accepted": 2, "rejected": 1},
    "models": [{"member": "a", "name": "model-a", "identity": "sha256:00", "licence": "Apache-2.0"}],
    "shared_weights": {"model-a": ["a", "b"]},
    "seeds": "seeds.jsonl",
    "reviewers": [{"member": "a", "ask": "yes_no", "auc": 0.87}],
    "committee_auc": 0.91,
    "prompts": {"enrich": "0" * 64},
}
BEST = RejectedAt.BEST_OF_N
RULING = Ruling("e", {"clarity": 9.0}, 9.0, "Fine — naïve ☃", True)
FULL = Candidate(
    "r1-000001", 1, 1, "qa", State.ACCEPTED, "adjudicator kept it", "gra", "a", ("b", "c", "d"), "e", ("s1", "s2"),
    ("x", "y", "z"), "Name a river.", "The Nile.\n\nIt is long.", (InstructionReview("b", {"clear": 0.9}, ()),),
    (Review("b", {"clarity": 9.0}, 9.0, 8.5, "Good."),), 8.25, 1.75, RULING, True, "s1", 0.5,
    {"generator": Usage(3, 100, 20), "reviewer": Usage(6, 300, 6)}, ("k1", "k2"),
)  # fmt: skip
SEED_ROW = Candidate("vanilla-s1", 1, 0, "math", State.ACCEPTED, "seed", "vanilla", instruction="1+1?", response="2")
DRAFTED = replace(
    FULL, id="r1-000003", index=3, ruling=None, disputed=False, alternatives=(
        AlternativeResponse(0, "The Danube.", "a better draft was taken", FULL.reviews, 8.1, 0.5, rejected_at=BEST),
        AlternativeResponse(
            2, "A lake.", "adjudicator rejected it", FULL.reviews, 8.4, 1.9, replace(RULING, score=3.0, kept=False)
        ),
        AlternativeResponse(3, "", "generator a: refused"),
        AlternativeResponse(4, "The Rhine.", "a better draft was taken", FULL.reviews, 8.25, 0.5, rejected_at=BEST),
    ),
)  # fmt: skip
REJECTED = replace(FULL, id="r1-000002", index=2, state=State.REJECTED, ruling=replace(RULING, kept=False))


def test_the_schemas_are_a_promise() -> None:
    """Columns and types that other people's code reads; adding one is fine, changing one is a break."""
    message = "list<element: struct<role: string, content: string>>"
    train = {"prompt": message, "completion": message, "id": "string", "domain": "string", "score": "double",
             "round": "int32"}  # fmt: skip
    assert types(TRAIN_SCHEMA) == train
    disputed = dict.fromkeys(["state", "reviews", "ruling", "reason"], "string")
    assert types(CONTESTED_SCHEMA) == train | disputed | {"std": "double"}
    assert types(PREFERENCE_SCHEMA) == (
        dict.fromkeys(["prompt", "chosen", "rejected"], message) | dict.fromkeys(["id", "domain", "reason"], "string")
        | dict.fromkeys(["score_chosen", "score_rejected"], "double")
    )  # fmt: skip
    texts = ["candidate_id", "domain", "state", "reason", "arm", "generator", "adjudicator", "instruction", "tests",
             "response", "neighbour", "checks", "programs", "reviews", "ruling", "drafts", "contamination",
             "usage", "rejected_at", "failed_by", "thinking", "decisions"]  # fmt: skip
    lists = ["reviewers", "parents", "keywords", "calls"]
    assert types(LINEAGE_SCHEMA) == (
        dict.fromkeys(texts, "string") | dict.fromkeys(lists, "list<element: string>")
        | dict.fromkeys(["mean", "std", "similarity"], "double") | {"round": "int32", "index": "int32"}
        | {"disputed": "bool", "prompt_tokens": "int64", "completion_tokens": "int64"}
    )  # fmt: skip


def types(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type).replace("item:", "element:") for field in schema}


def test_a_run_folders_dataset(tmp_path: Path) -> None:
    files = export(tmp_path, [FULL, REJECTED, SEED_ROW], FACTS)
    assert [str(f.relative_to(tmp_path)) for f in files] == [
        "dataset/train.parquet", "dataset/contested.parquet", "dataset/preferences.parquet", "dataset/lineage.parquet",
        "lineage.parquet", "dataset/README.md",
    ]  # fmt: skip
    assert (tmp_path / "lineage.parquet").read_bytes() == (tmp_path / "dataset" / "lineage.parquet").read_bytes()
    train = pq.read_table(tmp_path / "dataset" / "train.parquet").to_pylist()
    assert [row["id"] for row in train] == ["r1-000001", "vanilla-s1"]
    assert train[0]["prompt"] == [{"role": "user", "content": "Name a river."}]
    assert train[0]["completion"] == [{"role": "assistant", "content": "The Nile.\n\nIt is long."}]
    assert [row["score"] for row in train] == [8.25, None]
    contested = pq.read_table(tmp_path / "dataset" / "contested.parquet").to_pylist()
    assert [(row["id"], row["state"]) for row in contested] == [("r1-000001", "accepted"), ("r1-000002", "rejected")]
    assert json.loads(contested[1]["ruling"])["kept"] is False


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(candidates, max_size=4))
def test_the_lineage_tells_everything_that_is_known(tmp_path_factory, made: list[Candidate]) -> None:
    folder = tmp_path_factory.mktemp("lineage")
    export(folder, made, FACTS)
    rows = read_lineage(folder / "lineage.parquet")
    assert len(rows) == len(made)
    assert read_candidates(folder / "lineage.parquet") == made
    for row, candidate in zip(rows, made, strict=True):
        assert row["prompt_tokens"] == sum(u.prompt_tokens for u in candidate.usage.values())
        told = {**row, "id": row["candidate_id"]}
        for extra in ("candidate_id", "prompt_tokens", "completion_tokens"):
            del told[extra]
        assert Candidate.from_json(told) == candidate


def test_a_row_of_lineage_has_exactly_the_columns(tmp_path: Path) -> None:
    assert list(lineage_row(FULL)) == LINEAGE_SCHEMA.names


def test_the_same_candidates_give_the_same_bytes(tmp_path: Path) -> None:
    one = [f.read_bytes() for f in export(tmp_path / "one", [FULL, SEED_ROW], FACTS)]
    two = [f.read_bytes() for f in export(tmp_path / "two", [FULL, SEED_ROW], FACTS)]
    assert one == two


def test_rows_are_written_in_groups_and_candidates_gone_through_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("gra.data.export.GROUP", 2)
    made = [replace(FULL, id=f"r{1 + i // 4}-{i:06d}", round=1 + i // 4) for i in range(7)]
    export(tmp_path, iter(made), FACTS)
    dataset = tmp_path / "dataset"
    assert pq.ParquetFile(dataset / "train.parquet").num_row_groups == 4
    assert read_candidates(tmp_path / "lineage.parquet") == made
    rounds = [pq.read_table(dataset / "rounds" / f"{n}.parquet").to_pylist() for n in (1, 2)]
    assert [len(rows) for rows in rounds] == [4, 3]
    assert rounds[0] + rounds[1] == pq.read_table(dataset / "train.parquet").to_pylist()


@pytest.mark.parametrize("name", ["demo", "a: b", 'say "hi"', "100%", "#1", "- x"])
def test_the_card_is_valid_yaml_and_says_what_matters(tmp_path: Path, name: str) -> None:
    export(tmp_path, [FULL, SEED_ROW], {**FACTS, "name": name})
    text = (tmp_path / "dataset" / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    header = yaml.safe_load(front)
    assert header["pretty_name"] == name
    assert [c["config_name"] for c in header["configs"]] == ["train", "contested", "lineage"]
    assert [c["config_name"] for c in header["configs"] if c.get("default")] == ["train"]
    for piece in (
        "2 instruction-response rows", "| math | 1 |", "| qa | 1 |", "Apache-2.0", "a and b share the weights",
        "| committee | | 0.91 |", "| rejected | 1 |", f"`enrich.jinja` sha256 `{'0' * 64}`",
        "| `contested.parquet` | 1 |", "None. A recipe with",
    ):  # fmt: skip
        assert piece in body


@pytest.mark.parametrize("arm", ["vanilla", "distilled"])
def test_the_card_of_an_arm_without_reviewers(tmp_path: Path, arm: str) -> None:
    facts = {**FACTS, "arm": arm, "reviewers": [], "committee_auc": None, "shared_weights": {}, "models": []}
    export(tmp_path, [], facts)
    text = (tmp_path / "dataset" / "README.md").read_text(encoding="utf-8")
    assert "Not measured." in text
    assert "0 instruction-response rows" in text


def test_the_datasets_library_loads_it_by_file_and_by_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    export(tmp_path, [FULL, REJECTED, SEED_ROW], FACTS)
    folder, cache = str(tmp_path / "dataset"), str(tmp_path / "cache")
    by_file = datasets.load_dataset("parquet", data_files=f"{folder}/train.parquet", split="train", cache_dir=cache)
    by_card = datasets.load_dataset(folder, split="train", cache_dir=cache)
    contested = datasets.load_dataset(folder, "contested", split="train", cache_dir=cache)
    assert by_file[:] == by_card[:]
    assert by_file.column_names == TRAIN_SCHEMA.names
    assert by_file[0]["prompt"] == [{"role": "user", "content": "Name a river."}]
    assert len(contested) == 2


def test_a_pair_is_the_row_against_a_draft_that_scored_lower() -> None:
    """By the score that decided: the second draft's mean was higher, but the adjudicator did not believe it."""
    pairs = preference_rows(DRAFTED)
    assert [(p["rejected"][0]["content"], p["score_rejected"], p["reason"]) for p in pairs] == [
        ("The Danube.", 8.1, "a better draft was taken"), ("A lake.", 3.0, "adjudicator rejected it")
    ]  # fmt: skip
    assert {p["score_chosen"] for p in pairs} == {8.25}
    assert preference_rows(replace(DRAFTED, state=State.DUPLICATE)) == []
    assert preference_rows(SEED_ROW) == []


@given(st.lists(candidates, max_size=4))
def test_every_pair_is_of_a_training_row_and_worse_than_it(made: list[Candidate]) -> None:
    parts = dataset_rows(made)
    trained = [(row["id"], row["prompt"], row["completion"]) for row in parts["train"]]
    for pair in parts["preferences"]:
        assert (pair["id"], pair["prompt"], pair["chosen"]) in trained
        assert pair["score_rejected"] < pair["score_chosen"]
        assert any(
            pair["rejected"][0]["content"] == d.response for c in made for d in c.alternatives if c.id == pair["id"]
        )


def test_pairs_are_what_trl_calls_conversational_preferences() -> None:
    from trl.data_utils import is_conversational

    pair = preference_rows(DRAFTED)[0]
    assert is_conversational(pair)
    assert [pair[side][0]["role"] for side in ("prompt", "chosen", "rejected")] == ["user", "assistant", "assistant"]


def test_the_card_says_what_the_pairs_are(tmp_path: Path) -> None:
    export(tmp_path, [DRAFTED], FACTS)
    text = (tmp_path / "dataset" / "README.md").read_text(encoding="utf-8")
    for piece in ("| `preferences.parquet` | 2 |", "2 pairs.", ": 1 of the pairs are", "median difference is 2.70"):
        assert piece in text


@pytest.mark.parametrize("made", [[FULL, REJECTED, DRAFTED, SEED_ROW], [SEED_ROW]], ids=["full", "plain"])
def test_every_part_that_has_rows_loads_with_datasets(tmp_path: Path, monkeypatch, made: list[Candidate]) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    export(tmp_path, made, FACTS)
    folder, cache = str(tmp_path / "dataset"), str(tmp_path / "cache")
    expected = {name: rows for name, rows in dataset_rows(made).items() if rows}
    assert datasets.get_dataset_config_names(folder) == list(expected)
    for name, rows in expected.items():
        if not rows:
            continue
        loaded = datasets.load_dataset(folder, name, cache_dir=cache)["train"]
        assert loaded.column_names == SCHEMAS[name].names
        assert loaded.to_list() == rows
    if made:
        assert datasets.load_dataset(folder, cache_dir=cache)["train"].to_list() == expected["train"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [("\ud83d", "\ufffd"), ("a\udc00b", "a\ufffdb")]
    + [(t, t) for t in ("\0", "\u0301" * 3, "\U0001f600", "\ufffd", "x\u2028y")],
    ids=ascii,
)  # fmt: skip
def test_export_replaces_only_half_of_a_surrogate_pair(text: str, kept: str, tmp_path: Path) -> None:
    other = AlternativeResponse(0, f"worse {text}", "x", FULL.reviews, 8.1, 0.5, rejected_at=BEST)
    odd = replace(
        FULL, instruction=f"Say {text}", response=f"Said {text}", thinking=text, keywords=(text, "b", "c"), reason=text,
        ruling=replace(RULING, comment=text), alternatives=(other,),
    )  # fmt: skip
    export(tmp_path, [odd, SEED_ROW], FACTS | {"name": f"demo {text}"})
    row, _ = pq.read_table(tmp_path / "dataset" / "train.parquet").to_pylist()
    assert (row["prompt"][0]["content"], row["completion"][0]["content"]) == (f"Say {kept}", f"Said {kept}")
    again = read_candidates(tmp_path / "lineage.parquet")
    assert dataset_rows(again)["preferences"] == pq.read_table(tmp_path / "dataset" / "preferences.parquet").to_pylist()
    card = (tmp_path / "dataset" / "README.md").read_text("utf-8")
    assert ("1 candidates held half of a surrogate pair" in card) == (kept != text)
