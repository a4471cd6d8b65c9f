"""Check that labels differ in the first token of the answer, before a model is asked for probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gra.core.errors import ModelUnavailable


def colliding_labels(path: Path, labels: Sequence[str]) -> tuple[str, str] | None:
    """Return two labels that begin with the same token, with or without a space before them; None without any.

    After a space, a token that is only the space itself begins every label alike, so it does not count.

    Args:
        path: the model's folder. Without a `tokenizer.json` there is nothing to compare, and the engine checks.
        labels: that the model chooses among.

    Raises:
        ModelUnavailable: the tokenizer's file cannot be used.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    first: dict[int, str] = {}
    try:
        tokenizer = Tokenizer.from_file(str(file))
        for label in labels:
            for written in (label, f" {label}"):
                tokens = tokenizer.encode(written, add_special_tokens=False).ids[:1]
                if not tokens or (written != label and not tokenizer.decode(tokens).strip()):
                    continue
                if first.setdefault(tokens[0], label) != label:
                    return first[tokens[0]], label
    except Exception as error:  # of a library that reads files written by others; it raises no narrower type
        raise ModelUnavailable(f"{file} cannot be used ({error}); get the model again") from None
    return None
