"""`gra gate`: a new version of a dataset with a moved gate, from recorded answers."""

from __future__ import annotations

from typing import Annotated

import typer

from gra.cli.options import AsJson, Overrides, RunFolderPath, show_json, show_line


def gate(
    run_folder: RunFolderPath,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="the version's name; v2, v3 and so on unless given")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a new version of a dataset with another gate and people's decisions, without asking a model."""
    from gra.desk.gate import move_gate

    found = move_gate(run_folder, overrides or [], name)
    if as_json:
        show_json(found.to_json())
    else:
        show_line(found.sentence())
