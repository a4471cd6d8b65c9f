"""Find the checkpoint that a run resumes from: a complete one of the same run.

The trainer writes a checkpoint file by file, so a killed process leaves a folder that only looks complete. A seal with
the size of every file is written last. A checkpoint without a matching seal is not used. The seal also holds the
run's inputs, so that the checkpoint of another run is refused.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.errors import Mismatch
from gra.core.files import write_json

SEAL = "gra_checkpoint.json"
_STATE = "trainer_state.json"
Inputs = Mapping[str, Any]  # flat: "train.learning_rate" -> value


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, the seconds of training that led to it, and the trainer's state."""

    path: Path
    seconds: float
    state: dict[str, Any]


def seal(checkpoint: Path, inputs: Inputs, seconds: float) -> None:
    """Mark a checkpoint as complete.

    Args:
        checkpoint: Its folder.
        inputs: Of the run.
        seconds: Training time that led to it, over all resumes.
    """
    write_json(checkpoint / SEAL, {"inputs": dict(inputs), "seconds": seconds, "sizes": _sizes(checkpoint)})


def newest_whole(folder: Path, inputs: Inputs) -> Checkpoint | None:
    """Return the last sealed checkpoint of this run, or None to start at step 0.

    Raises:
        Mismatch: When it was made from other inputs; the message names what differs.
    """
    for checkpoint in sorted(_checkpoints(folder), key=_step, reverse=True):
        sealed = _read_seal(checkpoint)
        if sealed is None or sealed["sizes"] != _sizes(checkpoint):
            continue
        refuse_difference(checkpoint, sealed["inputs"], inputs)
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        return Checkpoint(checkpoint, float(sealed["seconds"]), state)
    return None


def whole_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return step and folder of every complete checkpoint, in the order of training."""
    whole = []
    for checkpoint in sorted(_checkpoints(folder), key=_step):
        sealed = _read_seal(checkpoint)
        if sealed is not None and sealed["sizes"] == _sizes(checkpoint):
            whole.append((_step(checkpoint), checkpoint))
    return whole


def remove_broken(folder: Path) -> list[str]:
    """Delete incomplete checkpoints and return their names."""
    broken = []
    for checkpoint in _checkpoints(folder):
        sealed = _read_seal(checkpoint)
        if sealed is None or sealed["sizes"] != _sizes(checkpoint):
            shutil.rmtree(checkpoint)
            broken.append(checkpoint.name)
    return sorted(broken)


def refuse_difference(place: Path, before: Inputs, now: Inputs) -> None:
    """Compare the inputs that a folder was made from with the inputs of this run.

    Raises:
        Mismatch: Naming every input that differs, with both values.
    """
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if not keys:
        return
    changes = "; ".join(f"{key} was {_shown(before.get(key))}, is now {_shown(now.get(key))}" for key in keys)
    raise Mismatch(f"{place} holds another training run: {changes}. Use `--fresh` to start over, or another --output")


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text  # the beginning of a digest is enough to distinguish it


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


def _read_seal(checkpoint: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((checkpoint / SEAL).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None
