"""Arrange compare.json for the page: scores, paired differences and verdicts in the order of its tables.

`gra.evaluation.compare.compare` documents the keys; nothing is computed again here. All scores and differences are
shares of 1, and a difference is arm minus reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gra.reports import figures

MEAN = "mean of tasks"
_ALWAYS = ("difference", "low", "high", "p", "p_holm", "verdict", "mde", "n")
_COUNTS = ("wins", "losses", "ties")
_SAMPLES = 2  # wins and losses shown for each task of each pair


@dataclass(frozen=True)
class Score:
    """One student on one task; `opens` marks the first line of a task, `tokens` is the mean of an answer."""

    task: str
    arm: str
    mean: float
    low: float
    high: float
    n: int
    stopped: float | None
    tokens: float | None
    seed_means: list[float]
    opens: bool


@dataclass(frozen=True)
class ArmDifference:
    """One arm against one reference on a task, a category, or the mean of all tasks, which has no counts."""

    task: str
    category: str
    arm: str
    reference: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str
    mde: float
    n: int
    wins: int | None
    losses: int | None
    ties: int | None
    opens: bool


@dataclass(frozen=True)
class Headline:
    """One arm's line at the top of the page: one difference for each reference, None where it is the reference."""

    arm: str
    seeds: int
    cells: list[ArmDifference | None]


@dataclass(frozen=True)
class ComparisonView:
    """A comparison as the page shows it."""

    suite: str
    margin: float
    level: float
    comparable: bool
    notes: list[str]
    references: list[str]
    headlines: list[Headline]
    scores: list[Score]
    differences: list[ArmDifference]
    reviewed: list[ArmDifference]  # arms against rows of the same candidates without review
    categories: list[ArmDifference]
    samples: list[dict[str, Any]]
    data: dict[str, Mapping[str, Any]]  # by arm: the rows that its students were trained on, and their cost
    costs: list[figures.PlottedCost]

    def tasks(self) -> list[str]:
        """Return the names of the tasks."""
        return list(dict.fromkeys(score.task for score in self.scores))

    def arms(self) -> list[str]:
        """Return the names of the students, the untuned student included."""
        return list(dict.fromkeys(score.arm for score in self.scores))

    def forest(self) -> list[figures.PlottedDifference]:
        """Return the lines of the forest plot, which has a panel for each reference that all arms share."""
        return [
            figures.PlottedDifference(f"against {d.reference}", d.task, d.arm, d.difference, d.low, d.high, d.verdict)
            for d in self.differences
            if d.reference in self.references
        ]


def read_comparison(content: Mapping[str, Any]) -> ComparisonView | None:
    """Return the comparison in the content of compare.json; None when there is none."""
    if not content:
        return None
    references = [content[key] for key in ("baseline", "untuned") if content.get(key) is not None]
    differences = list(_differences(content["pairs"]))
    return ComparisonView(
        suite=content["suite"]["name"],
        margin=content["margin"],
        level=content["level"],
        comparable=content["comparable"],
        notes=content["notes"],
        references=references,
        headlines=_headlines(content, references, differences),
        scores=list(_scores(content["arms"])),
        differences=differences,
        reviewed=list(_differences([pair for pair in content["pairs"] if pair.get("against") == "unreviewed"])),
        categories=list(_categories(content["pairs"])),
        samples=_samples(content["samples"]),
        data={arm: facts["data"] for arm, facts in content["arms"].items() if "data" in facts},
        costs=[
            figures.PlottedCost(arm, facts["data"]["cost"]["total"], *_overall(facts))
            for arm, facts in content["arms"].items()
            if facts.get("data", {}).get("cost") and "low" in facts.get("overall", {})
        ],
    )


def _overall(facts: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return an arm's mean of tasks with its interval."""
    overall = facts["overall"]
    return overall["mean"], overall["low"], overall["high"]


def _headlines(content: Mapping[str, Any], references: list[str], differences: list[ArmDifference]) -> list[Headline]:
    """Return the mean of all tasks for each arm and reference, or the only task."""
    first = {(d.arm, d.reference): d for d in reversed(differences)}
    return [
        Headline(arm, facts["seeds"], [first.get((arm, reference)) for reference in references])
        for arm, facts in content["arms"].items()
        if any((arm, reference) in first for reference in references)
    ]


def _scores(arms: Mapping[str, Any]) -> Iterator[Score]:
    tasks = dict.fromkeys(task for facts in arms.values() for task in facts["tasks"])
    for task in tasks:
        opens = True
        for arm, facts in arms.items():
            found = facts["tasks"][task]
            yield Score(
                task=task,
                arm=arm,
                opens=opens,
                **{key: found[key] for key in ("mean", "low", "high", "n", "stopped", "seed_means")},
                tokens=found["mean_tokens"],
            )
            opens = False


def _differences(pairs: list[dict[str, Any]]) -> Iterator[ArmDifference]:
    """Yield every task of every pair, the mean of the tasks first where there are several."""
    tasks = list(dict.fromkeys(task for pair in pairs for task in pair["tasks"]))
    for task in [MEAN, *tasks] if len(tasks) > 1 else tasks:
        opens = True
        for pair in pairs:
            yield _difference(task, "", pair, pair["overall"] if task == MEAN else pair["tasks"][task], opens)
            opens = False


def _categories(pairs: list[dict[str, Any]]) -> Iterator[ArmDifference]:
    for pair in pairs:
        for task, found in pair["tasks"].items():
            for number, (category, part) in enumerate(found["categories"].items()):
                yield _difference(task, category, pair, part, number == 0)


def _difference(
    task: str, category: str, pair: Mapping[str, Any], found: Mapping[str, Any], opens: bool
) -> ArmDifference:
    numbers: dict[str, Any] = {key: found[key] for key in _ALWAYS} | {key: found.get(key) for key in _COUNTS}
    return ArmDifference(task, category, pair["arm"], pair["reference"], **numbers, opens=opens)


def _samples(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first samples of each arm, reference, task and outcome."""
    shown: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for sample in found:
        key = tuple(sample[name] for name in ("arm", "reference", "task", "outcome"))
        shown.setdefault(key, []).append(sample)
    return [sample for group in shown.values() for sample in group[:_SAMPLES]]
