"""Find the resolved recipe and the ledger of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gra.core.errors import DataError, user_path
from gra.core.files import read_regular
from gra.core.stored.reader import check_type, damaged, load_plain_yaml
from gra.core.stored.types import ResolvedRecipe

RESOLVED = "recipe.resolved.yaml"
VERSIONS = "versions"  # folder of a run's further datasets, which have no ledger of their own


def read_resolved_recipe(folder: Path) -> dict[str, Any]:
    """Read the recipe with every value, as plain values; empty where the folder has none.

    Raises:
        DataError: it is damaged.
    """
    file = folder / RESOLVED
    if not file.is_file():
        return {}
    try:
        content = load_plain_yaml(read_regular(file))
    except (OSError, ValueError) as error:
        raise DataError(damaged(file, str(error))) from None
    return dict(check_type(content or {}, ResolvedRecipe, file))


def run_of_version(folder: Path) -> Path | None:
    """Return the run that a folder is a version of; None for a run of its own."""
    versions = folder.resolve().parent
    return versions.parent if versions.name == VERSIONS and (versions.parent / RESOLVED).is_file() else None


def find_ledger(folder: Path) -> Path | None:
    """Find the ledger of an arm: the one its recipe names, its own, or the one that its experiment's arms share.

    Raises:
        DataError: when the folder's recipe is damaged.
    """
    if (run := run_of_version(folder)) is not None and not (folder / "ledger.sqlite").is_file():
        return find_ledger(run)
    above = folder.resolve().parent.parent  # for runs/NAME what a recipe's path starts from
    places = [folder / "ledger.sqlite", folder.resolve().parent / "ledger.sqlite", above / "ledger.sqlite"]
    if named := read_resolved_recipe(folder).get("ledger"):
        path = user_path(named, f"`ledger` in {folder / RESOLVED}")
        places = [above / path, path.absolute(), *places]
    return next((file for file in places if file.is_file()), None)
