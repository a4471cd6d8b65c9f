"""Committee members: weights with a system prompt, sampling settings and a way of being asked.

roles.py assigns members to the roles of each candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gra.config.committee import Ask, CommitteeConfig, DomainKind, MemberConfig, Role
from gra.config.review import ReviewConfig
from gra.core.types import CHECKS, DIMENSIONS
from gra.core.vocabulary import CallPurpose
from gra.engines.types import Call, ModelId, Output, SamplingSettings
from gra.models.entries import entry_of

DRAWS = 4  # own answers of a reviewer that is asked by agreement, where the recipe does not say


@dataclass(frozen=True, slots=True)
class Member:
    """A committee member on its resolved model.

    Attributes:
        family: models of one pre-training run share it; empty where it is not known.
        dimensions: what the member scores as a reviewer or adjudicator.
        checks: what the member asks about an instruction as a reviewer.
        draws: own answers of a reviewer that is asked by agreement.
        asked_in: the domains that the member reviews in, where the recipe names open ones; None as `ask` says.
    """

    name: str
    model: ModelId
    system: str | None
    sampling: SamplingSettings
    roles: tuple[Role, ...]
    ask: Ask
    family: str = ""
    dimensions: tuple[str, ...] = DIMENSIONS
    checks: tuple[str, ...] = CHECKS
    draws: int = DRAWS
    asked_in: DomainKind | None = None

    @property
    def writes(self) -> bool:
        """Whether the member's model can write text; a reward model cannot."""
        return self.ask != "reward"

    def call(self, prompt: str, output: Output, *, role: CallPurpose, candidate: str, sample: int = 0) -> Call:
        """Return a call to this member; judgments decode greedily, independent of the sampling settings."""
        system = (("system", self.system),) if self.system else ()
        return Call(
            model=self.model,
            messages=(*system, ("user", prompt)),
            output=output,
            sampling=self.sampling if CallPurpose(role).writes else greedy(self.sampling),
            sample=sample,
            role=role,
            candidate=candidate,
            member=self.name,
        )


def greedy(sampling: SamplingSettings) -> SamplingSettings:
    """Return settings with the same length limit that always take the likeliest token; unset settings stay unset."""
    temperature = None if sampling.temperature is None else 0.0
    top_p = None if sampling.top_p is None else 1.0
    penalty = None if sampling.repetition_penalty is None else 1.0
    return SamplingSettings(temperature, top_p, penalty, sampling.max_tokens)


def make_members(committee: CommitteeConfig, review: ReviewConfig, models: Mapping[str, ModelId]) -> dict[str, Member]:
    """Return the members of a recipe; `models` maps each member's name to its resolved model."""
    return {name: make_member(name, recipe, review, models[name]) for name, recipe in committee.models.items()}


def make_member(name: str, recipe: MemberConfig, review: ReviewConfig, model: ModelId) -> Member:
    """Return one member of a recipe on its resolved model."""
    s = recipe.sampling
    sampling = SamplingSettings(s.temperature, s.top_p, s.repetition_penalty, s.max_tokens)
    entry = entry_of(recipe.model)
    family = recipe.family or (entry.family if entry else "")
    roles, ask, dimensions = tuple(recipe.roles), recipe.ask or review.ask, recipe.dimensions or review.dimensions
    return Member(
        name,
        model,
        recipe.system,
        sampling,
        roles,
        ask,
        family,
        tuple(dimensions),
        tuple(review.checks),
        recipe.draws or DRAWS,
        recipe.asked_in,
    )


def shared_weights(members: Mapping[str, Member]) -> dict[str, list[str]]:
    """Return the models that more than one member uses, with those members' names; the report shows them."""
    users: dict[str, list[str]] = {}
    for member in members.values():
        users.setdefault(member.model.name, []).append(member.name)
    return {model: names for model, names in users.items() if len(names) > 1}
