"""Assign the roles of each candidate: random (section 3.1), balanced, fixed, single, or by competence.

Roles are disjoint: generator, reviewers and adjudicator of a candidate are different members. Only a `single` member
has all roles. A committee that is large enough keeps one member as adjudicator even if the recipe never adjudicates.
So an ablation without adjudication has the same reviewers as the full method, and a shared ledger has their answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from statistics import fmean
from typing import Protocol

from gra.config.committee import CompetenceConfig, Role
from gra.config.synthesis import SynthesisRecipe, committee_of
from gra.core.errors import RecipeError
from gra.core.rng import rng
from gra.core.types import Seed
from gra.synthesis.committee.members import Member


@dataclass(frozen=True, slots=True)
class RoleAssignment:
    """The members in each role of one candidate; no adjudicator where no dispute can arise."""

    generator: Member
    reviewers: tuple[Member, ...]
    adjudicator: Member | None


class ChoosesMembers(Protocol):
    """Choose members for one kind of sample, by what they were right on."""

    def choose_generator(self, able: Sequence[Member], sample: SampleKind) -> Member:
        """Return the member that writes."""

    def choose_reviewers(self, able: Sequence[Member], most: int, sample: SampleKind) -> Sequence[Member]:
        """Return the members that review, at most this number."""


@dataclass(frozen=True, slots=True)
class SampleKind:
    """What is known of a candidate before it is written: its domain, and the mean words of its parents."""

    domain: str
    words: float


def adjudicates(recipe: SynthesisRecipe) -> bool:
    """Return whether a dispute can arise and goes to an adjudicator.

    One review alone has no spread. A scoring verifier counts as a review. A `single` committee has no adjudicator.
    """
    committee = committee_of(recipe)
    if committee is None or committee.assignment == "single" or recipe.review.disputed != "adjudicate":
        return False
    return committee.reviewers + _most_scoring_verifiers(recipe) > 1


def _most_scoring_verifiers(recipe: SynthesisRecipe) -> int:
    """Return the largest number of scoring verifiers that one candidate can have."""
    scoring = [verifier for verifier in recipe.review.verifiers if verifier.mode == "score"]
    return max(sum(domain in (verifier.domains or recipe.domains) for verifier in scoring) for domain in recipe.domains)


def assign_roles(
    recipe: SynthesisRecipe,
    members: Mapping[str, Member],
    round_: int,
    index: int,
    competence: ChoosesMembers | None = None,
    domain: str = "",
    parents: Sequence[Seed] = (),
) -> RoleAssignment:
    """Assign the roles of one candidate as the recipe says.

    Args:
        recipe: the arm's recipe.
        members: the committee.
        round_: the round's number.
        index: the candidate's index within the round.
        competence: of the members; None draws the roles of `assignment: competence`, as before it is measured.
        domain: the candidate's.
        parents: the candidate's.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    committee = committee_of(recipe)
    assert committee is not None
    adjudicated = adjudicates(recipe)
    match committee.assignment:
        case "random":
            return random_roles(members, committee.reviewers, recipe.seed, round_, index, adjudicated)
        case "competence":
            words = fmean(len(parent.instruction.split()) for parent in parents) if parents else 0.0
            share = (committee.competence or CompetenceConfig()).random
            drawn = rng(recipe.seed, round_, index, "competence")
            if competence is None or drawn.random() < share:
                return random_roles(members, committee.reviewers, recipe.seed, round_, index, adjudicated)
            sample = SampleKind(domain, words)
            return competent_roles(members, committee.reviewers, competence, sample, drawn, adjudicated)
        case "balanced":
            return balanced_roles(members, committee.reviewers, recipe.seed, round_, index, adjudicated)
        case "fixed":
            return fixed_roles(members, committee.reviewers, committee.lead, adjudicated)
        case "single":
            (member,) = members.values()
            return RoleAssignment(member, (member,) * committee.reviewers, None)


def check_assignment(recipe: SynthesisRecipe, members: Mapping[str, Member]) -> None:
    """Check that every role assignment of the recipe is possible.

    Raises:
        RecipeError: when a role cannot be filled, or not as evenly as `balanced` promises.
    """
    committee = committee_of(recipe)
    assert committee is not None
    adjudicated = adjudicates(recipe)
    match committee.assignment:
        case "random" | "competence":
            check_roles(members, committee.reviewers, adjudicated)
        case "balanced":
            _cycle(tuple(members.values()), committee.reviewers, 0, 1, 0, adjudicated)
        case "fixed":
            fixed_roles(members, committee.reviewers, committee.lead, adjudicated)
        case "single":
            (member,) = members.values()
            needed = ["generator", *(["reviewer"] if committee.reviewers else [])]
            if missing := [role for role in needed if role not in member.roles]:
                raise RecipeError(
                    f"committee: `{member.name}` is `single` and must be able to be {missing[0]}; add it to its `roles`"
                )


def random_roles(
    members: Mapping[str, Member], reviewers: int, seed: int, round_: int, index: int, adjudicated: bool = True
) -> RoleAssignment:
    """Draw generator, adjudicator and reviewers, disjoint, uniformly among the members that may play each role.

    The adjudicator is drawn before the reviewers, so that a small committee always has one. Members with other weights
    than the generator's review first, because the same weights under another prompt are no independent opinion.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    random = rng(seed, round_, index, "roles")
    generator = random.choice(_generators(members))
    adjudicators = _adjudicators(members, generator, adjudicated)
    adjudicator = random.choice(adjudicators) if adjudicators else None
    panel = _panel(members, reviewers, generator, adjudicator, adjudicated)
    random.shuffle(panel)
    panel.sort(key=lambda member: member.model.identity == generator.model.identity)
    return RoleAssignment(generator, tuple(panel[:reviewers]), adjudicator if adjudicated else None)


def check_roles(members: Mapping[str, Member], reviewers: int, adjudicated: bool = True) -> None:
    """Check every random draw.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    for generator in _generators(members):
        adjudicators: Sequence[Member | None] = _adjudicators(members, generator, adjudicated) or [None]
        for adjudicator in adjudicators:
            _panel(members, reviewers, generator, adjudicator, adjudicated)


def fixed_roles(
    members: Mapping[str, Member], reviewers: int, lead: str | None, adjudicated: bool = True
) -> RoleAssignment:
    """Return the same roles for every candidate, in the recipe's order; the last possible adjudicator adjudicates.

    Raises:
        RecipeError: when the lead is gone or may not generate, or when the committee is too small.
    """
    generators = {member.name: member for member in _generators(members)}
    if lead is not None and lead not in generators:
        raise RecipeError(f"committee: `lead: {lead}` cannot generate; give it that role, or name another lead")
    generator = generators[lead] if lead is not None else next(iter(generators.values()))
    adjudicators = _adjudicators(members, generator, adjudicated)
    adjudicator = adjudicators[-1] if adjudicators else None
    panel = _panel(members, reviewers, generator, adjudicator, adjudicated)
    return RoleAssignment(generator, tuple(panel[:reviewers]), adjudicator if adjudicated else None)


def competent_roles(
    members: Mapping[str, Member],
    reviewers: int,
    competence: ChoosesMembers,
    sample: SampleKind,
    random: Random,
    adjudicated: bool = True,
) -> RoleAssignment:
    """Choose generator and reviewers by competence; the adjudicator is drawn, because its competence is not measured.

    Fewer reviewers than asked for are chosen where further ones are not worth their cost.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    generator = competence.choose_generator(_generators(members), sample)
    adjudicators = _adjudicators(members, generator, adjudicated)
    adjudicator = random.choice(adjudicators) if adjudicators else None
    panel = _panel(members, reviewers, generator, adjudicator, adjudicated)
    # The same weights under another prompt are no independent opinion, so they review only where others are too few.
    others = [member for member in panel if member.model.identity != generator.model.identity]
    able = others if len(others) >= reviewers else panel
    chosen = competence.choose_reviewers(able, reviewers, sample) if reviewers else ()
    return RoleAssignment(generator, tuple(chosen), adjudicator if adjudicated else None)


def balanced_roles(
    members: Mapping[str, Member], reviewers: int, seed: int, round_: int, index: int, adjudicated: bool = True
) -> RoleAssignment:
    """Return roles in cycles in which every pair of generator and reviewer occurs exactly `reviewers` times.

    Where all members may play all roles, every pair of generator and adjudicator also occurs once a cycle. So each
    reviewer's severity and its preference for its own family can be estimated from the reviews. Members of
    one family share a panel as rarely as possible.

    Raises:
        RecipeError: when the members' roles do not allow it.
    """
    everyone = tuple(members.values())
    cycle, place = divmod(index, len(_cycle(everyone, reviewers, seed, round_, 0, adjudicated)))
    return _cycle(everyone, reviewers, seed, round_, cycle, adjudicated)[place]


@lru_cache(maxsize=64)
def _cycle(
    everyone: tuple[Member, ...], reviewers: int, seed: int, round_: int, number: int, adjudicated: bool
) -> tuple[RoleAssignment, ...]:
    """Return one cycle, shuffled: for each generator, a window moves once round a ring of its reviewers."""
    members = {member.name: member for member in everyone}
    assignments = []
    for generator in _generators(members):
        random = rng(seed, round_, number, "ring", generator.name)
        panel = _playing("reviewer", everyone, (generator,))
        adjudicators = _adjudicators(members, generator, adjudicated) if adjudicated else []
        _check_ring(generator, panel, adjudicators, reviewers)
        ring = _spread(panel, random)
        random.shuffle(adjudicators)
        for turn in range(max(1, len(ring))):
            window = [ring[(turn + place) % len(ring)] for place in range(reviewers)]
            adjudicator = None
            if adjudicators:
                # An adjudicator that may also review follows the window; others take turns.
                reviewing = adjudicators[0] in panel
                following = ring[(turn + reviewers) % len(ring)] if ring else None
                adjudicator = following if reviewing else adjudicators[turn % len(adjudicators)]
            assignments.append(RoleAssignment(generator, tuple(window), adjudicator))
    # kept: the name decides the random stream, and recorded runs depend on it
    rng(seed, round_, number, "casts").shuffle(assignments)
    return tuple(assignments)


def _check_ring(generator: Member, panel: Sequence[Member], adjudicators: Sequence[Member], reviewers: int) -> None:
    both = set(panel) & set(adjudicators)
    if both and both != set(panel) | set(adjudicators):
        raise RecipeError(
            f"committee: `assignment: balanced` cannot be even when only some of `{generator.name}`'s reviewers may "
            "adjudicate; give all of them the role `adjudicator`, or one member that role alone"
        )
    if len(panel) < reviewers + bool(both):
        raise RecipeError(
            f"committee: {reviewers} reviewers{' and an adjudicator' if both else ''} are asked for, but when "
            f"`{generator.name}` generates only {len(panel)} are left; add members or lower `reviewers`"
        )


def _spread(members: Sequence[Member], random: Random) -> list[Member]:
    """Return the members in a random ring, with each family spread evenly over it."""
    families: dict[str, list[Member]] = {}
    for member in members:
        families.setdefault(member.family or member.model.identity, []).append(member)
    places: list[tuple[float, Member]] = []
    for family in families.values():
        random.shuffle(family)
        offset = random.random()
        places += [((number + offset) / len(family), member) for number, member in enumerate(family)]
    return [member for _, member in sorted(places, key=lambda placed: placed[0])]


def _generators(members: Mapping[str, Member]) -> list[Member]:
    if not (generators := _playing("generator", members.values(), ())):
        raise RecipeError("committee: no member is left to generate; add one with the role `generator`")
    return generators


def _adjudicators(members: Mapping[str, Member], generator: Member, adjudicated: bool) -> list[Member]:
    able = _playing("adjudicator", members.values(), (generator,))
    if adjudicated and not able:
        raise RecipeError(f"committee: no member is left to adjudicate when `{generator.name}` generates; add one")
    # A member that can only adjudicate leaves the others free to review.
    return [member for member in able if "reviewer" not in member.roles] or able


def _panel(
    members: Mapping[str, Member], reviewers: int, generator: Member, adjudicator: Member | None, adjudicated: bool
) -> list[Member]:
    """Return the members that may review; the adjudicator reviews only where needed and no dispute can arise."""
    panel = _playing("reviewer", members.values(), (generator, adjudicator))
    if len(panel) < reviewers and not adjudicated:
        panel = _playing("reviewer", members.values(), (generator,))
    if len(panel) < reviewers:
        beside = f"`{generator.name}` generating" + (f" and `{adjudicator.name}` adjudicating" if adjudicator else "")
        raise RecipeError(
            f"committee: {reviewers} reviewers are asked for, but with {beside} "
            f"only {len(panel)} are left; add members or lower `reviewers`"
        )
    return panel


def _playing(role: Role, members: Iterable[Member], taken: Sequence[Member | None]) -> list[Member]:
    return [member for member in members if role in member.roles and member not in taken]
