"""The command lines of eval/run.py and eval/compare.py; `gra evaluate` and `gra compare` are the same.

python eval/run.py eval/suites/quickstart.yaml --model gemma-3-270m --chat-template builtin:plain
python eval/compare.py runs/untuned/eval runs/student/eval
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from gra.cli.exit import entry
from gra.core.errors import RecipeError
from gra.core.progress import View
from gra.sandbox.permission import FLAG, Permission

if TYPE_CHECKING:
    from gra.evaluation.compare.compare import Page

_CODES = """exit codes: 0 done, 2 the suite, data or command line is wrong, 4 the model could not be had,
5 the runs cannot be compared, 130 interrupted (the same command goes on from there)"""
_RUN_EXAMPLES = f"""examples:
  python eval/run.py eval/suites/quickstart.yaml --model smollm2-135m-instruct
  python eval/run.py eval/suites/quickstart.yaml --model gemma-3-270m --accept-licence gemma \\
      --chat-template builtin:plain --name untuned
  python eval/run.py eval/suites/quickstart.yaml --model gemma-3-270m --accept-licence gemma \\
      --adapter runs/student/model
  python eval/run.py eval/suites/paper10.yaml --model Qwen/Qwen2.5-7B-Instruct --shards 8 --allow-code-execution

{_CODES}"""
_COMPARE_EXAMPLES = f"""examples:
  python eval/compare.py runs/untuned/eval runs/student/eval
  python eval/compare.py distilled=runs/d0/eval distilled=runs/d1/eval gra=runs/g0/eval gra=runs/g1/eval \\
      untuned=runs/untuned/eval --baseline distilled --margin 0.02
  (a name that is given several times is one arm with several training seeds)
  python eval/compare.py runs/a/eval runs/b/eval --contamination runs/b/contamination --published

{_CODES}"""


def main_run(arguments: Sequence[str] | None = None) -> None:
    """Evaluate one model; exits with the project's codes and one sentence on a mistake."""
    _guarded(_run, _run_parser().parse_intermixed_args(arguments))


def main_compare(arguments: Sequence[str] | None = None, page: Page | None = None) -> None:
    """Compare evaluated models; exits with the project's codes and one sentence on a mistake.

    Args:
        arguments: the command line; default: this process's.
        page: writes compare.html; given by the entry points, as evaluation does not know reporting.
    """
    _guarded(lambda options: _compare(options, page), _compare_parser().parse_args(arguments))


def _guarded(verb: Callable[[argparse.Namespace], dict[str, Any]], options: argparse.Namespace) -> None:
    with entry():
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for --json
            summary = verb(options)
        if options.json:
            print(json.dumps(summary, indent=2))


def _run_parser() -> argparse.ArgumentParser:
    parser = _parser("eval/run.py", "Ask one model a suite and score its answers.", _RUN_EXAMPLES)
    parser.add_argument("suite", type=Path, help="a suite file (eval/suites/*.yaml)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as generation.max_new_tokens=1024")
    parser.add_argument("--model", required=True, help="a catalog name, hub id or folder")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="what training wrote, on top of the model")
    parser.add_argument(
        "--chat-template", metavar="FILE", help="a .jinja file or builtin:plain; default: the adapter's or model's own"
    )
    parser.add_argument("--name", help="what reports call this model; default: the adapter's or model's name")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/NAME/eval")
    parser.add_argument("--limit", type=_positive, metavar="N", help="at most N items of every task")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="a folder with benchmark files")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--backend", choices=("auto", "hf", "vllm"), help="what runs the model; default: the suite's")
    parser.add_argument(
        "--shards",
        type=_positive,
        default=1,
        metavar="N",
        help="ask in N processes, a GPU each where there are several",
    )
    parser.add_argument("--score-only", action="store_true", help="score recorded answers again; load no model")
    parser.add_argument(
        "--accept-licence", action="append", default=[], metavar="ID", help="a licence that you accept, such as gemma"
    )
    parser.add_argument(
        FLAG, action="store_true", help="run programs that the model writes, in a sandbox (see docs/evaluation.md)"
    )
    parser.add_argument(
        "--allow-remote-code",
        action="store_true",
        help="run Python code that a catalog model brings along, at the commit that the catalog pins",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, ask nothing")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = _parser("eval/compare.py", "Compare evaluated models, item by item.", _COMPARE_EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]DIR", help="output folders of eval/run.py")
    parser.add_argument("--baseline", metavar="NAME", help="what the others are compared with; default: the first run")
    parser.add_argument("--untuned", default="untuned", metavar="NAME", help="the untrained model; default: untuned")
    parser.add_argument(
        "--margin", type=_share, default=0.02, help="largest loss that counts as non-inferior, between 0 and 1 (0.02)"
    )
    parser.add_argument(
        "--contamination", type=Path, action="append", default=[], metavar="DIR",
        help="what `gra contamination` wrote about an arm's training set: adds scores on clean items",
    )  # fmt: skip
    parser.add_argument("--published", action="store_true", help="show the paper's tables beside the scores")
    parser.add_argument(
        "--anyway", action="store_true",
        help="compare runs that are not the same exam on the items they share, stamped as not comparable",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("runs/compare"), help="default: runs/compare"
    )
    return parser


def _parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one machine-readable summary on standard output")
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from gra.evaluation.model import ModelUnderTest, require_device
    from gra.evaluation.suite import load_samples, load_suite, suite_digest
    from gra.models.catalog import resolve

    overrides = [*options.overrides, *([f"backend={options.backend}"] if options.backend else [])]
    suite = load_suite(options.suite, overrides, limit=options.limit)
    view = View()
    loaded = load_samples(suite, options.data_dir)
    for task, reason in loaded.left_out.items():
        view.note(f"! {task} is left out: {reason}")
    permission = Permission(FLAG) if options.allow_code_execution else None
    loaded.require_permission(permission)
    allow_code = options.allow_remote_code and not options.dry_run
    base = resolve(
        options.model, accept_licenses=options.accept_licence, progress=view.note, allow_remote_code=allow_code
    )
    name = _name(options)
    model = ModelUnderTest(name, base.path, options.adapter, options.chat_template, base.identity, base.remote_code)
    model.check()
    if not options.score_only:
        require_device(options.device)
    if any(task.chat for task in loaded.tasks):
        model.template()
    output = options.output or Path("runs") / name / "eval"
    if options.dry_run:
        items = {task.name: len(task.samples) for task in loaded.tasks}
        listed = ", ".join(f"{task} ({count} items)" for task, count in items.items())
        view.note(f"{options.suite}: valid; {name} would be asked {listed}, into {output}; nothing was spent")
        plan = {"name": name, "output": str(output), "tasks": items, "suite_digest": suite_digest(loaded.tasks)}
        return {**plan, "left_out": loaded.left_out}
    from gra.evaluation.run import evaluate

    with view.bars():
        results = evaluate(
            suite,
            model,
            output,
            data_dir=options.data_dir,
            device=options.device,
            progress=lambda task, done, total: view.progress(task, done, total),
            permission=permission,
            shards=options.shards,
            score_only=options.score_only,
        )
    view.console.print(_results_table(results))
    for gap in results["code_execution"]["isolation"]["gaps"] if results["code_execution"] else ():
        view.note(f"! where the model's programs ran, {gap}; see docs/evaluation.md")
    view.note(f"records: {output}")
    return {**results, "output": str(output)}


def _compare(options: argparse.Namespace, page: Page | None) -> dict[str, Any]:
    from gra.evaluation.compare.compare import compare

    runs: dict[str, list[Path]] = {}
    for text in options.runs:
        name, equals, folder = text.partition("=")
        path = Path(folder if equals and not Path(text).is_dir() else text)
        runs.setdefault(name if path != Path(text) else _name_of(path), []).append(path)
    comparison = compare(
        runs, options.baseline or next(iter(runs)), options.margin, options.output, untuned=options.untuned,
        anyway=options.anyway, published=options.published, contamination=options.contamination, page=page,
    )  # fmt: skip
    console = Console(stderr=True)
    console.print(comparison.table())
    for note in comparison.content["notes"]:
        console.print(note, markup=False)
    written = ["compare.md", *(["compare.html"] if page else [])]
    for name in written:
        console.print(f"written: {options.output / name}", markup=False, soft_wrap=True)
    return comparison.to_json()


def _name_of(run: Path) -> str:
    from gra.evaluation.results import read_results

    return str(read_results(run)["model"]["name"])


def _name(options: argparse.Namespace) -> str:
    """What the model is called; a folder's name, where its folder is called so, too."""
    if options.name is None:
        return _default_name(options.model, options.adapter)
    if options.output is None:
        from gra.config.names import folder_name

        try:
            folder_name(options.name)
        except ValueError as error:
            raise RecipeError(f"`--name {options.name}` {error}, or give the folder with --output") from None
    return str(options.name)


def _default_name(model: str, adapter: Path | None) -> str:
    if adapter is not None:
        folder = adapter.resolve()
        name = folder.parent.name if folder.name == "model" else folder.name
    else:
        path = Path(model)
        name = path.resolve().name if path.name in ("", "..") else path.name.removeprefix("catalog:")
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def _results_table(results: dict[str, Any]) -> Table:
    columns = ("task", "metric", "n", "score", "95 % interval", "cut off", "no answer", "tokens")
    table = Table(*columns, title=results["model"]["name"])
    for name, task in results["tasks"].items():
        shares = ["" if task.get(key) is None else f"{task[key]:.0%}" for key in ("truncated", "unread")]
        tokens = "" if task["mean_tokens"] is None else f"{task['mean_tokens']:.0f}"
        interval = f"{task['low']:.1%} to {task['high']:.1%}"
        table.add_row(name, task["metric"], str(task["n"]), f"{task['mean']:.1%}", interval, *shares, tokens)
    for name in results.get("left_out", ()):
        table.add_row(name, "", "", "left out", "", "", "", "")
    return table


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number between 0 and 1")
    return value
