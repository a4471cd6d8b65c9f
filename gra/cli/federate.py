"""`gra federate`: train one adapter on the rows of several owners."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gra.cli.options import RUNS, AsJson, DryRun, Overrides, Recipe, ShowConfig, show_json, show_line


def federate(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="the model folder; default: runs/NAME/model", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="drop what an earlier federation left in the folder")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one adapter on the rows of several owners, of which only adapters leave their place."""
    # Read when torch is first imported; see gra/__init__.py.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gra.config.federation import FederationRecipe
    from gra.training.federation.report import PRIVACY
    from gra.training.federation.run import federate as run
    from gra.training.options.trl_config import load_trained

    loaded = load_trained(recipe, FederationRecipe, overrides or [])
    if show_config:
        show_line(loaded.show())
        return
    target = output or RUNS / loaded.recipe.name / "model"
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for --json
        facts = run(loaded, target, dry_run=dry_run, fresh=fresh)
    if as_json:
        show_json(facts)
    elif dry_run:
        show_line(f"{json.dumps(facts, indent=2, ensure_ascii=False)}\nnothing was spent", error=True)
    else:
        sent = facts["traffic"]
        show_line(
            f"{facts['status']}: {target}, {facts['round']} rounds, {(sent['sent'] + sent['received']) / 1e6:.1f} MB "
            f"sent where whole models would take {sent['full_model'] / 1e6:.0f} MB; {PRIVACY}",
            error=True,
        )
