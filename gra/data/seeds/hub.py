"""Find a recipe's seeds: a file, or a dataset on the hub that is copied as JSONL.

A dataset is copied once, so that a run and its resumes read the same rows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gra.config.loader import find_file
from gra.config.synthesis import SeedsConfig
from gra.core.errors import DataError, GraError, HubUnavailable, RecipeError, from_system
from gra.core.hashing import digest
from gra.data.seeds.files import ENDINGS
from gra.downloads.cache import Progress, building, cache_dir, damage, locked, read_seal, switched_on
from gra.downloads.hub import hub_reachable, name_problem

_ROWS = "rows.jsonl"
_SEAL = "gra-seeds.json"


def find_seeds(source: SeedsConfig, recipe: Path | str, progress: Progress | None = None) -> Path:
    """Return the file with a recipe's seeds, downloaded from the hub when it is not here yet.

    Raises:
        RecipeError: There is no such file, and no dataset can have this name.
        HubUnavailable: The dataset cannot be had.
        DataError: The dataset has no such part, or is damaged.
    """
    name = source.source
    if name.lower().endswith(ENDINGS) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or Path(name).exists():
        return find_file(name, recipe)
    if problem := name_problem(name):
        raise RecipeError(f"`seeds.source: {name}` is no file, nor a dataset's name on the hub ({problem})", recipe)
    return _from_hub(source, progress or (lambda text: None))


def seeds_on_disk(source: SeedsConfig, recipe: Path | str) -> Path | None:
    """Return the file with a recipe's seeds where it is on this machine; nothing is downloaded.

    Args:
        source: the recipe's `seeds`.
        recipe: the recipe's file, whose folder is looked into too.
    """
    if (copied := _copied(source) / _ROWS).is_file():
        return copied
    try:
        file = find_file(source.source, recipe)
    except (RecipeError, OSError, ValueError):  # ValueError: a path that no system has
        return None
    return file if file.is_file() else None


def _copied(source: SeedsConfig) -> Path:
    """Return the folder of the cache that a dataset of the hub is copied to."""
    which = digest([source.source, source.config, source.split, source.revision])[:12]
    return cache_dir() / "seeds" / f"{source.source.replace('/', '--')}-{which}"


def _from_hub(source: SeedsConfig, say: Progress) -> Path:
    target = _copied(source)
    with locked("seeds", say):
        seal = read_seal(target, _SEAL)
        if seal is None or damage(target, seal) is not None:
            _copy(source, target, say)
    return target / _ROWS


def _copy(source: SeedsConfig, target: Path, say: Progress) -> None:
    where = f"`seeds.source: {source.source}` ({source.split})"
    if switched_on("GRA_OFFLINE") or switched_on("HF_HUB_OFFLINE") or not hub_reachable():
        raise HubUnavailable(
            f"{where} is neither a file nor in the cache, and the hub cannot be reached or is switched off; "
            f"connect to it, or give a file that ends in {', '.join(ENDINGS)}"
        )
    import httpx
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    say(f"seeds: downloading {source.source} ({source.split})")
    try:
        rows = load_dataset(source.source, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError, DatasetsError, httpx.HTTPError) as error:
        raise _failure(where, error) from error
    with building(target, _SEAL) as (making, facts):
        with (making / _ROWS).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=_unwritten) + "\n" for row in rows)
        facts.update(source=source.model_dump(include={"source", "config", "split", "revision"}), rows=len(rows))


def _failure(where: str, error: Exception) -> GraError:
    """Return the error of a dataset that was not copied: the disk, the hub, or a wrong setting."""
    import httpx
    from datasets.exceptions import DatasetGenerationError

    cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
    if isinstance(cause, OSError) and (known := from_system(cause)):
        return known
    said = " ".join(str(cause).split())
    if isinstance(cause, (OSError, httpx.HTTPError)):
        return HubUnavailable(
            f"{where} could not be had from the hub ({said or type(cause).__name__}); check the name, log in with "
            "`hf auth login` when it is private or gated, or run the same command again when the hub answers"
        )
    return DataError(f"{where} could not be loaded from the hub: {said}; check `seeds.config`, `split` and `revision`")


def _unwritten(value: Any) -> str:
    """Return a placeholder for values that JSON cannot hold, such as images; seeds are never read from them."""
    return f"<{type(value).__name__}>"
