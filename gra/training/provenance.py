"""Record a student's origin: its data back to the ledger, its hardware, and a recipe that pins both."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gra.config.loader import Loaded
from gra.config.training import TrainRecipe
from gra.core.errors import DataError
from gra.core.run_folder import MANIFEST, RunFolder
from gra.core.stored.resolved_recipe import find_ledger

_FACTS = ("fingerprint", "name", "arm", "states", "models", "prompts")


def origin_of(file: Path) -> dict[str, Any] | None:
    """Return the run that made a data file, and its ledger; None when no manifest lists the file.

    A dataset is in `dataset/` of its run folder.
    """
    file = file.resolve()
    for folder in list(file.parents)[:2]:
        if not (folder / MANIFEST).is_file():
            continue
        for section, content in RunFolder(folder).manifest().items():
            name = str(file.relative_to(folder))
            if not isinstance(content, dict) or name not in content.get("files", {}):
                continue
            ledger = None
            with suppress(DataError):  # a finished training must not fail because of the folder of its data
                ledger = find_ledger(folder)
            return {
                "run": str(folder),
                "stage": section,
                "sha256_when_written": content["files"][name],
                "ledger": None if ledger is None else str(ledger),
                **{key: content[key] for key in _FACTS if key in content},
            }
    return None


def hardware() -> dict[str, Any]:
    """Return the devices of this machine that training can use."""
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "gpus": [{"name": gpu.name, "gb": round(gpu.total_memory / 1e9, 1)} for gpu in gpus],
        "threads": torch.get_num_threads(),
    }


def gpu_hours(processes: int, seconds: float, on_gpu: bool) -> float | None:
    """Return GPU-hours, or None for a run on the CPU."""
    return round(processes * seconds / 3600, 4) if on_gpu else None


def pinned(loaded: Loaded[TrainRecipe], section: Mapping[str, Any]) -> Loaded[TrainRecipe]:
    """Return the recipe with the weights, files and template of this run pinned.

    Read again from any folder, it refuses other weights and other data.
    """
    recipe = loaded.recipe
    files = zip(recipe.data.train, section["data"], strict=True)
    sources = [
        source.model_copy(update={"path": str(Path(file["path"]).resolve()), "sha256": file["sha256"]})
        for source, file in files
    ]
    changes: dict[str, Any] = {"identity": section["model"]["identity"], **_commit(recipe.model, section["model"])}
    if recipe.model.chat_template is not None and not recipe.model.chat_template.startswith("builtin:"):
        changes["chat_template"] = "chat_template.jinja"  # the tokenizer's copy, beside the recipe
    if recipe.model.adapter is not None:
        changes["adapter"] = section["adapter_from"]
    if Path(recipe.model.name).exists():
        changes["name"] = str(Path(recipe.model.name).resolve())
    parts: dict[str, Any] = {
        "model": recipe.model.model_copy(update=changes),
        "data": recipe.data.model_copy(update={"train": sources}),
    }
    if recipe.teacher is not None:
        parts["teacher"] = recipe.teacher.model_copy(update=_commit(recipe.teacher, section["teacher"]))
    if recipe.fusion is not None:
        teachers = [
            teacher.model_copy(update=_commit(teacher, weights))
            for teacher, weights in zip(recipe.fusion.teachers, section["fusion"]["teachers"], strict=True)
        ]
        parts["fusion"] = recipe.fusion.model_copy(update={"teachers": teachers})
    return Loaded(recipe.model_copy(update=parts), loaded.path, loaded.origins)


def _commit(model: Any, weights: Mapping[str, Any]) -> dict[str, str]:
    """Return the hub's commit of weights that were named without a commit."""
    kind, _, place = weights["identity"].partition(":")
    named = model.revision is not None or "@" in model.name
    return {"revision": place.rpartition("@")[2]} if kind == "hub" and not named else {}
