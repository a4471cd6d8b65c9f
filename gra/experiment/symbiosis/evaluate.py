"""Measure student, teacher and pair on held-out problems, and compare them problem by problem.

Answers to held-out problems are greedy. Only the teacher's lines on walks of the pair are drawn, as on other walks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gra.core.vocabulary import CallPurpose
from gra.experiment.symbiosis.explore import RoundRows, Workplace
from gra.experiment.symbiosis.problems import WordProblem, is_solved
from gra.experiment.symbiosis.store import SolutionStore
from gra.stats.paired import paired_difference, wilson
from gra.stats.seeds import with_seed_variance
from gra.synthesis.committee.members import Member

Scores = dict[str, list[list[float]]]  # by condition, then by training seed: one for each held-out problem
PROMPTED, PLAIN, LINES, RATIONALES = "student prompted", "student plain", "student lines", "student rationales"
NO_STORE, CONTROL, BOTH, PAIR = "teacher no store", "teacher control store", "teacher store", "pair"
NAMES = {
    PROMPTED: "student, prompted",
    PLAIN: "student, trained on the teacher's own solutions (control)",
    LINES: "student, trained on labeled lines",
    RATIONALES: "student, trained on labeled lines and rationales",
    NO_STORE: "teacher, no store",
    CONTROL: "teacher, store of its own (control)",
    BOTH: "teacher, store of both",
    PAIR: "pair: the student proposes, the teacher labels",
}
# Pairs of conditions that are compared: ours, and the reference.
COMPARED = ((PLAIN, PROMPTED), (LINES, PLAIN), (RATIONALES, LINES), (CONTROL, NO_STORE), (BOTH, CONTROL))
VARIANTS = (PLAIN, LINES, RATIONALES)  # trained students; the pair walks with that of the first training seed


async def measure(
    place: Workplace,
    problems: Sequence[WordProblem],
    teacher: Member,
    untrained: Member,
    trained: Mapping[str, Sequence[Member]],
    made: RoundRows,
) -> Scores:
    """Return the scores of every condition.

    Args:
        place: what asking takes.
        problems: the held-out ones.
        teacher: with and without each store.
        untrained: the student before its training.
        trained: the students of each variant, one a training seed.
        made: has the stores.
    """
    students = {PROMPTED: [untrained], **trained}
    stores = {NO_STORE: None, CONTROL: made.control, BOTH: made.store}
    found: Scores = {}
    for name, members in students.items():
        found[name] = [await _alone(place, problems, member) for member in members]
    for name, store in stores.items():
        found[name] = [await _whole(place, problems, teacher, store)]
    if RATIONALES in trained:
        found[PAIR] = [await _together(place, problems, teacher, trained[RATIONALES][0], made.store)]
    return found


async def _alone(place: Workplace, problems: Sequence[WordProblem], member: Member) -> list[float]:
    async def one(problem: WordProblem) -> float:
        return float(is_solved(problem, await place.solving(problem, CallPurpose.SOLVER).alone(member, (), 0.0, 0)))

    return await place.each(problems, one)


async def _whole(
    place: Workplace, problems: Sequence[WordProblem], teacher: Member, store: SolutionStore | None
) -> list[float]:
    examples = await place.examples(store, problems) if store is not None else {}

    async def one(problem: WordProblem) -> float:
        solving = place.solving(problem, CallPurpose.SOLVER)
        return float(is_solved(problem, await solving.whole(teacher, examples.get(problem.question, ()), 0.0, 0)))

    return await place.each(problems, one)


async def _together(
    place: Workplace, problems: Sequence[WordProblem], teacher: Member, student: Member, store: SolutionStore
) -> list[float]:
    examples = await place.examples(store, problems)

    async def one(problem: WordProblem) -> float:
        solving = place.solving(problem, CallPurpose.SOLVER)
        steps = await solving.walk(teacher, student, examples[problem.question], 0.0)
        return float(is_solved(problem, [step.text for step in steps]))

    return await place.each(problems, one)


def compare_scores(scores: Scores) -> dict[str, Any]:
    """Return each condition's share of solved problems with its interval, the differences, and the synergy.

    Errors of differences hold the variance between training seeds. Synergy is the pair after the rounds minus the
    better of the two alone before them. The better one is chosen on these problems, which favors it.
    """
    tables = {name: np.array(each) for name, each in scores.items()}  # shape [seeds, problems]
    solved = {}
    for name, table in tables.items():
        mean, count = float(table.mean()), table.shape[1]
        low, high = wilson(mean, count)
        solved[name] = {"value": mean, "low": low, "high": high, "problems": count}
    better = max((PROMPTED, NO_STORE), key=lambda name: solved[name]["value"])
    pairs = [(ours, other) for ours, other in (*COMPARED, (PAIR, better)) if ours in scores and other in scores]
    differences = []
    for ours, other in pairs:
        a, b = tables[ours], tables[other]
        answers = 2 / (1 / len(a) + 1 / len(b))
        found = paired_difference(a.mean(axis=0), b.mean(axis=0), bounded=True, answers=answers)
        found = with_seed_variance(found, a, b)
        low, high = found.interval()
        differences.append({"ours": ours, "reference": other, "value": found.value, "low": low, "high": high})
    means = {name: table.mean(axis=0).tolist() for name, table in tables.items()}
    return {"solved": solved, "differences": differences, "scores": means}


def markdown(found: Mapping[str, Any]) -> str:
    """Return both tables of a comparison as Markdown."""
    lines = ["| condition | solved | 95 % |", "|---|---|---|"]
    for name, each in found["solved"].items():
        lines.append(f"| {NAMES[name]} | {each['value']:.3f} | {each['low']:.3f} to {each['high']:.3f} |")
    lines += ["", "| difference | value | 95 % |", "|---|---|---|"]
    for each in found["differences"]:
        what = f"{NAMES[each['ours']]} - {NAMES[each['reference']]}"
        what = f"synergy: {what}" if each["ours"] == PAIR else what
        lines.append(f"| {what} | {each['value']:+.3f} | {each['low']:+.3f} to {each['high']:+.3f} |")
    return "\n".join(lines)
