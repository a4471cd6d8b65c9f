"""The `gra` command: every verb of the project, with clear errors and fixed exit codes.

Exit codes: 0 done, 2 wrong input (nothing was spent), 3 stopped at the budget with a valid dataset,
4 an engine, a model or the hub could not be had or failed to answer (resumable), 5 verify or compare found a
mismatch, 6 no row was accepted, 130 interrupted, resumable.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from gra.cli.exit import entry
from gra.cli.ledger import ledger_app
from gra.cli.plan import plan
from gra.core.progress import View
from gra.sandbox.permission import FLAG, Permission

app = typer.Typer(
    name="gra",
    help="Fine-tuning data from several small language models: generate, review, adjudicate, train, compare.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ledger_app, name="ledger")
app.command("plan", epilog="Example: gra plan recipes/quickstart.yaml --from runs/quickstart")(plan)
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value, checked like the recipe's own values")]
RunsDir = Annotated[Path, typer.Option("--runs", help="folder that holds the run folders")]
AsJson = Annotated[bool, typer.Option("--json", help="one machine-readable summary on standard output")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check everything, spend nothing")]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="print every value and where it came from")]
Public = Annotated[bool, typer.Option("--public", help="what is pushed is for everybody to see")]
RunFolderPath = Annotated[Path, typer.Argument(help="a run folder")]
Recipe = Annotated[Path, typer.Argument(help="a recipe file (YAML)")]
RUNS = Path("runs")
_NARROW = 72  # columns that the table of models needs
# Typer carries its own copy of click, whose base of all usage errors has no public name.
_USAGE_ERRORS: type[Exception] = typer.BadParameter.__mro__[2]


@app.command(epilog="Example: gra synthesize recipes/quickstart/gra.yaml rounds.accept=20")
def synthesize(
    recipe: Recipe,
    overrides: Overrides = None,
    runs: RunsDir = RUNS,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    push_to_hub: Annotated[str | None, typer.Option(help="OWNER/NAME: then push the dataset there")] = None,
    public: Public = False,
    allow_code_execution: Annotated[
        bool, typer.Option(FLAG, help="run programs in answers, in a sandbox (see docs/evaluation.md)")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make one dataset: generate, review, adjudicate, deduplicate, export."""
    from gra.config.loader import load_recipe
    from gra.config.synthesis import SynthesisRecipe
    from gra.core.run_folder import RunFolder
    from gra.evaluation.suite import suite_items
    from gra.runs.push import check_hub, push
    from gra.synthesis.run import absent_models, make_job, run_jobs

    loaded = load_recipe(recipe, SynthesisRecipe, overrides or [])
    if show_config:
        print(loaded.show())
        return
    destination = check_hub(push_to_hub, public=public) if push_to_hub else None
    folder = RunFolder(runs / loaded.recipe.name)
    permission = Permission(FLAG) if allow_code_execution else None
    job = make_job(loaded, folder, read_suite=suite_items, create=not dry_run, permission=permission)
    seeds = job.seeds
    view = View(None if dry_run else folder / "log.jsonl")
    if dry_run:
        if seeds.set_aside:
            view.note(seeds.note())
        if absent := absent_models(loaded.recipe):
            view.note(f"not on this machine yet, the run fetches them first: {', '.join(absent)}")
        for note in job.decontaminator.notes() if job.decontaminator else ():
            view.note(note)
        view.note(f"{recipe}: valid, {len(seeds.rows)} seeds; nothing was spent")
        return
    with folder.lock(), contextlib.redirect_stdout(sys.stderr):  # Ray and others print there; it is for --json
        content = run_jobs([job], view, folder / "logs")[loaded.recipe.name]
    _summary(
        view.console, as_json, {key: content[key] for key in ("name", "arm", "states", "funnel", "tokens_by_role")}
    )
    view.note(f"dataset: {folder / 'dataset'}")
    if destination:
        view.note(f"pushed: {push(folder.path, destination)}")
    _stop_short(content)


@app.command(epilog="Example: gra run recipes/quickstart.yaml")
def run(
    recipe: Recipe,
    overrides: Overrides = None,
    runs: RunsDir = RUNS,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    as_json: AsJson = False,
) -> None:
    """The whole job: every arm's dataset, a student trained on each, evaluation, comparison, report."""
    from gra.experiment import load_experiment, run_experiment

    plan = load_experiment(recipe, overrides or [], runs)
    if show_config:
        print(plan.loaded.show())
        return
    if dry_run:
        print(plan.describe(), file=sys.stderr)
        return
    with contextlib.redirect_stdout(sys.stderr):
        result = run_experiment(plan)
    _summary(Console(stderr=True), as_json, result.summary(), result.table())


@app.command(
    epilog="Example: gra train recipes/gemma-3-270m/sft/config_lora.yaml "
    "data.train='[{path: runs/quickstart-gra/dataset/train.parquet}]'"
)
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="where the model goes; default: runs/NAME/model")] = None,
    launch: Annotated[Path | None, typer.Option(help="what --dry-run plans for: recipes/accelerate/...")] = None,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    as_json: AsJson = False,
) -> None:
    """Train one student in this process; `accelerate launch train.py` is the same on several."""
    from gra.cli.train import main as train_main

    flags = [flag for flag, on in (("--dry-run", dry_run), ("--show-config", show_config), ("--json", as_json)) if on]
    where = ["--output", str(output)] if output else []
    where += ["--launch", str(launch)] if launch else []
    train_main(["--config", str(recipe), *where, *flags, *(overrides or [])])


@app.command(
    epilog="Example: gra evaluate eval/suites/quickstart.yaml --model smollm2-135m-instruct",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def evaluate(context: typer.Context) -> None:
    """Run a suite on one model; the same as eval/run.py."""
    from gra.cli.evaluate import main_run

    main_run(context.args)


@app.command(
    epilog="Example: gra compare runs/a/eval runs/b/eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def compare(context: typer.Context) -> None:
    """Compare evaluated models item by item; the same as eval/compare.py."""
    from gra.cli.evaluate import main_compare
    from gra.reports.compare_page import write_page

    main_compare(context.args, page=write_page)


@app.command(epilog="Example: gra contamination runs/gra/dataset eval/suites/quickstart.yaml")
def contamination(
    dataset: Annotated[Path, typer.Argument(help="a run's dataset folder, or a .parquet, .jsonl or .json file")],
    suite: Annotated[
        Path, typer.Argument(help="a suite file (YAML), or benchmark files (.jsonl, or a folder of them)")
    ],
    output: Annotated[Path, typer.Option(help="where verdicts and the page go")] = RUNS / "contamination",
    data_dir: Annotated[Path | None, typer.Option(help="a folder with the suite's benchmark files")] = None,
    embedder: Annotated[str | None, typer.Option(help="also look by meaning, such as catalog:all-minilm-l6-v2")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which rows of a dataset stand in a suite, and show what they share."""
    from gra.data.contamination.report import PAGE, check_dataset
    from gra.data.embedder import Embedder
    from gra.models.catalog import resolve

    view = View()
    items = _suite_items(suite, data_dir)
    model = resolve(embedder, progress=view.note) if embedder is not None else None
    embed = Embedder(model.path).encode if model is not None else None
    summary = check_dataset(
        dataset, items, output, embed=embed, progress=lambda done: view.progress("rows", done, None)
    )
    found = Table("task", "items", "contaminated", "suspect", "rows contaminated", "rows suspect")
    for task, counts in summary["tasks"].items():
        found.add_row(task, *(f"{count:,}" for count in counts.values()))
    _summary(view.console, as_json, summary, found)
    view.note(f"written: {output / PAGE}")


def _suite_items(suite: Path, data_dir: Path | None) -> list[Any]:
    """A suite's items for the search: from its file, or from benchmark files as they are."""
    from gra.data.contamination.texts import read_items
    from gra.evaluation.suite import suite_items

    if suite.suffix not in (".yaml", ".yml"):
        return read_items(suite)
    items, left_out = suite_items(suite, data_dir)
    for task, reason in left_out.items():
        View().note(f"! {task} is not looked for: {reason}")
    return items


@app.command(epilog="Example: gra report runs/quickstart")
def report(run_folder: RunFolderPath) -> None:
    """Write report/index.html of a run folder from what is in it."""
    from gra.core.errors import DataError
    from gra.reports.html import write_report

    if not (run_folder / "manifest.json").is_file():
        raise DataError(f"{run_folder} is not a run folder (it has no manifest.json)")
    print(write_report(run_folder, title=run_folder.name, command=f"gra report {run_folder}"))


@app.command(epilog="Example: gra explain runs/quickstart r1-000004")
def explain(
    run_folder: RunFolderPath,
    candidate: Annotated[str, typer.Argument(help="a candidate's id, as in lineage.parquet")],
    full: Annotated[bool, typer.Option("--full", help="shorten nothing, and show every question and answer")] = False,
) -> None:
    """Tell one candidate's whole story on one screen."""
    from gra.runs.explain import explain as tell

    Console().print(tell(run_folder, candidate, full=full))


@app.command(epilog="Example: gra diff runs/quickstart/arms/gra runs/no-adjudicator")
def diff(run_a: RunFolderPath, run_b: RunFolderPath, as_json: AsJson = False) -> None:
    """Say what changed between two synthesis runs, and how many answers both stand on."""
    from gra.runs.diff import diff as compare_runs

    found = compare_runs(run_a, run_b)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        Console().print(found.screen())


@app.command(epilog="Example: gra push runs/quickstart/arms/gra OWNER/NAME")
def push(
    run_folder: RunFolderPath,
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub")],
    public: Public = False,
) -> None:
    """Push a run's dataset to the hub; private unless --public."""
    from gra.runs.push import check_hub
    from gra.runs.push import push as upload

    print(upload(run_folder, check_hub(repository, public=public)))


@app.command(epilog="Example: gra merge runs/big runs/big-0 runs/big-1")
def merge(
    target: Annotated[Path, typer.Argument(help="the folder of the merged dataset")],
    runs: Annotated[list[Path], typer.Argument(help="run folders of shards")],
    embedder: Annotated[str, typer.Option(help="the model that compares instructions")] = "catalog:all-minilm-l6-v2",
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="cosine from which rows count as the same")] = 0.9,
    as_json: AsJson = False,
) -> None:
    """Make one dataset of several runs; what two of them both wrote is kept once."""
    from gra.data.embedder import Embedder
    from gra.data.merge import merge as merged
    from gra.models.catalog import resolve

    counts = merged(runs, target, Embedder(resolve(embedder).path, gpu=True), threshold, View())
    table = Table(*counts)
    table.add_row(*map(str, counts.values()))
    _summary(Console(stderr=True), as_json, counts, table)


@app.command(epilog="Example: gra verify runs/quickstart")
def verify(run_folder: RunFolderPath, as_json: AsJson = False) -> None:
    """Re-check files against their digests, answers against their questions, rows against their lineage."""
    from gra.runs.verify import verify as check

    found = check(run_folder)
    print(json.dumps(found.to_json(), indent=2) if as_json else found.sentence())


@app.command(epilog="Example: gra models smollm2-135m-instruct --fetch")
def models(
    name: Annotated[str | None, typer.Argument(help="one catalog name, hub id or path")] = None,
    fetch: Annotated[bool, typer.Option(help="download and convert it now")] = False,
    accept_licence: Annotated[list[str] | None, typer.Option(help="licence ids you accept, such as gemma")] = None,
    as_json: AsJson = False,
) -> None:
    """List the model catalog, or resolve one model."""
    from dataclasses import asdict

    from gra.models.catalog import cached, entries, resolve

    if name is not None and fetch:
        model = resolve(name, accept_licenses=accept_licence or [], progress=lambda text: print(text, file=sys.stderr))
        print(json.dumps({key: str(value) for key, value in asdict(model).items()}, indent=2))
        return
    chosen = [entry for entry in entries() if name is None or entry.name == name]
    if not chosen:
        from gra.config.problems import did_you_mean
        from gra.core.errors import RecipeError

        raise RecipeError(
            f"there is no model `{name}` in the catalog{did_you_mean(name or '', [e.name for e in entries()])}; "
            "a hub id or a path is looked up with --fetch"
        )
    if as_json:
        print(json.dumps([{"name": e.name, "cached": cached(e.name)} for e in chosen], indent=2))
        return
    console = Console()
    if console.width < _NARROW:
        for each in chosen:
            known = {"here": cached(each.name), "from packages": bool(each.packages), each.licence: True}
            facts = ", ".join(fact for fact, true in known.items() if true)
            console.print(f"{each.name}\n  {each.hub_id}\n  {facts}", markup=False, highlight=False, overflow="fold")
        return
    table = Table(Column("name", no_wrap=True), "here", Column("hub id", overflow="fold"), "from packages", "licence")
    for each in chosen:
        table.add_row(
            each.name,
            "yes" if cached(each.name) else "",
            each.hub_id,
            "yes" if each.packages else "",
            each.licence,
        )
    console.print(table)


@app.command(epilog="Example: gra doctor")
def doctor() -> None:
    """Say what this machine has: versions, memory, GPU, cached models."""
    import os

    from gra.core.hardware import available_gb, gpu_memory_gb
    from gra.core.run_folder import environment
    from gra.models.catalog import cache_dir, cached, entries

    gpu = gpu_memory_gb()
    table = Table(show_header=False)
    for key, value in environment().items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(key, text)
    table.add_row("CPUs usable", str(len(os.sched_getaffinity(0))))
    table.add_row("memory available", f"{available_gb():.1f} GB")
    table.add_row("GPU", "none" if gpu is None else f"{gpu:.0f} GB")
    table.add_row("cache", str(cache_dir()))
    table.add_row("models here", ", ".join(e.name for e in entries() if cached(e.name)) or "none")
    Console().print(table)


def _summary(console: Console, as_json: bool, summary: dict[str, Any], table: Table | None = None) -> None:
    if as_json:
        print(json.dumps(summary, indent=2))
    elif table is not None:
        console.print(table)
    else:
        shown = Table("step", "candidates")
        for step, count in summary["funnel"].items():
            shown.add_row(step, str(count))
        console.print(shown)


def _stop_short(content: dict[str, Any]) -> None:
    from gra.synthesis.run import run_stop

    if stop := run_stop({content["name"]: content}):
        raise stop


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    with entry():
        try:
            given = list(sys.argv[1:] if arguments is None else arguments)
            code = app(args=given or ["--help"], standalone_mode=False)
            if code == 130:  # what an interrupt becomes in Typer
                raise KeyboardInterrupt
            sys.exit(code or 0)
        except typer.Exit as end:
            sys.exit(end.exit_code)
        except typer.Abort:
            raise KeyboardInterrupt from None
        except _USAGE_ERRORS as error:
            print(f"error: {error} (see --help)", file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
