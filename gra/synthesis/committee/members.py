"""Who sits on the committee: a member is weights plus a system prompt, sampling and the way it is asked.

Which of them plays which role for a candidate is decided in assignment.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gra.config.committee import Ask, CommitteeConfig, MemberConfig, Role
from gra.config.review import ReviewConfig
from gra.core.types import DIMENSIONS
from gra.engines.types import Call, ModelId, Output, SamplingSettings
from gra.models.entries import find_entry


@dataclass(frozen=True, slots=True)
class Member:
    """A committee member ready to be asked."""

    name: str
    model: ModelId
    system: str | None
    sampling: SamplingSettings
    roles: tuple[Role, ...]
    ask: Ask
    family: str = ""  # empty: known to share its pre-training with nobody
    dimensions: tuple[str, ...] = DIMENSIONS  # what it scores

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
    """Return the same lengths with the likeliest token always; a setting that is not sent stays so."""
    temperature = None if sampling.temperature is None else 0.0
    top_p = None if sampling.top_p is None else 1.0
    penalty = None if sampling.repetition_penalty is None else 1.0
    return SamplingSettings(temperature, top_p, penalty, sampling.max_tokens)


def make_members(committee: CommitteeConfig, review: ReviewConfig, models: Mapping[str, ModelId]) -> dict[str, Member]:
    """The members of a recipe; `models` maps each member's name to its resolved model."""
    return {name: make_member(name, recipe, review, models[name]) for name, recipe in committee.models.items()}


def make_member(name: str, recipe: MemberConfig, review: ReviewConfig, model: ModelId) -> Member:
    """One member of a recipe on its resolved model."""
    s = recipe.sampling
    sampling = SamplingSettings(s.temperature, s.top_p, s.repetition_penalty, s.max_tokens)
    entry = find_entry(recipe.model.removeprefix("catalog:").partition("@")[0])
    family = recipe.family or (entry.family if entry else "")
    roles, ask, dimensions = tuple(recipe.roles), recipe.ask or review.ask, recipe.dimensions or review.dimensions
    return Member(name, model, recipe.system, sampling, roles, ask, family, tuple(dimensions))


def shared_weights(members: Mapping[str, Member]) -> dict[str, list[str]]:
    """Weights that more than one member uses: model name to member names. The report says so."""
    users: dict[str, list[str]] = {}
    for member in members.values():
        users.setdefault(member.model.name, []).append(member.name)
    return {model: names for model, names in users.items() if len(names) > 1}
