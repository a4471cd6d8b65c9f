"""`gra export`: rows of a run in a form of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gra.cli.options import AsJson, RunFolderPath, show_json, show_line
from gra.core.types import State


def export(
    run_folder: RunFolderPath,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="messages, sharegpt, alpaca, trl, llama-factory, axolotl, unsloth, csv or jsonl",
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="the folder of the export; default: RUN/exports/FORMAT")] = None,
    state: Annotated[
        list[State] | None, typer.Option("--state", help="a final state of candidates; accepted unless given")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0.0, max=10.0, help="the lowest mean score (0-10) of a row")
    ] = None,
    reviewed: Annotated[bool, typer.Option("--reviewed", help="only rows that a person kept or edited")] = False,
    system: Annotated[str, typer.Option(help="a system message for every row")] = "",
    as_json: AsJson = False,
) -> None:
    """Write rows in a form of another tool, with the licenses of their models, and read them back."""
    from gra.runs.export import Selection, export_run

    selection = Selection(tuple(dict.fromkeys(state or [State.ACCEPTED])), min_score, reviewed, system)
    found = export_run(run_folder, form, output, selection)
    if as_json:
        show_json(found.to_json())
    else:
        show_line(found.sentence())
