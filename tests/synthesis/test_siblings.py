"""Test candidates that share their parents: who shares with whom, what they write, and what a resume takes over."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from scripted_rounds import check_ended_once, run
from scripted_run import answer_by_content, make_recipe, make_seeds, said

from gra.config.synthesis import SynthesisRecipe
from gra.core.types import Candidate, Seed
from gra.engines.types import Call, Completion
from gra.synthesis.rounds.parents import domain_in_turn, draw_parents, first_sibling

DOMAINS = ["qa", "math", "coding"]


def recipe_of(siblings: int) -> SynthesisRecipe:
    rounds = {"count": 1, "accept": 24, "max_candidates": 24, "siblings": siblings}
    return make_recipe(rounds=rounds, dedup={"threshold": 1.0})


def check_groups(firsts: list[int], domains: list[str], siblings: int) -> None:
    """In each domain, as many candidates in a row as are siblings share the first one's index."""
    for domain in set(domains):
        own = [index for index, other in enumerate(domains) if other == domain]
        assert [firsts[index] for index in own] == [own[place - place % siblings] for place in range(len(own))]


@given(st.integers(1, 16), st.integers(0, 9), st.integers(1, 60))
def test_siblings_follow_each_other_in_their_domain(siblings: int, seed: int, count: int) -> None:
    recipe = recipe_of(siblings).model_copy(update={"seed": seed, "domains": DOMAINS})
    pool = {domain: [Seed(f"{domain}-{n}", domain, "i", "r") for n in range(2)] for domain in DOMAINS}
    firsts = [first_sibling(recipe, pool, 1, index) for index in range(count)]
    check_groups(firsts, [domain_in_turn(recipe, pool, 1, index) for index in range(count)], siblings)
    if siblings == 1:
        assert firsts == list(range(count))


def parents_by_group(candidates: list[Candidate], siblings: int) -> list[set[tuple[str, ...]]]:
    """Return the different parents of each group of siblings."""
    groups: dict[tuple[str, int], set[tuple[str, ...]]] = defaultdict(set)
    seen: Counter[str] = Counter()
    for candidate in candidates:
        groups[candidate.domain, seen[candidate.domain] // siblings].add(candidate.parents)
        seen[candidate.domain] += 1
    return list(groups.values())


def test_siblings_share_parents_and_write_their_own(tmp_path: Path) -> None:
    calls: list[Call] = []

    def script(call: Call) -> Completion:
        calls.append(call)
        if call.role == "generator" and "keywords" in str(call.output):
            return said('{"keywords": ["the", "same", "three"]}')
        return answer_by_content(call)

    result = run(tmp_path, recipe_of(3), 8, script, seeds=make_seeds(9))
    check_ended_once(result)
    groups = parents_by_group(result.candidates, 3)
    assert {len(group) for group in groups} == {1}
    assert len({parents for group in groups for parents in group}) > 4
    # Siblings with the same keywords would otherwise ask one call, and have one instruction.
    samples = {call.candidate: call.sample for call in calls if "of this kind about the, same" in str(call.messages)}
    first: dict[tuple[str, int], int] = {}
    seen: Counter[str] = Counter()
    for candidate in result.candidates:
        begun = first.setdefault((candidate.domain, seen[candidate.domain] // 3), candidate.index)
        seen[candidate.domain] += 1
        assert samples.get(candidate.id, candidate.index - begun) == candidate.index - begun
    assert len(set(samples.values())) > 2


def test_each_candidate_draws_its_own_parents_by_default(tmp_path: Path) -> None:
    recipe = make_recipe(rounds={"count": 1, "accept": 24, "max_candidates": 24})
    seeds = make_seeds(9)
    made = run(tmp_path, recipe, 8, seeds=seeds).candidates
    pool = {domain: [seed for seed in seeds if seed.domain == domain] for domain in recipe.domains}
    own = [draw_parents(recipe, pool[c.domain], 1, c.index) for c in made]
    assert [c.parents for c in made] == [tuple(parent.id for parent in parents) for parents in own]


def test_verdicts_of_another_number_of_siblings_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    one = run(tmp_path, recipe_of(1), 8, seeds=make_seeds(9), path=path)
    four = run(tmp_path, recipe_of(4), 8, seeds=make_seeds(9), path=path)
    assert {len(group) for group in parents_by_group(four.candidates, 4)} == {1}
    again = run(tmp_path, recipe_of(1), 8, seeds=make_seeds(9), path=path)
    assert [c.parents for c in again.candidates] == [c.parents for c in one.candidates]
