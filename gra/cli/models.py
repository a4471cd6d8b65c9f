"""`gra models` and `gra doctor`: which models there are, and what this machine has."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from gra.api.display import plain
from gra.cli.options import AsJson, Licenses, OldLicenses, show_json, show_line

_NARROW = 72  # columns that the table of models needs


def models(
    name: Annotated[str | None, typer.Argument(help="one catalog name, hub id or path")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="download and convert it now")] = False,
    accept_license: Licenses = None,
    accept_licence: OldLicenses = None,
    as_json: AsJson = False,
) -> None:
    """List the model catalog, or resolve one model."""
    from dataclasses import asdict

    from gra.config.problems import did_you_mean
    from gra.core.errors import RecipeError
    from gra.models.catalog import cached, entries, resolve

    if name is not None and fetch:
        licenses = [*(accept_license or []), *(accept_licence or [])]
        model = resolve(name, accept_licenses=licenses, progress=lambda text: show_line(text, error=True))
        show_json({key: str(value) for key, value in asdict(model).items()})
        return
    chosen = [entry for entry in entries() if name is None or entry.name == name]
    if not chosen:
        raise RecipeError(
            f"there is no model `{name}` in the catalog{did_you_mean(name or '', [e.name for e in entries()])}; "
            "a hub id or a path is looked up with --fetch"
        )
    if as_json:
        show_json([{"name": e.name, "cached": cached(e.name)} for e in chosen])
        return
    console = Console()
    if console.width < _NARROW:
        for each in chosen:
            known = {"here": cached(each.name), "from packages": bool(each.packages), each.licence: True}
            facts = ", ".join(fact for fact, true in known.items() if true)
            console.print(f"{each.name}\n  {each.hub_id}\n  {facts}", markup=False, highlight=False, overflow="fold")
        return
    table = Table(Column("name", no_wrap=True), "here", Column("hub id", overflow="fold"), "from packages", "license")
    for each in chosen:
        here, packaged = ("yes" if fact else "" for fact in (cached(each.name), each.packages))
        table.add_row(each.name, here, each.hub_id, packaged, each.licence)
    console.print(table)


def doctor() -> None:
    """Say what this machine has: versions, memory, GPU, cached models."""
    from gra.core.hardware import available_gb, gpu_memory_gb
    from gra.core.run_folder import environment
    from gra.models.catalog import cache_dir, cached, entries

    gpu = gpu_memory_gb()
    table = Table(show_header=False)
    for key, value in environment().items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(plain(key), plain(text))
    table.add_row("CPUs usable", str(len(os.sched_getaffinity(0))))
    table.add_row("memory available", f"{available_gb():.1f} GB")
    table.add_row("GPU", "none" if gpu is None else f"{gpu:.0f} GB")
    table.add_row("cache", plain(cache_dir()))
    table.add_row("models here", ", ".join(e.name for e in entries() if cached(e.name)) or "none")
    Console().print(table)
