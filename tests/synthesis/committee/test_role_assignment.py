"""Role assignment: balanced cycles are even, fixed and single roles follow the recipe, ablations share calls."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scripted_run import make_recipe

from gra.config.synthesis import SynthesisRecipe, committee_of
from gra.core.errors import RecipeError
from gra.engines.types import ModelId, SamplingSettings
from gra.synthesis.committee.members import Member, make_members
from gra.synthesis.committee.roles import (
    RoleAssignment,
    adjudicates,
    assign_roles,
    balanced_roles,
    check_assignment,
    random_roles,
)

ALL = ("generator", "reviewer", "adjudicator")
SAMPLING = SamplingSettings(0.7, 0.95, 1.0, 256)


def people(families: list[str], roles: tuple[str, ...] = ALL) -> dict[str, Member]:
    return {
        (name := f"m{i}"): Member(name, ModelId(name, f"id-{name}", "t"), None, SAMPLING, roles, "integers", family)  # type: ignore[arg-type]
        for i, family in enumerate(families)
    }


def lap(
    members: dict[str, Member], reviewers: int, seed: int, number: int = 0, judged: bool = True
) -> list[RoleAssignment]:
    """Return one cycle: as many assignments as pairs of a generator and another member that may review."""
    size = sum(
        sum("reviewer" in other.roles and other is not member for other in members.values())
        for member in members.values()
        if "generator" in member.roles
    )
    return [balanced_roles(members, reviewers, seed, 1, number * size + i, judged) for i in range(size)]


sizes = st.integers(3, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 2)))


@given(sizes, st.lists(st.sampled_from("xyz"), min_size=9, max_size=9), st.integers(0, 10**6), st.integers(0, 3))
def test_in_a_balanced_lap_every_pair_occurs_equally_often(size, families, seed: int, number: int) -> None:
    n, reviewers = size
    members = people(families[:n])
    assignments = lap(members, reviewers, seed, number)
    for roles in assignments:
        assert roles.adjudicator is not None
        names = [roles.generator.name, roles.adjudicator.name, *(r.name for r in roles.reviewers)]
        assert len(set(names)) == len(names) == reviewers + 2
    reviewed = Counter((roles.generator.name, r.name) for roles in assignments for r in roles.reviewers)
    judged = Counter((roles.generator.name, roles.adjudicator.name) for roles in assignments if roles.adjudicator)
    assert len(reviewed) == len(judged) == n * (n - 1)
    assert set(reviewed.values()) == {reviewers}
    assert set(judged.values()) == {1}


@given(st.integers(2, 5), st.integers(2, 5), st.integers(1, 3), st.integers(0, 10**6))
def test_balance_holds_with_dedicated_roles(writers: int, readers: int, judges: int, seed: int) -> None:
    """Some only generate and some both generate and review; those who adjudicate do nothing else."""
    assume(readers > 2)
    members = people(["w"] * writers, ("generator",))
    members |= {f"r{m.name}": m for m in people(["r"] * readers, ("generator", "reviewer")).values()}
    members |= {f"j{m.name}": m for m in people(["j"] * judges, ("adjudicator",)).values()}
    named = {
        key: Member(key, ModelId(key, key, "t"), None, SAMPLING, m.roles, m.ask, m.family) for key, m in members.items()
    }
    assignments = lap(named, 2, seed)
    reviewed = Counter((roles.generator.name, r.name) for roles in assignments for r in roles.reviewers)
    assert set(reviewed.values()) == {2}
    assert len(reviewed) == writers * readers + readers * (readers - 1)
    assert {roles.adjudicator.name[0] for roles in assignments if roles.adjudicator} == {"j"}


@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 10**6))
def test_families_are_mixed_on_every_panel(families: int, each: int, seed: int) -> None:
    """With as many reviewers as families, no two reviewers of a candidate are of one family."""
    members = people([f"family-{i % families}" for i in range(families * each)], ("reviewer",))
    writer = Member("w", ModelId("w", "w", "t"), None, SAMPLING, ("generator",), "integers")
    assignments = lap({**members, "w": writer}, families, seed, judged=False)
    assert len(assignments) == families * each
    for roles in assignments:
        assert len({r.family for r in roles.reviewers}) == families
        assert roles.adjudicator is None


def test_laps_differ_and_are_the_same_whenever_they_are_made() -> None:
    members = people(["a", "a", "b", "c", "d"])
    laps = [[str(roles) for roles in lap(members, 3, 0, number)] for number in range(4)]
    assert all(one != two for one, two in combinations(laps, 2))
    assert laps == [[str(roles) for roles in lap(members, 3, 0, number)] for number in range(4)]


def recipe(members: int = 5, committee: dict[str, Any] | None = None, **changes: Any) -> SynthesisRecipe:
    models = {name: {"model": f"model-{name}"} for name in "abcdefgh"[:members]}
    return make_recipe(committee={"models": models} | (committee or {}), **changes)


def members_of_recipe(made: SynthesisRecipe) -> dict[str, Member]:
    committee = committee_of(made)
    assert committee is not None
    ids = {name: ModelId(m.model, m.model, "t") for name, m in committee.models.items()}
    return make_members(committee, made.review, ids)


def names(roles: RoleAssignment) -> tuple[str, str, str]:
    judge = roles.adjudicator.name if roles.adjudicator else ""
    return roles.generator.name, "".join(r.name for r in roles.reviewers), judge


@pytest.mark.parametrize(
    ("committee", "expected"),
    [
        ({"assignment": "fixed"}, ("a", "bcd", "e")),
        ({"assignment": "fixed", "lead": "c"}, ("c", "abd", "e")),
        ({"assignment": "fixed", "reviewers": 1}, ("a", "b", "")),
        ({"assignment": "single", "reviewers": 1}, ("a", "a", "")),
        ({"assignment": "single", "reviewers": 0, "lead": "d"}, ("d", "", "")),
    ],
)
def test_fixed_and_single_roles_never_change(committee, expected) -> None:
    made = recipe(committee=committee)
    check_assignment(made, members_of_recipe(made))
    assert {
        names(assign_roles(made, members_of_recipe(made), round_, index)) for round_ in (0, 1, 2) for index in range(5)
    } == {expected}


@pytest.mark.parametrize("assignment", ["random", "balanced"])
def test_an_ablation_asks_the_reviewers_that_the_full_method_asked(assignment: str) -> None:
    """Fewer reviewers or no adjudicator change no other role, so that the ledger holds those calls."""
    full, one, none, mean_only = (
        recipe(committee={"assignment": assignment, "reviewers": reviewers}, review={"disputed": disputed})
        for reviewers, disputed in ((3, "adjudicate"), (1, "adjudicate"), (0, "adjudicate"), (3, "accept"))
    )
    for index in range(60):
        generator, reviewers, judge = names(assign_roles(full, members_of_recipe(full), 1, index))
        assert judge
        assert names(assign_roles(mean_only, members_of_recipe(mean_only), 1, index)) == (generator, reviewers, "")
        assert names(assign_roles(one, members_of_recipe(one), 1, index)) == (generator, reviewers[0], "")
        assert names(assign_roles(none, members_of_recipe(none), 1, index)) == (generator, "", "")


@pytest.mark.parametrize(
    ("reviewers", "programs", "judged"),
    [
        (1, [], False),
        (1, [{"kind": "math", "mode": "filter"}], False),
        (1, [{"kind": "math", "mode": "score", "domains": ["math"]}], True),
        (0, [{"kind": "math", "mode": "score"}], False),
        (0, [{"kind": "math", "mode": "score"}, {"kind": "format", "mode": "score"}], True),
        (0, [{"kind": "math", "mode": "score", "domains": ["math"]},
             {"kind": "format", "mode": "score", "domains": ["qa"]}], False),
    ],
)  # fmt: skip
def test_scoring_verifier_can_cause_a_dispute(reviewers: int, programs: list[dict[str, Any]], judged: bool) -> None:
    made = recipe(committee={"reviewers": reviewers}, review={"verifiers": programs})
    assert adjudicates(made) is judged
    assert (assign_roles(made, members_of_recipe(made), 1, 0).adjudicator is not None) is judged
    lenient = recipe(committee={"reviewers": reviewers}, review={"verifiers": programs, "disputed": "accept"})
    assert not adjudicates(lenient)


def test_single_member_has_no_adjudicator() -> None:
    scoring = {"kind": "math", "mode": "score"}
    alone = {"models": {"a": "model-a"}, "assignment": "single", "reviewers": 1}
    assert not adjudicates(make_recipe(committee=alone, review={"verifiers": [scoring]}))


def test_without_disputes_to_settle_a_committee_may_be_one_smaller() -> None:
    four = recipe(4)
    with pytest.raises(RecipeError, match="3 reviewers are asked for"):
        check_assignment(four, members_of_recipe(four))
    lenient = recipe(4, review={"disputed": "reject"})
    check_assignment(lenient, members_of_recipe(lenient))
    assert len(random_roles(members_of_recipe(lenient), 3, 0, 1, 0, adjudicated=False).reviewers) == 3


def test_what_cannot_be_even_is_refused() -> None:
    models = {name: {"model": name} for name in "abcd"} | {"e": {"model": "e", "roles": ["generator", "reviewer"]}}
    made = make_recipe(committee={"models": models, "assignment": "balanced", "reviewers": 2})
    with pytest.raises(RecipeError, match="cannot be even when only some of `a`'s reviewers may adjudicate"):
        check_assignment(made, members_of_recipe(made))
    small = recipe(4, committee={"assignment": "balanced"})
    with pytest.raises(RecipeError, match="when `a` generates only 3 are left"):
        check_assignment(small, members_of_recipe(small))


@pytest.mark.parametrize(
    ("committee", "problem"),
    [
        ({"lead": "z", "assignment": "fixed"}, "`lead: z`, who is not among its models"),
        ({"lead": "a"}, "a `lead` only with `assignment: fixed` or `single`, not `random`"),
        ({"assignment": "single"}, "cannot have more than one review of a `single` member"),
    ],
)
def test_committees_that_contradict_themselves(committee, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        recipe(committee=committee)


def test_a_lead_must_have_the_roles_it_plays() -> None:
    models = {"a": {"model": "a", "roles": ["reviewer"]}, "b": {"model": "b", "roles": ["generator"]}}
    fixed = make_recipe(committee={"models": models, "assignment": "fixed", "lead": "a", "reviewers": 1})
    with pytest.raises(RecipeError, match="`lead: a` cannot generate"):
        check_assignment(fixed, members_of_recipe(fixed))
    single = make_recipe(committee={"models": models, "assignment": "single", "reviewers": 1})
    with pytest.raises(RecipeError, match="`b` is `single` and must be able to be reviewer"):
        check_assignment(single, members_of_recipe(single))


def test_families_come_from_the_catalog_or_from_the_recipe() -> None:
    models = {
        "llama": {"model": "meta-llama/Llama-3.1-8B-Instruct"},
        "tulu": {"model": "catalog:llama-3.1-tulu-3-8b"},
        "mine": {"model": "./my-llama", "family": "llama-3.1"},
        "other": {"model": "./unknown"},
    }
    made = make_recipe(committee={"models": models, "reviewers": 2})
    assert {name: member.family for name, member in members_of_recipe(made).items()} == {
        "llama": "llama-3.1", "tulu": "llama-3.1", "mine": "llama-3.1", "other": ""
    }  # fmt: skip
