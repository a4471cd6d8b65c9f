"""The `gra` command: every verb of the project, in groups."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from gra.cli import datasets, evaluate, export, gate, models, plan, review, runs, synthesize, train
from gra.cli.compare import compare
from gra.cli.ledger import ledger_app
from gra.cli.options import Groups, examples, new_app, run_app
from gra.core.errors import ExitCode

_SUITE = "eval/suites/quickstart.yaml"
_LORA = "recipes/gemma-3-270m/sft/config_lora.yaml"
_ROWS = "data.train='[{path: runs/quickstart-gra/dataset/train.parquet}]'"
# Group, verb, and an example of it, in the order of the help.
_VERBS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("Make", synthesize.run, "gra run recipes/quickstart.yaml"),
    ("Make", plan.plan, "gra plan recipes/quickstart.yaml --from runs/quickstart"),
    ("Make", synthesize.synthesize, "gra synthesize recipes/quickstart/gra.yaml rounds.accept=20"),
    ("Make", train.train, f"gra train {_LORA} {_ROWS}"),
    ("Make", synthesize.symbiosis, "gra symbiosis recipes/systems/symbiosis.yaml"),
    ("Make", train.federate, "gra federate recipes/systems/federation.yaml --dry-run"),
    ("Measure", evaluate.evaluate, f"gra evaluate {_SUITE} --model smollm2-135m-instruct"),
    ("Measure", compare, "gra compare runs/untuned/eval runs/student/eval --baseline untuned"),
    ("Measure", datasets.contamination, f"gra contamination runs/quickstart-gra/dataset {_SUITE}"),
    ("Look into a run", runs.report, "gra report runs/quickstart"),
    ("Look into a run", datasets.inspect, "gra inspect runs/quickstart --json inspect.json"),
    ("Look into a run", review.review, "gra review runs/quickstart/arms/gra"),
    ("Look into a run", gate.gate, "gra gate runs/quickstart/arms/gra review.accept_mean=7.2"),
    ("Look into a run", runs.explain, "gra explain runs/quickstart r1-000004"),
    ("Look into a run", runs.diff, "gra diff runs/quickstart/arms/gra runs/no-adjudicator"),
    ("Look into a run", runs.verify, "gra verify runs/quickstart"),
    ("Share datasets", datasets.merge, "gra merge runs/big runs/big-0 runs/big-1"),
    ("Share datasets", export.export, "gra export runs/quickstart/arms/gra --format sharegpt"),
    ("Share datasets", datasets.curate, "gra curate runs/quickstart-gra --student runs/curation-student/model"),
    ("Share datasets", datasets.push, "gra push runs/quickstart/arms/gra OWNER/NAME"),
    ("This machine", models.models, "gra models smollm2-135m-instruct --fetch"),
    ("This machine", models.doctor, "gra doctor"),
)
app = new_app(
    name="gra",
    help="Fine-tuning data from several small language models: generate, review, adjudicate, train, compare.",
    epilog=examples("gra run recipes/quickstart.yaml", codes=True),
    cls=Groups,
)
for _group, _verb, _example in _VERBS:
    app.command(rich_help_panel=_group, epilog=examples(_example))(_verb)
app.add_typer(ledger_app, name="ledger", rich_help_panel="This machine")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    run_app(app, given or ["--help"], "gra")
    sys.exit(ExitCode.DONE)


if __name__ == "__main__":
    main()
