"""Types of the files that evaluations and comparisons write: results.json and compare.json."""

from __future__ import annotations

from typing import Annotated, Any, Required

from pydantic import AfterValidator, ConfigDict, with_config
from typing_extensions import TypedDict

from gra.core.stored.types import Count, Number, Object, Share

_OPEN = with_config(ConfigDict(extra="allow", strict=True))


@_OPEN
class Suite(TypedDict):
    """A suite, and the digest of what it asks."""

    name: str
    digest: str


@_OPEN
class NamedModel(TypedDict):
    """An evaluated model."""

    name: str


@_OPEN
class TaskResult(TypedDict, total=False):
    """Figures of one task."""

    kind: Required[str]
    metric: Required[str]
    n: Count
    mean: Number
    low: Number
    high: Number
    stopped: Required[Share | None]
    unread: Share | None
    mean_tokens: Required[Number | None]


@_OPEN
class Results(TypedDict):
    """results.json of an evaluation."""

    model: NamedModel
    suite: Suite
    decoding: Object
    fingerprint: str
    tasks: dict[str, TaskResult]


@_OPEN
class Difference(TypedDict, total=False):
    """Paired difference of two arms on a task, a category or all tasks."""

    difference: Required[Number]
    low: Required[Number]
    high: Required[Number]
    p: Required[Share | None]
    p_holm: Required[Share | None]
    verdict: Required[str]
    mde: Required[Number]
    n: Required[Count]
    wins: Count | None
    losses: Count | None
    ties: Count | None


@_OPEN
class TaskDifference(Difference, total=False):
    """Difference on a task, and on its categories."""

    categories: Required[dict[str, Difference]]


@_OPEN
class ComparedPair(TypedDict):
    """An arm and its reference."""

    arm: str
    reference: str
    overall: Difference
    tasks: dict[str, TaskDifference]


@_OPEN
class ArmTask(TypedDict, total=False):
    """Figures of an arm on one task."""

    mean: Required[Number]
    low: Required[Number]
    high: Required[Number]
    n: Required[Count]
    stopped: Required[Share | None]
    seed_means: Required[list[Number]]
    mean_tokens: Required[Number | None]


@_OPEN
class OverallScore(TypedDict, total=False):
    """Mean of an arm's tasks; earlier releases gave no interval."""

    mean: Required[Number]
    low: Number
    high: Number


@_OPEN
class RowCost(TypedDict):
    """What an arm's rows cost."""

    unit: str
    generation: Number
    review: Number
    preparation: Number
    total: Number


@_OPEN
class ArmData(TypedDict):
    """Rows that an arm's students were trained on."""

    of: str | None
    part: str
    rows: Count
    wanted: Count | None
    available: Count
    cost: RowCost | None


@_OPEN
class Arm(TypedDict, total=False):
    """Figures of an arm."""

    seeds: Required[Count]
    tasks: Required[dict[str, ArmTask]]
    overall: OverallScore
    data: ArmData


@_OPEN
class StoredSample(TypedDict):
    """An item on which two arms differ."""

    arm: str
    reference: str
    task: str
    item: str
    outcome: str
    question: str
    output: str | None
    reference_output: str | None


def _consistent(content: dict[str, Any]) -> dict[str, Any]:
    arms = content["arms"]
    tasks = {task for facts in arms.values() for task in facts["tasks"]}
    if any(set(facts["tasks"]) != tasks for facts in arms.values()):
        raise ValueError("has arms with different tasks")
    for pair in content["pairs"]:
        if not {pair["arm"], pair["reference"]} <= set(arms):
            raise ValueError(f"compares `{pair['arm']}` with `{pair['reference']}`, which are not among its arms")
        if set(pair["tasks"]) != tasks:
            raise ValueError(f"compares `{pair['arm']}` with `{pair['reference']}` on other tasks than its arms have")
    return content


@_OPEN
class _Comparison(TypedDict, total=False):
    suite: Required[NamedModel]
    margin: Required[Share]
    level: Required[Share]
    comparable: Required[bool]
    notes: Required[list[str]]
    baseline: Required[str]
    untuned: str | None
    arms: Required[dict[str, Arm]]
    pairs: Required[list[ComparedPair]]
    samples: Required[list[StoredSample]]


# compare.json; {} where no comparison was made.
Comparison = Annotated[_Comparison, AfterValidator(_consistent)]
