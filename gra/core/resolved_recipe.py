"""What a run folder says of the recipe that made it: its copy with every value, and the ledger of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gra.core.errors import DataError

RESOLVED = "recipe.resolved.yaml"


def read_resolved_recipe(folder: Path) -> dict[str, Any]:
    """The recipe with every value, as plain values; empty where the folder has none.

    Raises:
        DataError: when it is damaged.
    """
    file = folder / RESOLVED
    if not file.is_file():
        return {}
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}); run the stage that writes it again") from None


def find_ledger(folder: Path) -> Path | None:
    """The ledger an arm's answers are in: that of its recipe, its own, or the one its experiment's arms share.

    Raises:
        DataError: when the folder's recipe is damaged.
    """
    above = folder.resolve().parent.parent  # for runs/NAME what a recipe's path starts from
    places = [folder / "ledger.sqlite", folder.resolve().parent / "ledger.sqlite", above / "ledger.sqlite"]
    if isinstance(named := read_resolved_recipe(folder).get("ledger"), str) and named:
        places = [above / Path(named).expanduser(), Path(named).expanduser().absolute(), *places]
    return next((file for file in places if file.is_file()), None)
