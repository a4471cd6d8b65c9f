"""Read students of trusted seeds: their checkpoints from early to late, and the seeds that they did not learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra.core.errors import DataError, Mismatch, ModelUnavailable, RecipeError
from gra.core.files import refuse_special_files
from gra.core.hashing import file_digest
from gra.core.run_folder import RunFolder
from gra.training.checkpoints import whole_checkpoints
from gra.training.data.dataset import Row, read_rows, split_rows

MIN_CHECKPOINTS = 6  # fewer show where the student ended, not how it got there
_ADVICE = (
    "train it with `train.save_steps: 0.125` and `train.save_total_limit: null`, as recipes/systems/curation/sft does"
)


@dataclass(frozen=True)
class TrustedStudent:
    """A student of trusted seeds.

    Attributes:
        folder: what training wrote; it holds the tokenizer with the chat template.
        base: the folder of the weights that training began from.
        identity: of these weights.
        template: fingerprint of the chat template.
        dtype: that the weights are loaded in.
        checkpoints: step and folder, in the order of training.
        heldout: trusted rows that it did not learn from.
    """

    folder: Path
    base: Path
    identity: str
    template: str
    dtype: str
    checkpoints: list[tuple[int, Path]]
    heldout: list[Row]


def read_student(folder: Path, dataset: Path) -> TrustedStudent:
    """Read a trained student, and check that it can judge a dataset; nothing is loaded or asked.

    Args:
        folder: what `gra train` wrote.
        dataset: the file of the rows to be judged.

    Raises:
        DataError: when the folder holds no finished training, or its rows are gone.
        RecipeError: when checkpoints or held-out seeds are missing, or the student learned from the dataset itself.
        Mismatch: when its rows have changed since.
        ModelUnavailable: when the weights that it began from are gone.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; give the folder of a student that `gra train` wrote")
    refuse_special_files(folder)
    section = RunFolder(folder).manifest().get("training")
    if section is None:
        raise DataError(f"{folder} holds no finished training; train the student to its end, on seeds alone")
    if section["method"] != "sft":
        raise RecipeError(f"{folder} was trained by `method: {section['method']}`; curation needs `method: sft`")
    checkpoints = whole_checkpoints(folder / "checkpoints")
    _check_steps(folder, checkpoints, int(section["metrics"]["steps"]))
    heldout = _heldout(folder, section, dataset)
    base = Path(section["model"]["path"])
    if not base.is_dir():
        raise ModelUnavailable(
            f"{base}, from which {folder} was trained, is gone; get {section['model']['name']} again"
        )
    inputs = section["inputs"]
    return TrustedStudent(
        folder, base, section["model"]["identity"], section["template"], inputs["model.dtype"], checkpoints, heldout
    )


def _check_steps(folder: Path, checkpoints: list[tuple[int, Path]], steps: int) -> None:
    if len(checkpoints) < MIN_CHECKPOINTS:
        found = f"{len(checkpoints)} whole checkpoints" if checkpoints else "no checkpoints"
        raise RecipeError(f"{folder} has {found}, and curation needs at least {MIN_CHECKPOINTS}; {_ADVICE}")
    first = checkpoints[0][0]
    if first > 2 * steps / len(checkpoints):
        raise RecipeError(
            f"{folder} has its first checkpoint at step {first} of {steps}, and dynamics begin early; {_ADVICE}"
        )


def _heldout(folder: Path, section: dict[str, Any], dataset: Path) -> list[Row]:
    """Return the trusted rows that training held out."""
    digest = file_digest(dataset)
    sources = []
    for source in section["data"]:
        path, weight = Path(source["path"]), float(source["weight"])
        if source["sha256"] == digest:
            raise RecipeError(f"{folder} was trained on {dataset} itself; train the student on seeds alone")
        if not path.is_file():
            raise DataError(f"{path}, from which {folder} was trained, is gone; put it back, or train again")
        if file_digest(path) != source["sha256"]:
            raise Mismatch(f"{path} is not the file that {folder} was trained on; put it back, or train again")
        sources.append((read_rows(path), weight))
    fraction = float(section["inputs"].get("data.holdout.fraction", 0.0))
    if not fraction:
        raise RecipeError(
            f"{folder} learned from all of its seeds, and the threshold comes from seeds that it did not learn from; "
            "train it with `data.holdout.fraction: 0.5`"
        )
    return split_rows(sources, fraction, int(section["inputs"]["data.holdout.seed"])).heldout
