"""Draw the rows that each arm's students are trained on, and describe them: how many there are and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gra.experiment.plan import ExperimentPlan, seeds_of

if TYPE_CHECKING:
    from gra.data.draw import Proportions


@dataclass(frozen=True)
class ArmRows:
    """The rows of an arm: trained on, wanted (None: all there are), and in its dataset."""

    rows: int
    wanted: int | None
    available: int


def draw_arms(plan: ExperimentPlan) -> dict[str, ArmRows]:
    """Draw as many rows as each arm's students are trained on, and record the files in the run's manifest."""
    import pyarrow.parquet as pq

    from gra.data.draw import draw_rows

    found: dict[str, ArmRows] = {}
    drawn: dict[str, Any] = {}
    for arm in plan.recipe.arms:
        source, wanted = plan.dataset(arm), plan.recipe.wanted_rows(arm)
        if wanted is None:
            count = pq.read_metadata(source).num_rows
            found[arm] = ArmRows(count, None, count)
            continue
        draw = plan.recipe.draw(arm)
        like = _like_seeds(plan, arm) if draw == "seeds" else None
        count, available = draw_rows(source, plan.training_file(arm), wanted, best=draw == "best", like=like)
        found[arm] = ArmRows(count, wanted, available)
        drawn[arm] = {"from": str(source.relative_to(plan.folder.path)), "rows": count}
        if draw != "even":
            drawn[arm]["draw"] = draw
    if drawn:
        plan.folder.record("rows", {"arms": drawn}, [plan.training_file(arm) for arm in drawn])
    return found


def _like_seeds(plan: ExperimentPlan, arm: str) -> Proportions:
    """Return the proportions of an arm's seeds."""
    from gra.data.draw import Proportions

    seeds = seeds_of(plan.arms[plan.recipe.derived.get(arm, arm)])
    return Proportions.of([(seed.domain, seed.instruction, seed.response) for seed in seeds])


def fewer_rows(rows: Mapping[str, ArmRows]) -> list[str]:
    """Return a note when arms have fewer rows than they were to be trained on."""
    few = [f"{arm} {found.rows} of {found.wanted}" for arm, found in rows.items() if found.rows < (found.wanted or 0)]
    if not few:
        return []
    return [
        f"arms with fewer rows than the experiment wants: {', '.join(few)}. A difference between students may come "
        "from the number of rows; raise `rounds.max_candidates` of these arms, or lower `rows`"
    ]


def no_choice(plan: ExperimentPlan, rows: Mapping[str, ArmRows]) -> list[str]:
    """Return a note for every arm whose chosen rows are all rows that its dataset has."""
    return [
        f"`arms.{arm}.draw: {plan.recipe.draw(arm)}` took all {found.rows} rows of its dataset, so it chose nothing; "
        "have more rows made (`rounds.accept`, or more seeds), or lower `rows`"
        for arm, found in rows.items()
        if plan.recipe.draw(arm) != "even" and found.rows == found.available
    ]


def describe_data(plan: ExperimentPlan, rows: Mapping[str, ArmRows]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what compare.json says of each arm's rows and their cost, and notes on what is missing."""
    from gra.runs.costs import cost_of_rows

    data: dict[str, dict[str, Any]] = {}
    notes = [*fewer_rows(rows), *no_choice(plan, rows)]
    for arm, found in rows.items():
        part = plan.recipe.part(arm)
        # Which rows are chosen is known only when all of them are made.
        paid = found.rows if plan.recipe.draw(arm) == "even" else found.available
        cost = cost_of_rows(plan.source(arm), paid, reviewed=part == "train")
        if isinstance(cost, str):
            notes.append(f"What the rows of {arm} cost is not known: {cost}.")
        data[arm] = {
            "of": plan.recipe.derived.get(arm),
            "part": part,
            "draw": plan.recipe.arm(arm).draw,
            "rows": found.rows,
            "wanted": found.wanted,
            "available": found.available,
            "cost": None if isinstance(cost, str) else cost,
        }
    return data, notes
