"""Who sits on the committee, and who plays which role for a candidate.

A member is weights plus a system prompt, sampling and the way it is asked. Roles are drawn per
candidate and are disjoint (paper section 3.1): the generator never reviews its own sample and the
adjudicator is neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gra.core.errors import RecipeError
from gra.core.schema import Ask, Committee, Review, Role
from gra.core.schema import Member as MemberRecipe
from gra.engines.protocol import Call, ModelId, Output, SamplingSettings
from gra.synthesis.draw import draw


@dataclass(frozen=True, slots=True)
class Member:
    """A committee member ready to be asked."""

    name: str
    model: ModelId
    system: str | None
    sampling: SamplingSettings
    roles: tuple[Role, ...]
    ask: Ask

    def call(self, prompt: str, output: Output, *, role: str, candidate: str, sample: int = 0) -> Call:
        """A question to this member; probabilities and scores are read greedily, whatever the sampling."""
        system = (("system", self.system),) if self.system else ()
        return Call(
            model=self.model,
            messages=(*system, ("user", prompt)),
            output=output,
            sampling=self.sampling if role in ("generator", "enricher", "teacher", "solver") else greedy(self.sampling),
            sample=sample,
            role=role,
            candidate=candidate,
            member=self.name,
        )


def greedy(sampling: SamplingSettings) -> SamplingSettings:
    """The same lengths, always the likeliest token."""
    return SamplingSettings(0.0, 1.0, 1.0, sampling.max_tokens)


@dataclass(frozen=True, slots=True)
class Roles:
    """One candidate's cast."""

    generator: Member
    reviewers: tuple[Member, ...]
    adjudicator: Member


def make_members(committee: Committee, review: Review, models: Mapping[str, ModelId]) -> dict[str, Member]:
    """The members of a recipe; `models` maps each member's name to its resolved model."""
    return {name: make_member(name, recipe, review, models[name]) for name, recipe in committee.models.items()}


def make_member(name: str, recipe: MemberRecipe, review: Review, model: ModelId) -> Member:
    """One member of a recipe on its resolved model."""
    s = recipe.sampling
    sampling = SamplingSettings(s.temperature, s.top_p, s.repetition_penalty, s.max_tokens)
    return Member(name, model, recipe.system, sampling, tuple(recipe.roles), recipe.ask or review.ask)


def draw_roles(members: Mapping[str, Member], reviewers: int, seed: int, round_: int, index: int) -> Roles:
    """Draw generator, adjudicator and reviewers, disjoint, uniformly among those who may play each role.

    The adjudicator is drawn before the reviewers so that a small committee never runs out of one.
    Members with other weights than the generator's review first: the same weights under another
    prompt are not an independent opinion.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    random = draw(seed, round_, index, "roles")
    generator = random.choice(_generators(members))
    adjudicator = random.choice(_adjudicators(members, generator))
    panel = _panel(members, reviewers, generator, adjudicator)
    random.shuffle(panel)
    panel.sort(key=lambda member: member.model.identity == generator.model.identity)
    return Roles(generator, tuple(panel[:reviewers]), adjudicator)


def check_roles(members: Mapping[str, Member], reviewers: int) -> None:
    """Go through every draw that can happen.

    Raises:
        RecipeError: when the committee is too small for disjoint roles.
    """
    for generator in _generators(members):
        for adjudicator in _adjudicators(members, generator):
            _panel(members, reviewers, generator, adjudicator)


def _generators(members: Mapping[str, Member]) -> list[Member]:
    if not (generators := _playing("generator", members.values(), ())):
        raise RecipeError("committee: nobody is left to generate; add a member with the role `generator`")
    return generators


def _adjudicators(members: Mapping[str, Member], generator: Member) -> list[Member]:
    if not (judges := _playing("adjudicator", members.values(), (generator,))):
        raise RecipeError(f"committee: nobody is left to adjudicate when `{generator.name}` generates; add a member")
    # One who can only adjudicate leaves the others free to review.
    return [judge for judge in judges if "reviewer" not in judge.roles] or judges


def _panel(members: Mapping[str, Member], reviewers: int, generator: Member, adjudicator: Member) -> list[Member]:
    panel = _playing("reviewer", members.values(), (generator, adjudicator))
    if len(panel) < reviewers:
        raise RecipeError(
            f"committee: {reviewers} reviewers are asked for, but with `{generator.name}` generating and "
            f"`{adjudicator.name}` adjudicating only {len(panel)} are left; add members or lower `reviewers`"
        )
    return panel


def _playing(role: Role, members: Iterable[Member], taken: Sequence[Member]) -> list[Member]:
    return [member for member in members if role in member.roles and member not in taken]


def shared_weights(members: Mapping[str, Member]) -> dict[str, list[str]]:
    """Weights that more than one member uses: model name to member names. The report says so."""
    users: dict[str, list[str]] = {}
    for member in members.values():
        users.setdefault(member.model.name, []).append(member.name)
    return {model: names for model, names in users.items() if len(names) > 1}
