"""`gra compare` and eval/compare.py: evaluated models against a baseline, sample by sample."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gra.cli.options import RUNS, AsJson, examples, new_app, run_app, show_json
from gra.core.text.plain_text import printable

script = new_app(help="Compare evaluated models, sample by sample.")


def _share(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter(f"{value:g} is not a number between 0 and 1")
    return value


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="[NAME=]DIR...", help="folders of evaluations")],
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="what the others are compared with; default: the first run")
    ] = None,
    untuned: Annotated[str, typer.Option(metavar="NAME", help="the untrained model")] = "untuned",
    margin: Annotated[
        float, typer.Option(callback=_share, help="largest loss that counts as non-inferior, between 0 and 1")
    ] = 0.02,
    contamination: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="what `gra contamination` wrote about an arm's rows: adds scores on clean samples",
        ),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="show the paper's tables beside the scores")] = False,
    allow_different_suites: Annotated[
        bool,
        typer.Option(
            "--allow-different-suites",
            "--anyway",
            help="compare runs of different suites on their common samples, marked as not comparable",
        ),
    ] = False,
    output: Annotated[Path, typer.Option(metavar="DIR", help="where tables and page go")] = RUNS / "compare",
    as_json: AsJson = False,
) -> None:
    """Compare evaluated models, sample by sample."""
    from gra.evaluation.compare.compare import compare as run
    from gra.reports.compare_page import write_page

    with contextlib.redirect_stdout(sys.stderr):  # standard output is for --json
        folders: dict[str, list[Path]] = {}
        for text in runs:
            name, equals, folder = text.partition("=")
            path = Path(folder if equals and not Path(text).is_dir() else text)
            folders.setdefault(name if path != Path(text) else _name_of(path), []).append(path)
        found = run(
            folders, baseline or next(iter(folders)), margin, output, untuned=untuned, published=published,
            allow_different_suites=allow_different_suites, contamination=contamination or [], page=write_page,
        )  # fmt: skip
        console = Console(stderr=True)
        console.print(found.table())
        for note in found.content["notes"]:
            console.print(printable(note), markup=False)
        for file in ("compare.md", "compare.html"):
            console.print(printable(f"written: {output / file}"), markup=False, soft_wrap=True)
    if as_json:
        show_json(found.to_json())


def _name_of(run: Path) -> str:
    from gra.evaluation.results import read_results

    return str(read_results(run)["model"]["name"])


script.command(
    epilog=examples(
        "python eval/compare.py runs/untuned/eval runs/student/eval",
        "python eval/compare.py distilled=runs/d0/eval distilled=runs/d1/eval gra=runs/g0/eval gra=runs/g1/eval \\",
        "    untuned=runs/untuned/eval --baseline distilled --margin 0.02",
        "(a name that is given several times is one arm with several training seeds)",
        "python eval/compare.py runs/a/eval runs/b/eval --contamination runs/b/contamination --published",
        codes=True,
    )
)(compare)


def main_compare(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of eval/compare.py; exits with the project's codes and one sentence on a mistake."""
    run_app(script, arguments, "eval/compare.py")
