"""`gra ledger check`, `compact` and `preparation`: look after a file of recorded answers, and carry some over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gra.api.display import plain
from gra.cli.options import AsJson, examples, new_app, show_json, show_line

ledger_app = new_app(
    help="Look after a ledger of recorded answers.", epilog=examples("gra ledger check runs/quickstart")
)
LedgerPath = Annotated[Path, typer.Argument(help="a ledger file, or the run folder it lies in")]


@ledger_app.command("check", epilog=examples("gra ledger check runs/quickstart"))
def ledger_check(path: LedgerPath, as_json: AsJson = False) -> None:
    """Check the structure of a ledger, and that every row is as it was written."""
    from dataclasses import asdict

    from gra.ledger.schema import check

    file = _ledger_file(path)
    found = check(file)
    if as_json:
        show_json({"ledger": str(file)} | asdict(found))
        return
    caption = plain(f"{file}: sound, {found.size / 1e6:,.1f} MB")
    table = Table("run", "answers", "verdicts", "faults", caption=caption)
    for run_name, counts in found.runs.items():
        table.add_row(plain(run_name), *(f"{counts[key]:,}" for key in ("answers", "verdicts", "faults")))
    Console().print(table)


@ledger_app.command("compact", epilog=examples("gra ledger compact runs/quickstart --drop-requests"))
def ledger_compact(
    path: LedgerPath,
    drop_requests: Annotated[
        bool, typer.Option("--drop-requests", help="drop the texts of questions; answers are still found by their keys")
    ] = False,
) -> None:
    """Check a ledger and give back the space it does not need."""
    from gra.ledger.schema import compact

    file = _ledger_file(path)
    before, after = compact(file, drop_requests=drop_requests)
    show_line(f"{file}: {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now")


@ledger_app.command(
    "preparation", epilog=examples("gra ledger preparation runs/quickstart recipes/quickstart/preparation.jsonl.gz")
)
def ledger_preparation(
    path: LedgerPath, target: Annotated[Path, typer.Argument(help="the file to write; it ends in .jsonl.gz")]
) -> None:
    """Write what prepared a run's committee: answers to control items, keywords and domains of seeds.

    A recipe with `preparation: FILE` takes these answers over, and asks only what is not among them.
    """
    from gra.synthesis.measuring.preparation import write_preparation

    count = write_preparation(_ledger_file(path), target)
    show_line(f"{target}: {count:,} recorded answers, {target.stat().st_size / 1e3:,.0f} kB")


def _ledger_file(path: Path) -> Path:
    from gra.core.stored.resolved_recipe import find_ledger

    return find_ledger(path) or path / "ledger.sqlite" if path.is_dir() else path
