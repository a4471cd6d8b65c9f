"""Where a recipe's seeds are: a file, or a dataset on the hub, of which a copy is kept as JSONL.

A copy is taken once and used from then on, so that a run and its resumes read the same rows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gra.core.errors import DataError
from gra.core.hub import hub_reachable
from gra.core.manifest import digest
from gra.core.recipe import find_file
from gra.core.schema import SeedSource
from gra.core.store import Progress, building, cache_dir, damage, locked, read_seal, switched_on
from gra.data.seed_files import ENDINGS

_ROWS = "rows.jsonl"
_SEAL = "gra-seeds.json"


def find_seeds(source: SeedSource, recipe: Path | str, progress: Progress | None = None) -> Path:
    """The file with a recipe's seeds, downloaded when they are on the hub and not here yet.

    Raises:
        RecipeError: there is no such file.
        DataError: the dataset cannot be had.
    """
    name = source.source
    if name.lower().endswith(ENDINGS) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or Path(name).exists():
        return find_file(name, recipe)
    return _from_hub(source, progress or (lambda text: None))


def _from_hub(source: SeedSource, say: Progress) -> Path:
    which = digest([source.source, source.config, source.split, source.revision])[:12]
    target = cache_dir() / "seeds" / f"{source.source.replace('/', '--')}-{which}"
    with locked("seeds", say):
        seal = read_seal(target, _SEAL)
        if seal is None or damage(target, seal) is not None:
            _copy(source, target, say)
    return target / _ROWS


def _copy(source: SeedSource, target: Path, say: Progress) -> None:
    where = f"`seeds.source: {source.source}` ({source.split})"
    if switched_on("GRA_OFFLINE") or switched_on("HF_HUB_OFFLINE") or not hub_reachable():
        raise DataError(
            f"{where} is neither a file nor in the cache, and the hub cannot be reached or is switched off; "
            f"give a file that ends in {', '.join(ENDINGS)}"
        )
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    say(f"seeds: downloading {source.source} ({source.split})")
    try:
        rows = load_dataset(source.source, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"{where} could not be loaded from the hub: {error}") from error
    with building(target, _SEAL) as (making, facts):
        with (making / _ROWS).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=_unwritten) + "\n" for row in rows)
        facts.update(source=source.model_dump(include={"source", "config", "split", "revision"}), rows=len(rows))


def _unwritten(value: Any) -> str:
    """Stands for what JSON cannot hold, such as an image; a column that seeds are read from is never one."""
    return f"<{type(value).__name__}>"
