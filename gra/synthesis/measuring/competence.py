"""Measure what each member is right on, and choose the members of a candidate by it.

As generators, members are right on control questions that a program decides. As reviewers, they are right on control
items whose verdict they gave. Both come from recorded answers. What a member is right on may depend on the domain and
the length of the instruction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gra.config.committee import CompetenceConfig
from gra.data.questions import Question
from gra.stats.competence import MemberCompetence, fit_competence, measure_routing, select_best, select_panel
from gra.synthesis.committee.members import Member
from gra.synthesis.committee.roles import SampleKind
from gra.synthesis.measuring.controls import ControlItem
from gra.synthesis.measuring.natural import NaturalAnswers, answers_alike

Table = NDArray[np.float64]
_TYPICAL = 20.0  # words of an instruction, at which the length counts as 0


def features(domains: Sequence[str], sample: SampleKind) -> list[float]:
    """Return the features of a sample: one a domain, and the logarithm of its length around a typical one."""
    length = math.log((1 + sample.words) / (1 + _TYPICAL))
    return [*(float(domain == sample.domain) for domain in domains), length]


@dataclass(frozen=True)
class CommitteeCompetence:
    """Competence of a committee's members as generators and as reviewers.

    Attributes:
        domains: the recipe's.
        generators: by member.
        reviewers: by member.
        costs: of one answer and of one review by member, each as shares of the most expensive one.
        price: the recipe's `committee.competence.price`.
    """

    domains: tuple[str, ...]
    generators: Mapping[str, MemberCompetence]
    reviewers: Mapping[str, MemberCompetence]
    costs: tuple[Mapping[str, float], Mapping[str, float]]
    price: float

    def choose_generator(self, able: Sequence[Member], sample: SampleKind) -> Member:
        """Return the member that is likeliest right on such a sample, less its cost."""
        members = {member.name: member for member in able}
        return members[select_best(self._probabilities(self.generators, able, sample), self.costs[0], self.price)]

    def choose_reviewers(self, able: Sequence[Member], most: int, sample: SampleKind) -> list[Member]:
        """Return the members whose reviews of such a sample are worth their cost, best first."""
        members = {member.name: member for member in able}
        given = self._probabilities(self.reviewers, able, sample)
        return [members[name] for name in select_panel(given, self.costs[1], self.price, most)]

    def _probabilities(
        self, known: Mapping[str, MemberCompetence], able: Sequence[Member], sample: SampleKind
    ) -> dict[str, float]:
        """Return the probability of being right, by member; a half where a member was not measured."""
        row = features(self.domains, sample)
        return {member.name: known[member.name](row) if member.name in known else 0.5 for member in able}


def measure_competence(
    members: Mapping[str, Member],
    domains: Sequence[str],
    questions: Sequence[Question],
    natural: NaturalAnswers,
    items: Sequence[ControlItem],
    reviews: Mapping[str, Table],
    costs: tuple[Mapping[str, float], Mapping[str, float]],
    config: CompetenceConfig,
) -> tuple[CommitteeCompetence, dict[str, Any]]:
    """Fit the competence of a committee on recorded answers; return it with the manifest's facts.

    Args:
        members: the committee.
        domains: the recipe's.
        questions: control questions.
        natural: what members answered to them.
        items: control items for responses.
        reviews: cross-fitted log-odds by reviewer, one a control item; NaN where there is none.
        costs: of one answer and of one review, by member.
        config: the recipe's section.
    """
    by_id = {question.id: question for question in questions}
    asked = [by_id[name] for name in dict.fromkeys(question for question, _ in natural.right)]
    answering = dict.fromkeys(member for _, member in natural.right)
    writers = [name for name in answering if "generator" in members[name].roles]
    answers = np.array([[natural.right.get((q.id, name), math.nan) for name in writers] for q in asked], float)
    rows = [features(domains, SampleKind(q.domain, len(q.instruction.split()))) for q in asked]
    written = fit_competence(writers, rows, answers, [q.id for q in asked])
    good = np.array([item.is_good for item in items], bool)
    judges = list(reviews)
    table = np.column_stack([reviews[name] for name in judges]) if judges else np.zeros((len(items), 0))
    verdicts = np.where(np.isnan(table), math.nan, (table > 0) == good[:, None])
    shown = [features(domains, SampleKind(_domain(item, by_id), len(item.instruction.split()))) for item in items]
    judged = fit_competence(judges, shown, verdicts, [item.seed for item in items])
    shares = _shares({name: costs[0][name] for name in writers if name in costs[0]}), _shares(costs[1])
    # Of members that answer alike, one was asked.
    spoke = {answers_alike(members[name]): name for name in writers}
    stands_for = {m.name: spoke[answers_alike(m)] for m in members.values() if answers_alike(m) in spoke}
    generators = {name: written.members[by] for name, by in stands_for.items()}
    prices = {name: shares[0].get(by, 1.0) for name, by in stands_for.items()}
    found = CommitteeCompetence(tuple(domains), generators, judged.members, (prices, shares[1]), config.price)
    facts = {
        "generators": _facts(measure_routing(writers, written, answers, shares[0], config.price)),
        "reviewers": _facts(measure_routing(judges, judged, verdicts, shares[1], config.price)),
        "costs": {"generators": dict(costs[0]), "reviewers": dict(costs[1])},
    }
    return found, facts


def _domain(item: ControlItem, questions: Mapping[str, Question]) -> str:
    """Return the domain of a control item: its seed's, or its question's."""
    return item.domain or (questions[item.seed].domain if item.seed in questions else "")


def _shares(costs: Mapping[str, float]) -> dict[str, float]:
    most = max(costs.values(), default=0.0)
    return {name: cost / most if most else 0.0 for name, cost in costs.items()}


def _facts(figures: Any) -> dict[str, Any] | None:
    return figures.to_json() if figures is not None else None
