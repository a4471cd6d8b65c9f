"""Rows as tokens: the chat template, the border between prompt and answer, and the stop token.

What is trained must be what is asked at inference: the tokens of the prompt are a prefix of the tokens
of the row, and the answer ends with the token on which generation stops, inside the loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra.config.loader import Loaded, find_file
from gra.config.training import TrainRecipe
from gra.core.errors import DataError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gra.training.data.dataset import Row

IGNORED = -100  # the label of a token outside the loss
_BUILTIN = "builtin:"


@dataclass
class Encoded:
    """Rows as `input_ids` and `labels`, with what happened to them on the way."""

    columns: dict[str, Any] = field(default_factory=lambda: {"input_ids": [], "labels": []})
    truncated: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(ids) for ids in self.columns["input_ids"]]

    def counts(self) -> dict[str, int]:
        """Rows, tokens and tokens inside the loss; rows cut at `max_length`; rows with no answer left."""
        in_loss = sum(label != IGNORED for labels in self.columns["labels"] for label in labels)
        return self._counts(sum(self.lengths()), in_loss)

    def _counts(self, tokens: int, in_loss: int) -> dict[str, int]:
        return {
            "rows": len(self),
            "tokens": tokens,
            "loss_tokens": in_loss,
            "truncated": self.truncated,
            "dropped": self.dropped,
        }


def student_tokenizer(folder: Path, loaded: Loaded[TrainRecipe], remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder` with the recipe's chat template and a padding token.

    Raises:
        RecipeError: when there is no chat template, no end-of-sequence token, or the file is not there.
    """
    from gra.models.chat import check_template, load_tokenizer

    tokenizer = load_tokenizer(folder, remote_code=remote_code)
    eos = loaded.recipe.train.get("eos_token")
    if eos is not None:
        if eos not in tokenizer.get_vocab():
            raise RecipeError(f"`train.eos_token: {eos}` is not a token of {loaded.recipe.model.name}", loaded.path)
        tokenizer.eos_token = eos
    if tokenizer.eos_token is None:
        raise RecipeError(f"{loaded.recipe.model.name} has no stop token; set `train.eos_token`", loaded.path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    wanted = loaded.recipe.model.chat_template
    if wanted is not None:
        try:
            tokenizer.chat_template = _template_file(wanted, loaded.path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"`model.chat_template: {wanted}` cannot be read ({error})", loaded.path) from None
    if not tokenizer.chat_template:
        raise RecipeError(
            f"{loaded.recipe.model.name} has no chat template of its own; set `model.chat_template: builtin:plain` "
            "or a .jinja file",
            loaded.path,
        )
    check_template(tokenizer, f"`{wanted}`" if wanted is not None else f"of {loaded.recipe.model.name}")
    return tokenizer


def _template_file(name: str, recipe: Path) -> Path:
    if not name.startswith(_BUILTIN):
        return find_file(name, recipe)
    folder = Path(__file__).parents[2] / "models" / "templates"
    path = folder / f"{name.removeprefix(_BUILTIN)}.jinja"
    if not path.is_file():
        known = ", ".join(_BUILTIN + file.stem for file in sorted(folder.glob("*.jinja")))
        raise RecipeError(f"`model.chat_template: {name}` does not exist; the built-in templates are {known}", recipe)
    return path


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Twelve hex digits that change when the template or the stop token does."""
    return hashlib.sha256(f"{tokenizer.chat_template}\0{tokenizer.eos_token}".encode()).hexdigest()[:12]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any]) -> list[int]:
    """The tokens an answer follows, exactly as at inference: the template writes every special token."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return _ids(tokenizer, text)


def encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int | None) -> Encoded:
    """Tokenise rows; only the answer and its stop token carry labels.

    Raises:
        DataError: naming the row whose prompt is no prefix of the whole, or that writes the stop token itself.
        RecipeError: when the template never ends an answer with the stop token, or begins with `bos` twice.
    """
    encoded = Encoded()
    for row in rows:
        prompt, whole = border(tokenizer, row)
        check_special_tokens(tokenizer, row, prompt, whole)
        labels = [IGNORED] * len(prompt) + whole[len(prompt) :]
        if max_length is not None and len(whole) > max_length:
            encoded.truncated += 1
            whole, labels = whole[:max_length], labels[:max_length]
        if all(label == IGNORED for label in labels):
            encoded.dropped += 1
            continue
        encoded.columns["input_ids"].append(whole)
        encoded.columns["labels"].append(labels)
    return encoded


def show_row(tokenizer: PreTrainedTokenizerBase, encoded: Encoded, index: int = 0) -> str:
    """One decoded row; what the loss sees stands between the marks."""
    ids, labels = encoded.columns["input_ids"][index], encoded.columns["labels"][index]
    start = next(place for place, label in enumerate(labels) if label != IGNORED)
    return f"{tokenizer.decode(ids[:start])}⟦{tokenizer.decode(ids[start:])}⟧"


def border(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[list[int], list[int]]:
    """Tokens of the prompt and of prompt and answer together."""
    try:
        prompt = prompt_ids(tokenizer, row.prompt)
        text = tokenizer.apply_chat_template([*row.prompt, *row.completion], tokenize=False)
    except Exception as error:  # templates raise whatever their author chose
        raise DataError(f"{row.origin}: the chat template refuses this row ({error})") from None
    whole = _ids(tokenizer, text)
    if whole[: len(prompt)] != prompt:
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise DataError(
            f"{row.origin}: the prompt's tokens are not a prefix of the row's; they part at "
            f"{tokenizer.decode(prompt[same:])!r} against {tokenizer.decode(whole[same : same + 8])!r}. The model "
            "would be trained on another prompt than it is asked with: remove white space at the start of the answer, "
            "or use another `model.chat_template`"
        )
    return prompt, whole


def check_special_tokens(tokenizer: PreTrainedTokenizerBase, row: Row, prompt: list[int], whole: list[int]) -> None:
    """See that the row begins as the model's texts do and that its answer ends with one stop token.

    Raises:
        DataError, RecipeError: when it does not.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and whole[:2] == [bos, bos]:
        raise RecipeError(f"the chat template begins with {tokenizer.bos_token} twice; write it once or leave it out")
    if bos is not None and whole[0] != bos and tokenizer("a")["input_ids"][0] == bos:
        raise RecipeError(f"the chat template lacks {tokenizer.bos_token}, with which this model's texts begin; add it")
    stops = whole[len(prompt) :].count(eos)
    if stops == 0:
        raise RecipeError(
            f"the chat template does not end an answer with {tokenizer.eos_token}, on which generation stops, so the "
            "student would never learn to stop; use `model.chat_template: builtin:plain`, or set `train.eos_token` "
            "to the token that the template writes"
        )
    if stops > 1:
        raise DataError(f"{row.origin}: the answer contains {tokenizer.eos_token}, the stop token, as text; remove it")


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
