"""Who plays which role for a candidate (paper section 3.1): random, balanced, fixed or single.

Roles are disjoint: the generator never reviews its own sample and the adjudicator is neither, except where
one member plays all of them. The adjudicator's seat is kept free even where a recipe never adjudicates, as
far as the committee is large enough: an ablation then asks its reviewers what the full method asked them,
and finds the answers in a shared ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from gra.config.committee import Role
from gra.config.synthesis import SynthesisRecipe, committee_of
from gra.core.errors import RecipeError
from gra.core.rng import rng
from gra.synthesis.committee.members import Member


@dataclass(frozen=True, slots=True)
class RoleAssignment:
    """One candidate's cast; nobody adjudicates where a dispute cannot come up or is settled by the recipe."""

    generator: Member
    reviewers: tuple[Member, ...]
    adjudicator: Member | None


def adjudicates(recipe: SynthesisRecipe) -> bool:
    """Whether a dispute can come up and goes to an adjudicator; one review alone has no spread.

    A program on a reviewer's seat is a review like a member's. A `single` member has nobody to go to.
    """
    committee = committee_of(recipe)
    if committee is None or committee.assignment == "single" or recipe.review.disputed != "adjudicate":
        return False
    return committee.reviewers + _most_seats(recipe) > 1


def _most_seats(recipe: SynthesisRecipe) -> int:
    """How many programs can sit beside the reviewers of one candidate."""
    prepared = [program for program in recipe.review.verifiers if program.mode == "score"]
    return max(sum(domain in (program.domains or recipe.domains) for program in prepared) for domain in recipe.domains)


def assign_roles(recipe: SynthesisRecipe, members: Mapping[str, Member], round_: int, index: int) -> RoleAssignment:
    """The roles of one candidate, as the recipe assigns them.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    committee = committee_of(recipe)
    assert committee is not None
    adjudicated = adjudicates(recipe)
    match committee.assignment:
        case "random":
            return random_roles(members, committee.reviewers, recipe.seed, round_, index, adjudicated)
        case "balanced":
            return balanced_roles(members, committee.reviewers, recipe.seed, round_, index, adjudicated)
        case "fixed":
            return fixed_roles(members, committee.reviewers, committee.lead, adjudicated)
        case "single":
            (member,) = members.values()
            return RoleAssignment(member, (member,) * committee.reviewers, None)


def check_assignment(recipe: SynthesisRecipe, members: Mapping[str, Member]) -> None:
    """Go through every cast that the recipe's assignment can bring.

    Raises:
        RecipeError: when a role cannot be filled, or not as evenly as `balanced` promises.
    """
    committee = committee_of(recipe)
    assert committee is not None
    adjudicated = adjudicates(recipe)
    match committee.assignment:
        case "random":
            check_roles(members, committee.reviewers, adjudicated)
        case "balanced":
            _lap(tuple(members.values()), committee.reviewers, 0, 1, 0, adjudicated)
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
    """Draw generator, adjudicator and reviewers, disjoint, uniformly among those who may play each role.

    The adjudicator is drawn before the reviewers so that a small committee never runs out of one.
    Members with other weights than the generator's review first: the same weights under another
    prompt are not an independent opinion.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    random = rng(seed, round_, index, "roles")
    generator = random.choice(_generators(members))
    judges = _adjudicators(members, generator, adjudicated)
    adjudicator = random.choice(judges) if judges else None
    panel = _panel(members, reviewers, generator, adjudicator, adjudicated)
    random.shuffle(panel)
    panel.sort(key=lambda member: member.model.identity == generator.model.identity)
    return RoleAssignment(generator, tuple(panel[:reviewers]), adjudicator if adjudicated else None)


def check_roles(members: Mapping[str, Member], reviewers: int, adjudicated: bool = True) -> None:
    """Go through every draw that can happen.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    for generator in _generators(members):
        judges: Sequence[Member | None] = _adjudicators(members, generator, adjudicated) or [None]
        for adjudicator in judges:
            _panel(members, reviewers, generator, adjudicator, adjudicated)


def fixed_roles(
    members: Mapping[str, Member], reviewers: int, lead: str | None, adjudicated: bool = True
) -> RoleAssignment:
    """The same cast for every candidate, in the recipe's order: generator, reviewers, and the last who may adjudicates.

    Raises:
        RecipeError: when the lead is gone or may not generate, or when the committee is too small.
    """
    generators = {member.name: member for member in _generators(members)}
    if lead is not None and lead not in generators:
        raise RecipeError(f"committee: `lead: {lead}` cannot generate; give it that role, or name another lead")
    generator = generators[lead] if lead is not None else next(iter(generators.values()))
    judges = _adjudicators(members, generator, adjudicated)
    adjudicator = judges[-1] if judges else None
    panel = _panel(members, reviewers, generator, adjudicator, adjudicated)
    return RoleAssignment(generator, tuple(panel[:reviewers]), adjudicator if adjudicated else None)


def balanced_roles(
    members: Mapping[str, Member], reviewers: int, seed: int, round_: int, index: int, adjudicated: bool = True
) -> RoleAssignment:
    """Lap after lap of casts in which every pair of generator and reviewer occurs exactly `reviewers` times.

    Where all members may play all roles, every pair of generator and adjudicator occurs once a lap, too.
    So a reviewer's severity, and what it thinks of its own family's work, can be estimated from the
    reviews; members of one family sit on one panel as rarely as that leaves room for.

    Raises:
        RecipeError: when the members' roles do not allow it.
    """
    everyone = tuple(members.values())
    lap, place = divmod(index, len(_lap(everyone, reviewers, seed, round_, 0, adjudicated)))
    return _lap(everyone, reviewers, seed, round_, lap, adjudicated)[place]


@lru_cache(maxsize=64)
def _lap(
    everyone: tuple[Member, ...], reviewers: int, seed: int, round_: int, lap: int, adjudicated: bool
) -> tuple[RoleAssignment, ...]:
    """One lap in its own order: for each generator a ring of its reviewers, and a window that goes once round it."""
    members = {member.name: member for member in everyone}
    assignments = []
    for generator in _generators(members):
        random = rng(seed, round_, lap, "ring", generator.name)
        panel = _playing("reviewer", everyone, (generator,))
        judges = _adjudicators(members, generator, adjudicated) if adjudicated else []
        _check_ring(generator, panel, judges, reviewers)
        ring = _spread(panel, random)
        random.shuffle(judges)
        for turn in range(max(1, len(ring))):
            window = [ring[(turn + place) % len(ring)] for place in range(reviewers)]
            judge = None
            if judges:
                # Whoever may review, too, follows the window; others take turns.
                judge = ring[(turn + reviewers) % len(ring)] if judges[0] in panel else judges[turn % len(judges)]
            assignments.append(RoleAssignment(generator, tuple(window), judge))
    rng(seed, round_, lap, "casts").shuffle(assignments)
    return tuple(assignments)


def _check_ring(generator: Member, panel: Sequence[Member], judges: Sequence[Member], reviewers: int) -> None:
    both = set(panel) & set(judges)
    if both and both != set(panel) | set(judges):
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
    """The members in a ring drawn by lot, with each family spread evenly over it."""
    families: dict[str, list[Member]] = {}
    for member in members:
        families.setdefault(member.family or member.model.identity, []).append(member)
    places: list[tuple[float, Member]] = []
    for kin in families.values():
        random.shuffle(kin)
        offset = random.random()
        places += [((number + offset) / len(kin), member) for number, member in enumerate(kin)]
    return [member for _, member in sorted(places, key=lambda placed: placed[0])]


def _generators(members: Mapping[str, Member]) -> list[Member]:
    if not (generators := _playing("generator", members.values(), ())):
        raise RecipeError("committee: nobody is left to generate; add a member with the role `generator`")
    return generators


def _adjudicators(members: Mapping[str, Member], generator: Member, adjudicated: bool) -> list[Member]:
    judges = _playing("adjudicator", members.values(), (generator,))
    if adjudicated and not judges:
        raise RecipeError(f"committee: nobody is left to adjudicate when `{generator.name}` generates; add a member")
    # One who can only adjudicate leaves the others free to review.
    return [judge for judge in judges if "reviewer" not in judge.roles] or judges


def _panel(
    members: Mapping[str, Member], reviewers: int, generator: Member, adjudicator: Member | None, adjudicated: bool
) -> list[Member]:
    """Those who may review; without disputes to settle, the adjudicator too where it is needed for that."""
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
