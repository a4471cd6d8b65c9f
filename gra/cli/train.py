"""The command line of train.py: read a recipe, train, print one summary.

    accelerate launch train.py --config recipes/gemma-3-270m/sft/config_lora.yaml \\
        data.train='[{path: runs/demo/dataset/train.parquet}]' train.max_steps=24

`accelerate launch` itself ends with code 1 whenever its process fails; `python train.py` keeps the code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gra.cli.exit import entry
from gra.core.errors import RecipeError

_EXAMPLE = """example:
  accelerate launch train.py --config recipes/gemma-3-270m/sft/config_lora.yaml \\
      data.train='[{path: runs/demo/dataset/train.parquet}]' train.max_steps=24

exit codes: 0 done, 2 wrong recipe, data or command line, 4 the model could not be had,
5 the folder holds another run or what was pinned has changed, 130 interrupted (the same command goes on from there)"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with the project's codes and one sentence on a mistake."""
    options = _parser().parse_intermixed_args(arguments)
    # OpenMP's waiting threads burn the cores that others need: beside busy processes a step took three times as
    # long with the default. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with entry("interrupted; run the same command again to go on from the last checkpoint"):
        _train(options)


def _train(options: argparse.Namespace) -> None:
    from gra.training.launch import launch_from_file
    from gra.training.options.trl_config import load_train_recipe
    from gra.training.run import train

    loaded = load_train_recipe(options.config, options.overrides)
    if options.show_config:
        print(loaded.show())
        return
    if options.launch is None and (options.processes or options.machines):
        raise RecipeError("--num-processes and --num-machines go with --launch FILE")
    launch = launch_from_file(options.launch, options.processes, options.machines) if options.launch else None
    if launch is not None and not options.dry_run:
        raise RecipeError("--launch is for --dry-run; to train, write `accelerate launch --config_file FILE train.py`")

    output = options.output or Path("runs") / loaded.recipe.name / "model"
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for --json
        summary = train(loaded, output, dry_run=options.dry_run, launch=launch, fresh=options.fresh)
    if int(os.environ.get("RANK", 0)):
        return
    if options.json:
        print(json.dumps(summary, indent=2))
    elif options.dry_run:
        print(f"{json.dumps(summary, indent=2, ensure_ascii=False)}\nnothing was spent", file=sys.stderr)
    else:
        stop = f", {summary['stop']['share']:.0%} of held-out answers end by themselves" if "stop" in summary else ""
        print(
            f"{summary['status']}: {output}, {summary['steps']} steps, loss {summary['loss_first']} to "
            f"{summary['loss']} in {summary['seconds']} s{stop}",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Fine-tune a student on prompt-completion rows, with TRL and PEFT.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, type=Path, metavar="RECIPE", help="the training recipe (YAML)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the model folder; default: runs/NAME/model")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show a row; train nothing")
    parser.add_argument("--launch", type=Path, metavar="FILE", help="what --dry-run plans for: recipes/accelerate/...")
    parser.add_argument("--num-processes", dest="processes", type=int, metavar="N", help="instead of the launch file's")
    parser.add_argument("--num-machines", dest="machines", type=int, metavar="N", help="instead of the launch file's")
    parser.add_argument("--show-config", action="store_true", help="print every value and where it came from")
    parser.add_argument("--fresh", action="store_true", help="drop what an earlier run left in the folder")
    parser.add_argument("--json", action="store_true", help="one machine-readable summary on standard output")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="checked like the recipe's own values")
    return parser


if __name__ == "__main__":
    main()
