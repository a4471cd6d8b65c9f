"""Find out whether a model is a reward model or classifier, from its config.json and the headers of its weights."""

from __future__ import annotations

from pathlib import Path

from gra.core.errors import RecipeError
from gra.models.weights import read_object, tensors_in

_SUFFIX = "ForSequenceClassification"
_HEADS = frozenset({"score", "classifier", "classification_head", "head"})  # names of the head in Transformers' models
_MOST_LABELS = 2
_MAKE_ONE = "train a reward model with `method: reward` (see docs/training.md), or name another"


def classifier_of(path: Path) -> str | None:
    """Return the class of a model that classifies texts, such as LlamaForSequenceClassification; None for others.

    Args:
        path: the model's folder.

    Raises:
        RecipeError: its config.json cannot be read.
    """
    return next((name for name in _architectures(path) if name.endswith(_SUFFIX)), None)


def require_reward_head(name: str, path: Path) -> None:
    """Require a head that gives a reward: one number for a text, or two labels.

    Args:
        name: the model as the recipe names it.
        path: its folder.

    Raises:
        RecipeError: there is no such head.
    """
    kind = classifier_of(path)
    if kind is None:
        found = " and ".join(_architectures(path)) or "no architecture"
        raise RecipeError(
            f"`{name}` has no reward head: its config.json names {found}, and `ask: reward` needs a class that ends in "
            f"{_SUFFIX}; {_MAKE_ONE}"
        )
    labels = _labels(path)
    if not 1 <= labels <= _MOST_LABELS:
        raise RecipeError(
            f"`{name}` is a classifier with {labels} labels, and `ask: reward` reads a reward from 1 label or 2; "
            f"{_MAKE_ONE}"
        )
    tensors = {tensor for file in path.glob("*.safetensors") for tensor in tensors_in(file)}
    if tensors and not any(_HEADS & set(tensor.split(".")) for tensor in tensors):
        raise RecipeError(
            f"`{name}` has no reward head: its config.json names {kind}, and none of its tensors is a head (score, "
            f"classifier); {_MAKE_ONE}"
        )


def refuse_reward_model(name: str, path: Path, what: str) -> None:
    """Refuse a reward model or classifier where text has to be written.

    Args:
        name: the model as the user names it.
        path: its folder.
        what: what it cannot do and what to do instead, as the end of the sentence.

    Raises:
        RecipeError: the model is one.
    """
    if (kind := classifier_of(path)) is not None:
        raise RecipeError(f"`{name}` is a reward model or classifier ({kind}), which writes no text; {what}")


def _architectures(path: Path) -> list[str]:
    if not (path / "config.json").is_file():
        return []
    try:
        names = read_object(path / "config.json").get("architectures")
    except ValueError as error:
        raise RecipeError(f"{error}; get the model again") from None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _labels(path: Path) -> int:
    """Return the number of labels; a configuration that names none has two, as in Transformers."""
    config = read_object(path / "config.json")
    named, count = config.get("id2label"), config.get("num_labels")
    if isinstance(named, dict):
        return len(named)
    return count if isinstance(count, int) else 2
