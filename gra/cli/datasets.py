"""`gra contamination`, `gra inspect`, `gra merge`, `gra curate` and `gra push`: what is done with finished datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gra.api.display import plain
from gra.cli.options import RUNS, AsJson, Public, RunFolderPath, show_line, show_summary
from gra.core.errors import writing
from gra.core.files import write_json
from gra.core.progress import View


def contamination(
    dataset: Annotated[Path, typer.Argument(help="a run's dataset folder, or a .parquet, .jsonl or .json file")],
    suite: Annotated[
        Path, typer.Argument(help="a suite file (YAML), or benchmark files (.jsonl, or a folder of them)")
    ],
    output: Annotated[Path, typer.Option(help="where verdicts and the page go")] = RUNS / "contamination",
    data_dir: Annotated[Path | None, typer.Option(help="a folder with the suite's benchmark files")] = None,
    embedder: Annotated[
        str | None, typer.Option(help="also search by embedding, such as catalog:all-minilm-l6-v2")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which rows of a dataset repeat samples of a suite, and show what they share."""
    from gra.data.contamination.report import PAGE, check_dataset
    from gra.data.embedder import Embedder
    from gra.models.catalog import resolve

    view = View()
    samples = _suite_samples(suite, data_dir, view)
    model = resolve(embedder, progress=view.note) if embedder is not None else None
    embed = Embedder(model.path).encode if model is not None else None
    summary = check_dataset(
        dataset, samples, output, embed=embed, progress=lambda done: view.progress("rows", done, None)
    )
    found = Table("task", "items", "contaminated", "suspect", "rows contaminated", "rows suspect")
    for task, counts in summary["tasks"].items():
        found.add_row(plain(task), *(f"{count:,}" for count in counts.values()))
    show_summary(summary, found, as_json=as_json)
    view.note(f"written: {output / PAGE}")


def _suite_samples(suite: Path, data_dir: Path | None, view: View) -> list[Any]:
    """Return a suite's samples for the search: from its file, or from benchmark files as they are."""
    from gra.data.contamination.texts import read_items
    from gra.evaluation.suite import suite_items

    if suite.suffix not in (".yaml", ".yml"):
        return read_items(suite)
    samples, left_out = suite_items(suite, data_dir)
    for task, reason in left_out.items():
        view.note(f"! {task} is not looked for: {reason}")
    return samples


def inspect(
    run_folder: RunFolderPath,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write all figures here")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="compare instructions with this model, such as catalog:all-minilm-l6-v2")
    ] = None,
) -> None:
    """Show the seeds beside the rows of each arm, and mark what is thin: length, kinds, format, diversity."""
    from gra.runs.inspection.inspect import inspect_run
    from gra.runs.inspection.screen import inspection_screen

    found = inspect_run(run_folder, embedder)
    if json_file is not None:
        with writing(json_file.parent):
            write_json(json_file, found.to_json())
    Console().print(inspection_screen(found))
    if json_file is not None:
        View().note(f"written: {json_file}")


def merge(
    target: Annotated[Path, typer.Argument(help="the folder of the merged dataset")],
    runs: Annotated[list[Path], typer.Argument(help="run folders of shards")],
    embedder: Annotated[str, typer.Option(help="the model that compares instructions")] = "catalog:all-minilm-l6-v2",
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="the cosine at which two rows count as the same")
    ] = 0.9,
    as_json: AsJson = False,
) -> None:
    """Make one dataset of several runs; a row that two of them have is kept once."""
    from gra.data.embedder import Embedder
    from gra.data.merge import merge as run
    from gra.models.catalog import resolve

    counts = run(runs, target, Embedder(resolve(embedder).path, gpu=True), threshold, View())
    table = Table(*counts)
    table.add_row(*map(str, counts.values()))
    show_summary(dict(counts), table, as_json=as_json)


def curate(
    run_folder: RunFolderPath,
    student: Annotated[
        list[Path], typer.Option(help="a student trained on seeds alone, with its checkpoints; name several for a mean")
    ],
    output: Annotated[Path | None, typer.Option(help="the folder of the curated version; default RUN-curated")] = None,
    quantile: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="share of the held-out seeds that the threshold would discard")
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Discard the rows that a student of the seeds found wrong from early on; write a new version."""
    from gra.training.curation.curate import curate as run

    target = output or run_folder.with_name(f"{run_folder.resolve().name}-curated")
    view = View()
    facts = run(run_folder, student, target, quantile=quantile, view=view)
    counts = {name: facts[name] for name in ("rows", "kept", "dropped", "unscored")}
    table = Table(*counts)
    table.add_row(*(f"{count:,}" for count in counts.values()))
    show_summary(facts, table, as_json=as_json)
    view.note(f"written: {target / 'dataset'}")


def push(
    run_folder: RunFolderPath,
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub")],
    public: Public = False,
) -> None:
    """Push a run's dataset to the hub; private unless --public."""
    from gra.runs.push import check_hub
    from gra.runs.push import push as upload

    show_line(upload(run_folder, check_hub(repository, public=public)))
