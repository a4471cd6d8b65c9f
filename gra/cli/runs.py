"""`gra report`, `gra explain`, `gra diff` and `gra verify`: what a run folder holds, for people."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from gra.cli.options import AsJson, RunFolderPath, show_json, show_line


def report(run_folder: RunFolderPath) -> None:
    """Write report/index.html of a run folder from what is in it."""
    from gra.core.errors import DataError
    from gra.reports.html import write_report

    if not (run_folder / "manifest.json").is_file():
        raise DataError(f"{run_folder} is not a run folder (it has no manifest.json)")
    show_line(write_report(run_folder, title=run_folder.name, command=f"gra report {run_folder}"))


def explain(
    run_folder: RunFolderPath,
    candidate: Annotated[str, typer.Argument(help="a candidate's id, as in lineage.parquet")],
    full: Annotated[bool, typer.Option("--full", help="shorten nothing, and show every question and answer")] = False,
) -> None:
    """Show one candidate's way from its parents to its final state on one screen."""
    from gra.runs.explain import explain as run

    Console().print(run(run_folder, candidate, full=full))


def diff(run_a: RunFolderPath, run_b: RunFolderPath, as_json: AsJson = False) -> None:
    """Say what changed between two synthesis runs, and how many answers they share."""
    from gra.runs.diff import diff as run

    found = run(run_a, run_b)
    if as_json:
        show_json(found.to_json())
    else:
        Console().print(found.screen())


def verify(run_folder: RunFolderPath, as_json: AsJson = False) -> None:
    """Check files against their digests, answers against their questions, rows against their lineage."""
    from gra.runs.verify import verify as run

    found = run(run_folder)
    if as_json:
        show_json(found.to_json())
    else:
        show_line(found.sentence())
