"""What the verbs share: their options, how a command line is run, and how results are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from gra.cli.exit import CODES, RESUME, entry
from gra.core.errors import ExitCode
from gra.core.text.plain_text import printable
from gra.sandbox.permission import FLAG, Permission

RUNS = Path("runs")
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value, checked like the recipe's own values")]
RunsDir = Annotated[Path, typer.Option("--runs", help="folder that holds the run folders")]
AsJson = Annotated[bool, typer.Option("--json", help="print one machine-readable summary on standard output")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check everything, spend nothing")]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="print every value and where it came from")]
Public = Annotated[bool, typer.Option("--public", help="push for everyone to see, not privately")]
RunFolderPath = Annotated[Path, typer.Argument(help="a run folder")]
Recipe = Annotated[Path, typer.Argument(help="a recipe file (YAML)")]
AllowCode = Annotated[
    bool, typer.Option(FLAG, help="run programs that models write, in a sandbox (see docs/evaluation.md)")
]
AllowKeys = Annotated[
    list[str] | None,
    typer.Option("--allow-key", metavar="NAME=HOST", help="let the key in the variable NAME go to this server"),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="run this Python file first; it registers verifiers of your own"),
]
Licenses = Annotated[
    list[str] | None, typer.Option("--accept-license", metavar="ID", help="a license that you accept, such as gemma")
]
# The spelling of release 0.1.
OldLicenses = Annotated[list[str] | None, typer.Option("--accept-licence", hidden=True)]
_WHOLE = 200  # characters; a verb's first sentence is never cut
# Typer has its own copy of click, whose base of all usage errors has no public name.
_USAGE_ERRORS: Any = typer.BadParameter.__mro__[2]


def examples(*lines: str, codes: bool = False) -> str:
    """Return the end of a help text: examples, one a line, and the exit codes."""
    shown = "\n".join(f"  {line}" for line in lines)
    text = f"\b\nExample{'s' if len(lines) > 1 else ''}:\n{shown}"
    return f"{text}\n\n{CODES}" if codes else text


class Groups(TyperGroup):
    """A command whose help lists its verbs in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section a group, in the order in which the verbs were added."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            verb = self.get_command(ctx, name)
            if verb is not None and not verb.hidden:
                title = getattr(verb, "rich_help_panel", None) or "Commands"
                sections.setdefault(title, []).append((name, verb.get_short_help_str(_WHOLE)))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def new_app(**options: Any) -> typer.Typer:
    """Return a Typer application with plain help texts."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **options)


def run_app(
    app: typer.Typer, arguments: Sequence[str] | None, program: str | None = None, interrupted: str = RESUME
) -> None:
    """Run a command line; exit with its code unless it is 0.

    Args:
        app: the application.
        arguments: the command line; this process's own when not given.
        program: the name in help texts.
        interrupted: the sentence after Ctrl-C.
    """
    with entry(interrupted):
        try:
            given = list(sys.argv[1:] if arguments is None else arguments)
            code = app(args=given, prog_name=program, standalone_mode=False)
        except typer.Exit as end:
            code = end.exit_code
        except typer.Abort:
            raise KeyboardInterrupt from None
        except _USAGE_ERRORS as error:
            print(f"error: {printable(error.format_message())} (see --help)", file=sys.stderr)
            code = ExitCode.WRONG_INPUT
        if code == ExitCode.INTERRUPTED:  # what an interrupt becomes in Typer
            raise KeyboardInterrupt
        if isinstance(code, int) and code:
            sys.exit(code)


def permission(allowed: bool) -> Permission | None:
    """Return the permission to run programs of models, if the user gave it on the command line."""
    return Permission(FLAG) if allowed else None


def accept_keys(pairs: Sequence[str] | None) -> None:
    """Let keys go to the servers that the user named on the command line."""
    if pairs:
        from gra.config.keys import allow_keys

        allow_keys(pairs)


def load_plugins(files: Sequence[Path] | None) -> None:
    """Run the Python files that the user named on the command line."""
    if files:
        from gra.api.verifiers import load_plugin

        for file in files:
            load_plugin(file)


def show_summary(summary: dict[str, Any], shown: RenderableType | None, *, as_json: bool) -> None:
    """Print a summary as JSON on standard output, or as a table on standard error."""
    if as_json:
        show_json(summary)
    elif shown is not None:
        Console(stderr=True).print(shown)


def show_json(content: object) -> None:
    """Print JSON in ASCII, so that no text of others steers a terminal."""
    print(json.dumps(content, indent=2).replace("\x7f", "\\u007f"))


def show_line(text: object, *, error: bool = False) -> None:
    """Print a line that may hold foreign text."""
    print(printable(text), file=sys.stderr if error else sys.stdout)
