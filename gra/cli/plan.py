"""`gra plan RECIPE`: calls, tokens, time, memory and cost with ranges, on one screen or as JSON.

gra plan recipes/quickstart.yaml --from runs/quickstart
gra plan recipes/quickstart/gra.yaml --sample 8
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from gra.core.progress import duration
from gra.sandbox.permission import FLAG, Permission

if TYPE_CHECKING:
    from gra.forecast.plan import ArmPlan, Planned
    from gra.forecast.simulate import CostRange, Forecast


def plan(
    recipe: Annotated[Path, typer.Argument(help="a synthesis recipe or a whole job (YAML)")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as for the run itself")] = None,
    runs: Annotated[Path, typer.Option("--runs", help="folder that holds the run folders")] = Path("runs"),
    past: Annotated[Path | None, typer.Option("--from", help="a past run's folder, or its ledger, to go by")] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", help="make so many candidates now; the run will not ask them again")
    ] = None,
    allow_code_execution: Annotated[
        bool, typer.Option(FLAG, help="as for the run itself: programs in answers may run, in a sandbox")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one machine-readable forecast on standard output")] = False,
) -> None:
    """Say what a recipe will cost: calls, tokens, time, memory and money, with ranges."""
    from gra.forecast.plan import make_plan

    planned = make_plan(recipe, overrides or [], runs, past, sample, Permission(FLAG) if allow_code_execution else None)
    if as_json:
        print(json.dumps(to_json(planned), indent=2, ensure_ascii=False))
    else:
        Console().print(screen(planned))


def to_json(planned: Planned) -> dict[str, Any]:
    """A forecast for machines; times in seconds."""
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
    told: dict[str, Any] = {"name": arm.recipe.name, "arm": arm.recipe.arm, "source": arm.source}
    if arm.forecast is None:
        return told
    found = arm.forecast
    return told | {
        "candidates": found.candidates.to_json(),
        "rows": found.rows.to_json(),
        "roles": [
            {"role": role, "model": model} | {name: found.column(name, role, model).to_json() for name in _COUNTS}
            for role, model in found.keys
        ],
        "caps": arm.caps(),
    }


def screen(planned: Planned) -> RenderableType:
    """A forecast for people."""
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("calls", "tokens read", "written")]
    table = Table(Column("", overflow="fold"), *numbers, box=None, padding=(0, 2, 0, 0))
    for arm in planned.arms:
        table.add_row(Text(arm.recipe.name, style="bold"), *(["0"] * 3 if arm.forecast is None else []))
        for role, model in arm.forecast.keys if arm.forecast is not None else ():
            assert arm.forecast is not None
            table.add_row(f"  {role} {model}", *_cells(arm.forecast, role, model))
    if planned.total is not None:
        table.add_row(Text("in all", style="bold"), *_cells(planned.total))
    title = f"{planned.name}: what it will cost (from – to: 5 % to 95 %)"
    return Group(Text(title), table, *(Text(line, overflow="fold") for line in _lines(planned)))


def _cells(found: Forecast, role: str | None = None, model: str | None = None) -> list[str]:
    return [_written(found.column(name, role, model), _short) for name in ("calls", "read", "written")]


def _short(count: float) -> str:
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
        yield f"time, {name}: {_written(seconds, duration)}"
    if len(planned.stages) > 1:
        yield f"time, in all: {_written(planned.seconds, duration)}"
    if planned.memory.local:
        yield _memory(planned)
    if planned.memory.gpus:
        yield f"GPU-hours (a machine without a GPU counts as one): {_written(planned.gpu_hours, '{:.2f}'.format)}"
    if (usd := planned.usd()) is not None:
        yield f"cost: {_written(usd, '{:,.2f}'.format)} US dollars"
    for arm in planned.arms:
        for cap, share in arm.caps().items():
            yield f"{arm.recipe.name}: `budget.{cap}` is reached in {share:.0%} of the draws"
    yield from planned.notes


def _memory(planned: Planned) -> str:
    sizes = ", ".join(f"{name} {'?' if gb is None else f'{gb:.1f}'} GB" for name, gb in planned.memory.models.items())
    how = {True: "together", False: "in turns", None: "not known whether together"}[planned.memory.together]
    return f"memory: {sizes}; {planned.memory.limit_gb:.1f} GB may be taken: {how}"


def _count(given: CostRange) -> str:
    return _written(given, "{:,.0f}".format)


def _written(given: CostRange, write: Callable[[float], str]) -> str:
    point, low, high = (write(value) for value in (given.point, given.low, given.high))
    return point if low == high else f"{point} ({low}–{high})"
