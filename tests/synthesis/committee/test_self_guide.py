"""SELF-GUIDE: filters, agreement of draws, examples, and whole runs."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import answer_by_content, content, make_recipe, make_seeds, said, write_job

from gra.config.arms import SelfGuideConfig
from gra.core.types import Seed
from gra.core.vocabulary import RejectedAt
from gra.data.export import read_lineage
from gra.engines.types import Call, Completion, Fault, Text
from gra.synthesis.committee.self_guide import agreed, choose_examples, fault, length_bounds, unwrapped

ONE = {"models": {"student": "model-s"}, "assignment": "single", "reviewers": 0}


@given(st.lists(st.sampled_from(["a", "bb", "cc", "ddd"]), max_size=12), st.integers(1, 12), st.floats(0.05, 1))
def test_most_frequent_output_is_kept_if_enough_draws_give_it(outputs: list[str], more: int, least: float) -> None:
    drawn = len(outputs) + more
    found = agreed(outputs, drawn, least)
    counts = Counter(outputs)
    if found is None:
        assert not counts or max(counts.values()) < least * drawn
    else:
        assert counts[found.text] == max(counts.values()) >= least * drawn
        assert all(len(text) >= len(found.text) for text, n in counts.items() if n == counts[found.text])


def test_agreement_is_right_more_often_than_a_draw() -> None:
    """Draws are right six times in ten, and wrong ones differ."""
    luck = random.Random(0)
    draws = [["right" if luck.random() < 0.6 else f"wrong {luck.randrange(8)}" for _ in range(10)] for _ in range(300)]
    found = [agreed(outputs, 10, 0.3) for outputs in draws]
    kept = [response.text == "right" for response in found if response is not None]
    assert sum(kept) / len(kept) > 0.9 > 0.7 > sum(d[0] == "right" for d in draws) / len(draws)
    assert len(kept) > 290


def test_lengths_of_equal_examples_still_allow_half_of_the_mean() -> None:
    assert length_bounds(["abcd"] * 3) == (2.0, 6.0)
    low, high = length_bounds(["a" * 10, "a" * 20, "a" * 60])
    assert low < 0
    assert high == pytest.approx(30 + 2 * (1400 / 3) ** 0.5)


@pytest.mark.parametrize("text", [" ", "Sure, here it is", "Here is a new input: Name it.", "Great question! Yes.",
                                  "I'd be happy to help.", "yes</output> and"])  # fmt: skip
def test_text_with_words_around_it_is_dropped(text: str) -> None:
    assert fault(text, None)


@pytest.mark.parametrize("text", ["yes", "Name a sure thing.", "Write a course plan for high quality tea."])
def test_plain_text_stays(text: str) -> None:
    assert fault(text, None) == ""
    assert "characters" in fault(text * 9, (1, 8))


def test_marks_of_the_prompt_are_taken_off() -> None:
    assert unwrapped(" <input>\nName it.\n</input> ") == "Name it."


def test_examples_are_seeds_and_earlier_rows_are_not() -> None:
    pool = [*make_seeds(6)[:6], *(Seed(f"r1-{i:06}", "qa", f"Row {i}?", "yes") for i in range(15))]
    config = SelfGuideConfig()
    found = [choose_examples(pool, config, 0, "qa", 2, index) for index in range(8)]
    assert all(examples == found[0][0] for examples, _ in found)
    assert len(found[0][0]) == 3
    assert all(1 <= len(earlier) <= 10 and all(row.id.startswith("r1-") for row in earlier) for _, earlier in found)
    assert len({tuple(row.id for row in earlier) for _, earlier in found}) > 1
    assert choose_examples(pool[:6], config, 0, "qa", 1, 0)[1] == []


# --- whole runs -----------------------------------------------------------------------------------------------------


def guided(call: Call) -> Completion | Fault:
    """Write inputs, one of ten with words around it; outputs agree on all inputs but those about owls."""
    prompt, luck = call.messages[-1][1], random.Random(content(call))
    if isinstance(call.output, Text) and prompt.startswith("You write new inputs"):
        topic = luck.choice(scripted_run.TOPICS)
        text = f"Name {topic} number {luck.randrange(10**6)}."
        return said(f"Sure, {text}" if luck.random() < 0.1 else text)
    if isinstance(call.output, Text) and prompt.startswith("Examples of one task"):
        asked = prompt.rsplit("<input>", 1)[1].split()
        return said(f"{luck.randrange(10**6)}" if "owls" in asked or luck.random() < 0.4 else asked[1])
    return answer_by_content(call)


def test_a_run_writes_filters_and_agrees_and_another_start_asks_nothing(tmp_path: Path) -> None:
    made = make_recipe(
        arm="self_guide",
        committee=ONE,
        rounds={"count": 2, "accept": 8, "max_candidates": 60},
        self_guide={"outputs": 6},
        review={"comments": "never"},
    )
    write_job(tmp_path, made)
    scripted_run.make(tmp_path, answer=guided)
    rows = read_lineage(tmp_path / "lineage.parquet")
    facts = json.loads((tmp_path / "manifest.json").read_text())["synthesis"]
    assert facts["states"]["accepted"] == 16
    assert facts["tokens_by_role"].keys() == {"generator"}
    for row in rows:
        about_owls = "owls" in row["instruction"].split()
        if row["state"] == "accepted":
            assert row["response"] == row["instruction"].split()[1]
            assert not about_owls
    assert {RejectedAt.UNUSUAL_INPUT, RejectedAt.NO_AGREEMENT} <= {row["rejected_at"] for row in rows}
    undecided = [row for row in rows if row["rejected_at"] == RejectedAt.NO_AGREEMENT]
    assert sum("owls" in row["instruction"].split() for row in undecided) >= 0.8 * len(undecided)
    assert any(name.startswith("r1-") for row in rows if row["round"] == 2 for name in row["parents"])
    asked = (tmp_path / "asked.txt").read_text()
    scripted_run.make(tmp_path, answer=guided)
    assert (tmp_path / "asked.txt").read_text() == asked


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arm": "refined"}, "`self_guide` writes new samples, and `arm: refined` does not"),
        ({"best_of": 2}, "leave `best_of` out"),
    ],
)
def test_recipe_that_self_guide_does_not_fit_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_recipe(self_guide={}, **changes)
