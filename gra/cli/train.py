"""`gra train` and train.py: read a recipe, train, print one summary.

`accelerate launch train.py --config RECIPE` trains on several devices. `accelerate launch` itself ends with code 1
whenever its process fails; `python train.py` keeps the code. `python -m gra.cli.train --several` is for `gra run`: it
trains one student after another in one process.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gra.cli.options import (
    RUNS,
    AsJson,
    Overrides,
    Recipe,
    ShowConfig,
    examples,
    new_app,
    run_app,
    show_json,
    show_line,
)
from gra.core.errors import ExitCode, RecipeError

RESUME = "interrupted; run the same command again to go on from the last checkpoint"
_DATA = "data.train='[{path: runs/quickstart-gra/dataset/train.parquet}]'"
Output = Annotated[
    Path | None, typer.Option(metavar="DIR", help="the model folder; default: runs/NAME/model", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check everything and show a row; train nothing")]
LaunchFile = Annotated[
    Path | None, typer.Option("--launch", metavar="FILE", help="what --dry-run plans for: recipes/accelerate/...")
]
Processes = Annotated[
    int | None, typer.Option("--num-processes", metavar="N", min=1, help="in place of the launch file's")
]
Machines = Annotated[
    int | None, typer.Option("--num-machines", metavar="N", min=1, help="in place of the launch file's")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="drop what an earlier run left in the folder")]

script = new_app(help="Fine-tune a student on prompt-completion rows, with TRL and PEFT.")


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Output = None,
    launch: LaunchFile = None,
    processes: Processes = None,
    machines: Machines = None,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Train one student in this process; `accelerate launch train.py` does it in several."""
    # Read when torch is first imported; see gra/__init__.py.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gra.training.launch import launch_from_file
    from gra.training.options.trl_config import load_train_recipe
    from gra.training.run import train as run

    loaded = load_train_recipe(recipe, overrides or [])
    if show_config:
        show_line(loaded.show())
        return
    if launch is None and (processes or machines):
        raise RecipeError("--num-processes and --num-machines go with --launch FILE")
    planned = launch_from_file(launch, processes, machines) if launch else None
    if planned is not None and not dry_run:
        raise RecipeError("--launch is for --dry-run; to train, write `accelerate launch --config_file FILE train.py`")

    target = output or RUNS / loaded.recipe.name / "model"
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for --json
        summary = run(loaded, target, dry_run=dry_run, launch=planned, fresh=fresh)
    if int(os.environ.get("RANK", 0)):
        return
    if as_json:
        show_json(summary)
    elif dry_run:
        show_line(f"{json.dumps(summary, indent=2, ensure_ascii=False)}\nnothing was spent", error=True)
    else:
        stop = f", {summary['stop']['share']:.0%} of held-out answers end by themselves" if "stop" in summary else ""
        show_line(
            f"{summary['status']}: {target}, {summary['steps']} steps, loss {summary['loss_first']} to "
            f"{summary['loss']} in {summary['seconds']} s{stop}",
            error=True,
        )


def federate(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Output = None,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Train one adapter on the rows of several owners, of which only adapters leave their place."""
    # Read when torch is first imported; see gra/__init__.py.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gra.config.training import FederationRecipe
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


@script.command(
    epilog=examples(
        f"accelerate launch train.py --config recipes/gemma-3-270m/sft/config_lora.yaml {_DATA}", codes=True
    )
)
def train_script(
    config: Annotated[Path, typer.Option("--config", metavar="RECIPE", help="the training recipe (YAML)")],
    overrides: Overrides = None,
    output: Output = None,
    launch: LaunchFile = None,
    processes: Processes = None,
    machines: Machines = None,
    dry_run: DryRun = False,
    show_config: ShowConfig = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a student on prompt-completion rows, with TRL and PEFT."""
    train(config, overrides, output, launch, processes, machines, dry_run, show_config, fresh, as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of train.py; exits with the project's codes and one sentence on a mistake."""
    run_app(script, arguments, "train.py", RESUME)


def train_several() -> None:
    """Train every student whose command line is on standard input, as a JSON list a line, until one fails.

    Each line of standard output is the exit code of one training.
    """
    # What libraries print must not be read as a reply, and what they read must not be a command.
    commands, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with open(os.devnull, encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        for line in commands:
            code = _code_of(json.loads(line))
            print(code, file=replies, flush=True)
            if code:
                sys.exit(code)
            gc.collect()  # a trainer and its model refer to each other
    except KeyboardInterrupt:  # between two trainings
        sys.exit(int(ExitCode.INTERRUPTED))
    except BrokenPipeError:  # the process that asked is gone
        sys.exit(1)


def _code_of(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--several"]:
        train_several()
    else:
        main()
