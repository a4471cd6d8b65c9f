"""Roles: disjoint, even, the same whenever they are drawn; impossible committees are refused before any spending."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.config.committee import CommitteeConfig
from gra.config.review import ReviewConfig
from gra.core.errors import RecipeError
from gra.core.rng import rng
from gra.engines.types import ModelId, SamplingSettings, Text
from gra.synthesis.committee.members import Member, make_members, shared_weights
from gra.synthesis.committee.roles import check_roles, random_roles

ALL = ("generator", "reviewer", "adjudicator")
SAMPLING = SamplingSettings(0.7, 0.95, 1.1, 256)


def committee(roles: dict[str, tuple[str, ...]], weights: dict[str, str] | None = None) -> dict[str, Member]:
    return {
        name: Member(
            name, ModelId(w := (weights or {}).get(name, name), f"id-{w}", "t"), None, SAMPLING, played, "integers"
        )  # type: ignore[arg-type]
        for name, played in roles.items()
    }  # fmt: skip


FIVE = committee(dict.fromkeys("abcde", ALL))


@given(seed=st.integers(), round_=st.integers(1, 9), index=st.integers(0, 10**6), reviewers=st.integers(0, 3))
def test_roles_are_disjoint_and_the_same_whenever_they_are_drawn(seed, round_, index, reviewers) -> None:
    roles = random_roles(FIVE, reviewers, seed, round_, index)
    names = [roles.generator.name, roles.adjudicator.name, *(r.name for r in roles.reviewers)]
    assert len(set(names)) == len(names) == reviewers + 2
    assert random_roles(FIVE, reviewers, seed, round_, index) == roles


def test_a_pinned_draw_stays_what_it_was() -> None:
    """Random numbers of a purpose must not move between Python or GRA releases: old ledgers would be asked anew."""
    roles = random_roles(FIVE, 3, 0, 1, 0)
    assert (roles.generator.name, "".join(r.name for r in roles.reviewers), roles.adjudicator.name) == ("a", "cbd", "e")
    assert rng(0, 1, 0, "parents").random() == 0.22847954771092893


def test_every_member_plays_every_role_about_equally_often() -> None:
    played: dict[str, Counter[str]] = {role: Counter() for role in ALL}
    for index in range(3000):
        roles = random_roles(FIVE, 3, 0, 1, index)
        played["generator"][roles.generator.name] += 1
        played["adjudicator"][roles.adjudicator.name] += 1
        played["reviewer"].update(r.name for r in roles.reviewers)
    for role, expected in (("generator", 600), ("adjudicator", 600), ("reviewer", 1800)):
        assert set(played[role]) == set("abcde")
        assert all(abs(count - expected) < 110 for count in played[role].values()), played[role]  # 5 deviations


def test_the_same_weights_review_last() -> None:
    twins = committee(dict.fromkeys("abcde", ALL), {"b": "a"})
    seen = 0
    for index in range(300):
        roles = random_roles(twins, 3, 0, 1, index)
        kin = [r.model.identity == roles.generator.model.identity for r in roles.reviewers]
        assert kin == sorted(kin)
        seen += any(kin)
    assert seen  # otherwise there was nothing to sort
    for index in range(100):  # with a choice, the twin does not review at all
        roles = random_roles(twins, 2, 0, 1, index)
        assert all(r.model.identity != roles.generator.model.identity for r in roles.reviewers)


def test_one_who_can_only_adjudicate_does_so() -> None:
    members = committee({**dict.fromkeys("abcd", ALL), "judge": ("adjudicator",)})
    assert {random_roles(members, 3, 0, 1, i).adjudicator.name for i in range(200)} == {"judge"}


@pytest.mark.parametrize(
    ("roles", "reviewers", "problem"),
    [
        (dict.fromkeys("abcd", ALL), 3, "3 reviewers are asked for"),
        (dict.fromkeys("a", ALL), 0, "no member is left to adjudicate when `a` generates"),
        ({"a": ("generator", "adjudicator"), "b": ("reviewer",)}, 1, "no member is left to adjudicate"),
        ({"a": ("reviewer",), "b": ("adjudicator",)}, 1, "no member is left to generate"),
        # Only when `c` generates is a reviewer missing: sampling might never see it.
        ({"a": ("generator",), "j": ("adjudicator",), "b": ("reviewer",), "c": ("generator", "reviewer")}, 2,
         "with `c` generating and `j` adjudicating only 1 are left; add members or lower `reviewers`"),
    ],
)  # fmt: skip
def test_a_committee_that_is_too_small_is_refused(roles, reviewers: int, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        check_roles(committee(roles), reviewers)
    assert caught.value.exit_code == 2


names = st.sampled_from("abcdef")
role_sets = st.sets(st.sampled_from(ALL), min_size=1).map(lambda s: tuple(sorted(s)))


@given(st.dictionaries(names, role_sets, min_size=1), st.integers(0, 4))
def test_what_is_not_refused_can_always_be_drawn(roles, reviewers: int) -> None:
    members = committee(roles)
    try:
        check_roles(members, reviewers)
    except RecipeError:
        return
    for index in range(20):
        drawn = random_roles(members, reviewers, 1, 1, index)
        assert len(drawn.reviewers) == reviewers


def test_a_recipe_makes_its_members() -> None:
    recipe = CommitteeConfig.model_validate(
        {"models": {"a": "m1", "b": {"model": "m1", "system": "Be brief.", "ask": "yes_no"}, "c": "m2"}, "reviewers": 1}
    )
    models = {n: ModelId(m.model, f"id-{m.model}", "t") for n, m in recipe.models.items()}
    members = make_members(recipe, ReviewConfig(), models)
    assert (members["a"].ask, members["b"].ask) == ("integers", "yes_no")
    assert shared_weights(members) == {"m1": ["a", "b"]}
    call = members["b"].call("Hi", Text(), role="generator", candidate="c1")
    assert call.messages == (("system", "Be brief."), ("user", "Hi"))
    assert members["a"].call("Hi", Text(), role="generator", candidate="c1").messages == (("user", "Hi"),)


@pytest.mark.parametrize(("role", "drawn"), [("generator", True), ("enricher", True), ("teacher", True),
                                             ("reviewer", False), ("adjudicator", False)])  # fmt: skip
def test_only_writers_sample(role: str, drawn: bool) -> None:
    call = FIVE["a"].call("Hi", Text(), role=role, candidate="c1")
    greedy = replace(SAMPLING, temperature=0.0, top_p=1.0, repetition_penalty=1.0)
    assert call.sampling == (SAMPLING if drawn else greedy)
