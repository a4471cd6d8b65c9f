"""`gra plan RECIPE`: what a recipe will cost, on one screen or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gra.cli.options import (
    RUNS,
    AllowCode,
    AllowKeys,
    AsJson,
    Overrides,
    Plugin,
    RunsDir,
    accept_keys,
    load_plugins,
    permission,
    show_json,
)


def plan(
    recipe: Annotated[Path, typer.Argument(help="a synthesis recipe or an experiment (YAML)")],
    overrides: Overrides = None,
    runs: RunsDir = RUNS,
    past: Annotated[Path | None, typer.Option("--from", help="a past run's folder, or its ledger, to go by")] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", help="make N candidates now; the run will not ask again"),
    ] = None,
    allow_code_execution: AllowCode = False,
    allow_key: AllowKeys = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe will cost: calls, tokens, time, memory and money, with ranges."""
    from gra.api.costs import screen, to_json
    from gra.forecast.plan import make_plan

    load_plugins(plugin)
    accept_keys(allow_key)
    planned = make_plan(recipe, overrides or [], runs, past, sample, permission(allow_code_execution))
    if as_json:
        show_json(to_json(planned))
    else:
        Console().print(screen(planned))
