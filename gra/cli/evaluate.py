"""`gra evaluate` and eval/run.py: one model's answers to a suite, scored."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gra.cli.options import (
    RUNS,
    AllowCode,
    AsJson,
    Licenses,
    OldLicenses,
    Overrides,
    examples,
    new_app,
    permission,
    run_app,
    show_json,
)
from gra.core.errors import RecipeError
from gra.core.progress import View


class DeviceName(StrEnum):
    """Where a model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class BackendName(StrEnum):
    """What runs a model."""

    AUTO = "auto"
    HF = "hf"
    VLLM = "vllm"


script = new_app(help="Ask one model a suite and score its answers.")


def evaluate(
    suite: Annotated[Path, typer.Argument(help="a suite file (eval/suites/*.yaml)")],
    overrides: Overrides = None,
    *,
    model: Annotated[str, typer.Option(help="a catalog name, hub id or folder")],
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="a folder that training wrote, on top of the model")
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="a .jinja file or builtin:plain; default: the model's own"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="how reports call this model; default: the adapter's or model's name")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="the evaluation's folder; default: runs/NAME/eval")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="at most N samples of every task")] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="a folder with benchmark files")] = None,
    device: Annotated[DeviceName, typer.Option(help="where the model runs")] = DeviceName.AUTO,
    backend: Annotated[
        BackendName | None, typer.Option(help="what runs the model; default: the suite's", show_default=False)
    ] = None,
    shards: Annotated[
        int, typer.Option(metavar="N", min=1, help="ask in N processes, a GPU each where there are several")
    ] = 1,
    score_only: Annotated[
        bool, typer.Option("--score-only", help="score recorded answers again; load no model")
    ] = False,
    accept_license: Licenses = None,
    accept_licence: OldLicenses = None,
    allow_code_execution: AllowCode = False,
    allow_remote_code: Annotated[
        bool,
        typer.Option(
            "--allow-remote-code",
            help="run Python code that a catalog model brings along, at the commit that the catalog pins",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, ask nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask one model a suite and score its answers."""
    from gra.api.evaluation import default_name
    from gra.api.runs import results_table
    from gra.evaluation.model import ModelUnderTest, require_device
    from gra.evaluation.suite import load_samples, load_suite, suite_digest
    from gra.models.catalog import resolve

    with contextlib.redirect_stdout(sys.stderr):  # standard output is for --json
        given = [*(overrides or []), *([f"backend={backend.value}"] if backend else [])]
        tasks = load_suite(suite, given, limit=limit)
        view = View()
        read = load_samples(tasks, data_dir)
        for task, reason in read.left_out.items():
            view.note(f"! {task} is left out: {reason}")
        allowed = permission(allow_code_execution)
        read.require_permission(allowed)
        base = resolve(
            model,
            accept_licenses=[*(accept_license or []), *(accept_licence or [])],
            progress=view.note,
            allow_remote_code=allow_remote_code and not dry_run,
        )
        called = default_name(model, adapter) if name is None else name
        if name is not None and output is None:
            _check_folder_name(name)
        subject = ModelUnderTest(called, base.path, adapter, chat_template, base.identity, base.remote_code)
        subject.check()
        if not score_only:
            require_device(device.value)
        if any(task.chat for task in read.tasks):
            subject.template()
        target = output or RUNS / called / "eval"
        if dry_run:
            samples = {task.name: len(task.samples) for task in read.tasks}
            listed = ", ".join(f"{task} ({count} items)" for task, count in samples.items())
            view.note(f"{suite}: valid; {called} would be asked {listed}, into {target}; nothing was spent")
            plan = {"name": called, "output": str(target), "tasks": samples}
            summary: dict[str, Any] = {
                **plan, "suite_digest": suite_digest(read.tasks), "left_out": read.left_out
            }  # fmt: skip
        else:
            from gra.evaluation.run import evaluate as run

            with view.bars():
                results = run(
                    tasks,
                    subject,
                    target,
                    data_dir=data_dir,
                    device=device.value,
                    progress=view.progress,
                    permission=allowed,
                    shards=shards,
                    score_only=score_only,
                )
            view.console.print(results_table(results))
            for gap in results["code_execution"]["isolation"]["gaps"] if results["code_execution"] else ():
                view.note(f"! where the model's programs ran, {gap}; see docs/evaluation.md")
            view.note(f"records: {target}")
            summary = {**results, "output": str(target)}
    if as_json:
        show_json(summary)


def _check_folder_name(name: str) -> None:
    from gra.config.names import folder_name

    try:
        folder_name(name)
    except ValueError as error:
        raise RecipeError(f"`--name {name}` {error}, or give the folder with --output") from None


script.command(
    epilog=examples(
        "python eval/run.py eval/suites/quickstart.yaml --model smollm2-135m-instruct",
        "python eval/run.py eval/suites/quickstart.yaml --model gemma-3-270m --accept-license gemma \\",
        "    --chat-template builtin:plain --name untuned",
        "python eval/run.py eval/suites/quickstart.yaml --model gemma-3-270m --accept-license gemma \\",
        "    --adapter runs/student/model",
        "python eval/run.py eval/suites/paper10.yaml --model Qwen/Qwen2.5-7B-Instruct --shards 8 \\",
        "    --allow-code-execution",
        codes=True,
    )
)(evaluate)


def main_run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of eval/run.py; exits with the project's codes and one sentence on a mistake."""
    run_app(script, arguments, "eval/run.py")
