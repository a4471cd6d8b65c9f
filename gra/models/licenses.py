"""Check that licenses were accepted before weights are fetched: by recipe, environment, or once at the prompt."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from gra.core.errors import RecipeError
from gra.downloads.cache import cache_dir
from gra.models.entries import CatalogEntry

_FILE = "accepted-licences.json"


def require_license(entry: CatalogEntry, accepted: Sequence[str]) -> None:
    """Check that the user accepted the license of `entry`; ask once when there is a terminal.

    Raises:
        RecipeError: it was not accepted; the message names the terms and the three ways to accept them.
    """
    if not entry.ask_licence or entry.licence in {*accepted, *_from_environment(), *_remembered()}:
        return
    if sys.stdin.isatty() and sys.stderr.isatty() and _ask(entry):
        _remember(entry)
        return
    raise RecipeError(
        f"{entry.name} comes under the `{entry.licence}` license ({entry.licence_url}), which you have not accepted. "
        f"Read it, then put `accept_licenses: [{entry.licence}]` into the recipe (where there is none: "
        f"`--accept-license {entry.licence}`) or set GRA_ACCEPT_LICENSES={entry.licence}; or choose another model"
    )


def _from_environment() -> list[str]:
    # Release 0.1 spelled the second name, which still works.
    given = [os.environ.get(name, "") for name in ("GRA_ACCEPT_LICENSES", "GRA_ACCEPT_LICENCES")]
    return " ".join(given).replace(",", " ").split()


def _remembered() -> list[str]:
    try:
        return list(json.loads((cache_dir() / _FILE).read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return []


def _ask(entry: CatalogEntry) -> bool:
    sys.stderr.write(f"{entry.name} comes under these terms: {entry.licence_url}\nDo you accept them? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remember(entry: CatalogEntry) -> None:
    file = cache_dir() / _FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps({**{name: "" for name in _remembered()}, entry.licence: entry.licence_url}, indent=2))
    new.replace(file)
