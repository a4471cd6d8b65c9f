"""Forecast what a recipe will cost: calls, tokens, time, memory and money, with ranges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from gra.api.display import Displayed, plain
from gra.api.failures import raising_gra_errors
from gra.api.paths import given_path
from gra.api.recipes import RecipeLike, as_loaded
from gra.api.runs import PathLike
from gra.api.synthesis import load_with_seeds, permission
from gra.config.experiment import ExperimentRecipe
from gra.core.progress import duration
from gra.core.text.plain_text import printable
from gra.forecast.plan import ArmPlan, Planned, is_experiment, make_plan
from gra.forecast.simulate import CostRange, Forecast


class CostForecast(Displayed):
    """What a run will cost, with ranges from 5 % to 95 %; `print` shows all of it."""

    def __init__(self, planned: Planned) -> None:
        self.planned = planned

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values; times in seconds."""
        return to_json(self.planned)

    def __rich__(self) -> RenderableType:
        """Return the screen of `gra plan`."""
        return screen(self.planned)


def estimate_cost(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    seeds: Any = None,
    runs: PathLike = "runs",
    past: PathLike | None = None,
    sample: int | None = None,
    allow_code_execution: bool = False,
) -> CostForecast:
    """Forecast calls, tokens, time, memory and money of a recipe; only a `sample` spends anything.

    Args:
        recipe: the path of a synthesis recipe or an experiment, or a synthesis recipe made in Python.
        overrides: texts `key.sub=value`, for a path.
        seeds: a path, rows, a data frame, a dataset or a `Run`, in place of the recipe's own seeds.
        runs: the folder that holds the run folders.
        past: the folder or ledger of a past run; the forecast uses its costs.
        sample: the number of candidates to make now; the run itself does not ask for them again.
        allow_code_execution: as for `synthesize`.

    Returns:
        The forecast.

    Raises:
        GraError: for a mistake or failure that the user can act on; same message as the command line.
    """
    with raising_gra_errors():
        past = None if past is None else given_path(past, "past")
        allowed = permission(allow_code_execution)
        if isinstance(recipe, ExperimentRecipe) or (
            isinstance(recipe, str | os.PathLike) and is_experiment(given_path(recipe, "recipe"))
        ):
            experiment = as_loaded(recipe, ExperimentRecipe, overrides)
            return CostForecast(make_plan(experiment, overrides, given_path(runs, "runs"), past, sample, allowed))
        loaded = load_with_seeds(recipe, overrides, seeds, runs)
        return CostForecast(make_plan(loaded, overrides, given_path(runs, "runs"), past, sample, allowed))


def to_json(planned: Planned) -> dict[str, Any]:
    """Return a forecast as plain values; times in seconds."""
    usd = planned.usd()
    return {
        "name": planned.name,
        "arms": [_arm(arm) for arm in planned.arms],
        "total": None if planned.total is None else {name: planned.total.column(name).to_json() for name in _COUNTS},
        "seconds": {name: seconds.to_json() for name, seconds in planned.stages.items()}
        | {"all": planned.seconds.to_json()},
        "gpu_hours": planned.gpu_hours.to_json(),
        "usd": None if usd is None else usd.to_json(),
        "memory": planned.memory.to_json(),
        "notes": list(planned.notes),
    }


_COUNTS = ("calls", "read", "cached", "written")


def _arm(arm: ArmPlan) -> dict[str, Any]:
    content: dict[str, Any] = {"name": arm.recipe.name, "arm": arm.recipe.arm, "source": arm.source}
    if arm.forecast is None:
        return content
    found = arm.forecast
    return content | {
        "candidates": found.candidates.to_json(),
        "rows": found.rows.to_json(),
        "roles": [
            {"role": role, "model": model} | {name: found.column(name, role, model).to_json() for name in _COUNTS}
            for role, model in found.keys
        ],
        "caps": arm.caps(),
    }


def screen(planned: Planned) -> RenderableType:
    """Return a forecast as a table and lines."""
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("calls", "tokens read", "written")]
    table = Table(Column("", overflow="fold"), *numbers, box=None, padding=(0, 2, 0, 0))
    for arm in planned.arms:
        table.add_row(Text(printable(arm.recipe.name), style="bold"), *(["0"] * 3 if arm.forecast is None else []))
        for role, model in arm.forecast.keys if arm.forecast is not None else ():
            assert arm.forecast is not None
            table.add_row(plain(f"  {role} {model}"), *_range_cells(arm.forecast, role, model))
    if planned.total is not None:
        table.add_row(Text("in all", style="bold"), *_range_cells(planned.total))
    title = f"{planned.name}: what it will cost (from – to: 5 % to 95 %)"
    return Group(Text(title), table, *(Text(printable(line), overflow="fold") for line in _lines(planned)))


def _range_cells(found: Forecast, role: str | None = None, model: str | None = None) -> list[str]:
    return [_format_range(found.column(name, role, model), _format_count) for name in ("calls", "read", "written")]


def _format_count(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.{int(count < 10 * size)}f}{letter}"
    return f"{count:.0f}"


def _lines(planned: Planned) -> Iterator[str]:
    for arm in planned.arms:
        if arm.forecast is not None and arm.forecast.candidates.high:
            yield (
                f"{arm.recipe.name}: {_count(arm.forecast.candidates)} candidates for {_count(arm.forecast.rows)} "
                f"rows, by {arm.source}"
            )
        elif arm.forecast is not None:
            yield f"{arm.recipe.name}: by {arm.source}"
    for name, seconds in planned.stages.items():
        yield f"time, {name}: {_format_range(seconds, duration)}"
    if len(planned.stages) > 1:
        yield f"time, in all: {_format_range(planned.seconds, duration)}"
    if planned.memory.local:
        yield _memory(planned)
    if planned.memory.gpus:
        yield f"GPU-hours (a machine without a GPU counts as one): {_format_range(planned.gpu_hours, '{:.2f}'.format)}"
    if (usd := planned.usd()) is not None:
        yield f"cost: {_format_range(usd, '{:,.2f}'.format)} US dollars"
    for arm in planned.arms:
        for cap, share in arm.caps().items():
            yield f"{arm.recipe.name}: `budget.{cap}` is reached in {share:.0%} of the draws"
    yield from planned.notes


def _memory(planned: Planned) -> str:
    sizes = ", ".join(f"{name} {'?' if gb is None else f'{gb:.1f}'} GB" for name, gb in planned.memory.models.items())
    how = {True: "together", False: "in turns", None: "not known whether together"}[planned.memory.together]
    return f"memory: {sizes}; {planned.memory.limit_gb:.1f} GB may be taken: {how}"


def _count(given: CostRange) -> str:
    return _format_range(given, "{:,.0f}".format)


def _format_range(given: CostRange, write: Callable[[float], str]) -> str:
    point, low, high = (write(value) for value in (given.point, given.low, given.high))
    return point if low == high else f"{point} ({low}–{high})"
