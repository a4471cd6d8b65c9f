"""Whole run folders made by scripted models in this process, for the tests of what is done with finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scripted_run

from gra.synthesis.rounds import write_samples

RECIPE: dict[str, Any] = {
    "name": "one",
    "rounds": {"count": 1, "accept": 20, "max_candidates": 20},
    "review": {"comments": "disputed", "accept_mean": 6.0, "dispute_std": 1.0},
    "best_of": 2,
}


def synthesise(folder: Path, **changes: Any) -> Path:
    """A finished run folder of the recipe above with some keys changed."""
    with pytest.MonkeyPatch.context() as patch:
        # `make` puts stand-ins in their place; this puts the real ones back.
        patch.setattr(write_samples, "Embedder", write_samples.Embedder)
        patch.setattr(write_samples, "resolve", write_samples.resolve)
        scripted_run.write_job(folder, scripted_run.make_recipe(**RECIPE | changes))
        scripted_run.make(folder)
    return folder


def command(*arguments: str) -> int:
    """The exit code of `gra` with these arguments."""
    from gra.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code
