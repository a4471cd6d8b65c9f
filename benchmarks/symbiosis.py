"""Measure a teacher and a student that make training rows for each other, on word problems made by a program.

Run as: python benchmarks/symbiosis.py --out FOLDER [--problems 16] [--held-out 32] [key=value ...]

Runs recipes/systems/symbiosis.yaml on problems of `word_problems.py`, with two choices at each step, one training seed
and 30 steps of training. The held-out ones have other templates and names. Prints the share of held-out problems that
each condition solves, with Wilson intervals, and the differences with paired 95 % intervals. Also prints what each
round made. Keeps its ledger and its trained students, so a stopped benchmark goes on where it was. Writes
FOLDER/symbiosis.json. Another student: student.model=qwen2.5-coder-0.5b-instruct.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from word_problems import write_problems

from gra.core.files import write_json
from gra.core.run_folder import environment
from gra.experiment.symbiosis.evaluate import markdown
from gra.experiment.symbiosis.plan import load_symbiosis
from gra.experiment.symbiosis.run import run_symbiosis

RECIPE = Path(__file__).parents[1] / "recipes" / "systems" / "symbiosis.yaml"


def rounds_table(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of what each round made."""
    lines = [
        "| round | right draws of teacher, student, control | right walks | lines: equal, likely, replaced, none "
        "| solved in the stores: both, control | only by the student | rows |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rounds:
        shares = [
            f"{each['right_draws'].get(name, 0)} of {each['problems'] * count}" for name, count in each["draws"].items()
        ]
        steps = ", ".join(str(count) for count in each["walks"]["steps"].values())
        store, control = each["store"], each["control_store"]
        rows = f"{each['rows']['lines']} + {each['rows']['rationales']}"
        lines.append(
            f"| {each['round']} | {', '.join(shares)} | {each['walks']['right']} of {each['problems']} | {steps} "
            f"| {store['questions']}, {control['questions']} | {store['student_alone']} | {rows} |"
        )
    return "\n".join(lines)


def main(
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    out: Annotated[Path, typer.Option()] = Path("symbiosis"),
    problems: Annotated[int, typer.Option(help="problems of the rounds")] = 16,
    held_out: Annotated[int, typer.Option(help="problems that measure")] = 32,
) -> None:
    """Run the experiment and print its tables."""
    begun = time.monotonic()
    ours, measured = write_problems(out, problems, held_out)
    fixed = ["name=run", f"problems.source={ours}", f"held_out.source={measured}", "choices=2", "training_seeds=[0]",
             "train.max_steps=30", "tracking.wandb=off"]  # fmt: skip
    plan = load_symbiosis(RECIPE, [*fixed, *(overrides or [])], out)
    found = run_symbiosis(plan).found
    print(markdown(found))
    print(f"\n{rounds_table(found['rounds'])}\n")
    seconds = round(time.monotonic() - begun, 1)
    print(f"{seconds:.0f} s with engine start-ups and trainings")
    write_json(out / "symbiosis.json", found | {"seconds": seconds, "environment": environment()})


if __name__ == "__main__":
    typer.run(main)
