"""Whole runs with a chain of reviewers, and labels that a tokenizer cannot separate."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scripted_run
from scripted_run import answer_by_content, make_recipe, said, write_job

from gra.config.review import ReviewConfig
from gra.core.errors import ModelUnavailable, RecipeError
from gra.core.types import Review
from gra.data.export import read_lineage
from gra.engines.types import Call, Choice, Completion, Fault
from gra.runs.panel import panel_sentences
from gra.serving.labels import colliding_labels
from gra.stats.panel import log_odds
from gra.stats.reliability import logistic
from gra.synthesis.measuring.chain import ReviewChains
from gra.synthesis.measuring.controls import ControlItem, ControlKind
from gra.synthesis.measuring.panel import fit_panel
from gra.synthesis.run import check_labels

REVIEW = {"ask": "yes_no", "comments": "never", "control_items": 6, "strategy": "chain", "accept_mean": 5.0,
          "dispute_std": 10.0}  # fmt: skip


def chains(combine: str = "log_odds") -> tuple[ReviewChains, dict[str, np.ndarray]]:
    luck = np.random.default_rng(1)
    right = np.arange(60) % 2 == 0
    odds = {name: np.where(right, 1.0, -1.0) + luck.normal(0, 1.5, 60) for name in "abc"}
    review = ReviewConfig.model_validate({"control_items": 4, "strategy": "chain", "accept_mean": 5.0,
                                          "chain": {"combine": combine}})  # fmt: skip
    costs = {"a": 3.0, "b": 1.0, "c": 2.0}
    kinds = (ControlKind.WRONG_ANSWER, ControlKind.RIGHT_ANSWER)
    items = [ControlItem(kinds[int(known)], f"i{i}", "How many?", "Many.", "writer") for i, known in enumerate(right)]
    return ReviewChains(odds, odds, items, costs, review), odds


def asked(found: ReviewChains, odds: dict[str, float], reviewers: str = "abc") -> list[str]:
    async def ask(member: Any) -> Review:
        return Review(member.name, {}, 0.0, float(logistic(odds[member.name], 10)))

    members: list[Any] = [SimpleNamespace(name=name) for name in reviewers]
    return [review.reviewer for review in asyncio.run(found.ask(members, ask, "r1-000001"))]


def test_cheapest_reviewer_is_asked_first_and_a_sure_one_ends_the_review() -> None:
    found, _ = chains()
    assert found.order == ("b", "c", "a")
    assert asked(found, {"a": 0.1, "b": 5.0, "c": 0.1}) == ["b"]
    assert asked(found, {"a": 0.1, "b": 0.01, "c": 5.0}) == ["b", "c"]
    assert asked(found, {"a": 0.1, "b": 0.01, "c": 0.01}) == ["b", "c", "a"]
    assert asked(found, {"a": 0.1, "b": 0.01, "c": 0.01}, "ab") == ["b", "a"]


def test_scores_combine_what_the_asked_reviewers_said() -> None:
    found, _ = chains()
    given = {name: float(logistic(value, 10)) for name, value in {"b": 0.4, "c": 1.1}.items()}
    assert float(log_odds(found.score(given, "abc") / 10)) == pytest.approx(1.5)
    ranked, _ = chains("rank")
    sure = {name: float(logistic(value, 10)) for name, value in {"b": -5.5, "c": 0.05}.items()}
    assert float(log_odds(ranked.score(sure, "abc") / 10)) == pytest.approx(-5.5)


def made(folder: Path, **review: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    write_job(folder, make_recipe(rounds={"count": 1, "accept": 8, "max_candidates": 30}, review=REVIEW | review))
    scripted_run.make(folder, answer=opinion)
    facts = json.loads((folder / "manifest.json").read_text())["synthesis"]
    return read_lineage(folder / "lineage.parquet"), facts


def opinion(call: Call) -> Completion | Fault:
    """Reviewers see, more or less, whether the answer is about its exercise."""
    prompt = call.messages[-1][1]
    if isinstance(call.output, Choice) and "<answer>" in prompt:
        luck = random.Random(scripted_run.content(call))
        words = prompt.split("<answer>")[1].split("</answer>")[0].split()
        fits = any(word in prompt.split("<answer>")[0] for word in words if len(word) > 3)
        yes = min(0.97, max(0.03, (0.7 if fits else 0.3) + luck.gauss(0, 0.2)))
        return said("yes", "length", yes=yes, no=1 - yes)
    if isinstance(call.output, Choice):
        return said("yes", "length", yes=0.9, no=0.1)
    return answer_by_content(call)


def test_a_run_asks_the_chain_and_another_start_asks_nothing(tmp_path: Path) -> None:
    rows, facts = made(tmp_path / "run", chain={"combine": "rank"})
    asked_of = Counter(len(row["reviews"]) for row in rows if row["reviews"])
    assert set(asked_of) == {1, 2, 3}
    panel = facts["panel"]
    assert panel["strategy"] == "chain"
    order = panel["chain"]["order"]
    for row in rows:
        places = [order.index(review["reviewer"]) for review in row["reviews"]]
        assert places == sorted(places)
    before = (tmp_path / "run" / "asked.txt").read_text()
    scripted_run.make(tmp_path / "run", answer=opinion)
    assert (tmp_path / "run" / "asked.txt").read_text() == before
    assert any("random routing of equal cost" in sentence for sentence in panel_sentences(panel))


def test_reviewers_that_were_not_asked_give_no_reasons_to_the_adjudicator(tmp_path: Path) -> None:
    """Each remark belongs to the reviewer that is asked for it, also where fewer than all have reviewed."""
    rows, _ = made(tmp_path / "run", comments="disputed", dispute_std=0.2)
    disputed = [row for row in rows if row["ruling"]]
    assert disputed
    for row in disputed:
        assert all(review["comment"] for review in row["reviews"])
        assert len({review["reviewer"] for review in row["reviews"]}) == len(row["reviews"])


@pytest.mark.parametrize(
    ("review", "sentence"),
    [
        ({"strategy": "chain"}, "`strategy: chain` is fitted on control items; set `control_items`"),
        ({"strategy": "chain", "control_items": 4, "aggregate": "weighted"}, "leave out `aggregate: weighted`"),
        (
            {"strategy": "chain", "control_items": 4, "open_domains": ["qa", "math"]},
            r"no panel of its own for `open_domains: \[qa, math\]`; set `strategy: full` or `adaptive`",
        ),
        ({"control_items": 4, "chain": {"combine": "rank"}}, "`chain` belongs to `strategy: chain`"),
    ],
)
def test_review_that_cannot_be_a_chain_is_one_sentence(review: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ReviewConfig.model_validate(review)


# --- labels ---------------------------------------------------------------------------------------------------------


def tokenizer(folder: Path, *merges: tuple[str, str], before: str = "") -> Path:
    """Save a tokenizer of single bytes and these merges, which writes `before` in front of every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    raw = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=list(merges)))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    if before:
        raw.normalizer = normalizers.Prepend(before)
    folder.mkdir(exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    return folder


def test_labels_with_one_first_token_are_found(tmp_path: Path) -> None:
    letters = tokenizer(tmp_path / "letters")
    assert colliding_labels(letters, ["yes", "no"]) is None
    assert colliding_labels(letters, [*"0123456789"]) is None
    assert colliding_labels(letters, ["yes", "yet"]) == ("yes", "yet")
    assert colliding_labels(tokenizer(tmp_path / "words", ("y", "e"), ("ye", "t")), ["yes", "yet"]) is None
    assert colliding_labels(tmp_path, ["yes", "yet"]) is None  # no tokenizer.json: the engine checks


def test_labels_that_one_token_begins_only_after_a_space_are_found(tmp_path: Path) -> None:
    """Here ` y` is one token, and a model that begins its answer with a space may mean either label."""
    spaced = tokenizer(tmp_path / "a", ("Ġ", "y"), ("y", "e"), ("ye", "t"))
    assert colliding_labels(spaced, ["yes", "no"]) is None
    assert colliding_labels(spaced, ["yes", "yet"]) == ("yes", "yet")


def test_members_whose_labels_collide_are_one_sentence_before_any_engine_starts(tmp_path: Path) -> None:
    recipe = make_recipe(review=REVIEW)
    models = {f"model-{name}": SimpleNamespace(path=tokenizer(tmp_path / "good")) for name in "abcde"}
    registry: Any = SimpleNamespace(models=models, servers={}, served=lambda member: member.model)
    check_labels([recipe], registry)
    models["model-c"].path = tokenizer(tmp_path / "bad", before="_")
    sentence = "`committee.models.c` is asked by `yes_no`, and the tokenizer of model-c begins `yes` and `no` with the "
    with pytest.raises(RecipeError, match=sentence):
        check_labels([recipe], registry)
    registry.servers = {"model-c": object()}
    check_labels([recipe], registry)


def test_reward_model_has_no_labels_to_collide(tmp_path: Path) -> None:
    members: dict[str, Any] = {name: f"model-{name}" for name in "abcd"}
    members["e"] = {"model": "model-e", "ask": "reward", "roles": ["reviewer"]}
    recipe = make_recipe(review=REVIEW, committee={"models": members})
    models = {f"model-{name}": SimpleNamespace(path=tokenizer(tmp_path / "good")) for name in "abcd"}
    models["model-e"] = SimpleNamespace(path=tokenizer(tmp_path / "bad", before="_"))
    registry: Any = SimpleNamespace(models=models, servers={}, served=lambda member: member.model)
    check_labels([recipe], registry)


def test_tokenizer_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="get the model again"):
        colliding_labels(tmp_path, ["yes", "no"])


def test_reviewer_of_three_values_keeps_a_third_of_the_candidates_too() -> None:
    """Thresholds come from the maps that candidates are scored with, so that equal scores stay equal."""
    luck = np.random.default_rng(4)
    kinds = (ControlKind.WRONG_ANSWER, ControlKind.RIGHT_ANSWER)
    items = [ControlItem(kinds[i % 2], f"q{i}", "How many?", "Many.", "writer") for i in range(60)]
    raw = {
        "few": {item.name: float(luck.choice([0.0, 5.0, 10.0])) for item in items},
        **{name: {item.name: luck.normal(5 + item.is_good, 2) for item in items} for name in ("more", "most")},
    }
    fitted = fit_panel(
        items, raw, ReviewConfig.model_validate(REVIEW), costs={"few": 1.0, "more": 2.0, "most": 3.0}, families={},
        authors={},
    )  # fmt: skip
    assert fitted.panel.chains is not None
    chain = fitted.panel.chains.of(["few", "more", "most"])
    kept = [
        chain.keeps(0, float(log_odds(fitted.calibrations["few"](luck.choice([0.0, 5.0, 10.0])) / 10)), f"r1-{i:06d}")
        for i in range(600)
    ]
    assert 0.2 < np.mean(kept) < 0.47
