"""The nouns turn into JSON and back without a loss."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from random_candidates import (
    candidates,
    usage,
)

from gra.core.hashing import canonical_json
from gra.core.types import (
    CHECKS,
    DIMENSIONS,
    Candidate,
    Seed,
    State,
    Usage,
)


@given(candidates)
def test_a_candidate_comes_back_from_json_as_it_was(candidate: Candidate) -> None:
    through_text: dict[str, Any] = json.loads(json.dumps(candidate.to_json(), ensure_ascii=False))
    again = Candidate.from_json(through_text)
    assert again == candidate
    assert type(again.state) is State
    assert canonical_json(again.to_json()) == canonical_json(candidate.to_json())


@given(usage, usage)
def test_usage_adds_up(one: Usage, two: Usage) -> None:
    total = one + two
    assert (total.calls, total.prompt_tokens, total.completion_tokens) == (
        one.calls + two.calls, one.prompt_tokens + two.prompt_tokens, one.completion_tokens + two.completion_tokens
    )  # fmt: skip


def test_the_papers_criteria_and_dimensions() -> None:
    assert (len(CHECKS), len(DIMENSIONS)) == (3, 6)
    assert {state.value for state in State} == {
        "accepted", "rejected", "duplicate", "contaminated", "surplus", "failed"
    }  # fmt: skip


def test_a_seed_is_a_parent_only_with_three_keywords_and_a_summary() -> None:
    assert Seed("s", "qa", "i", "r", ("a", "b", "c"), "do").enriched
    assert not Seed("s", "qa", "i", "r", ("a", "b"), "do").enriched
    assert not Seed("s", "qa", "i", "r", ("a", "b", "c")).enriched
