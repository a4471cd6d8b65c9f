"""Turn rows into tokens with the chat template, and mark the answer and its stop token for the loss.

Training and inference must read the same prompt: a prompt's tokens are a prefix of its row's tokens. The answer ends
with the token on which generation stops. Rows that do not fit the template are set aside and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gra.config.loader import Loaded, find_file
from gra.config.training import TrainRecipe
from gra.core.errors import DataError, RecipeError
from gra.core.files import read_regular
from gra.core.processes.rendering import TemplateTooSlow, limited_rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gra.training.data.dataset import Row

RowT = TypeVar("RowT", bound="Row")
IGNORED = -100  # the label of a token outside the loss
_BUILTIN = "builtin:"
_SHOWN = 5


class RowMisfit(DataError):
    """One row cannot be written with the chat template as it stands."""


@dataclass
class Encoded:
    """Rows as `input_ids` and `labels`, with counts of rows that were cut, dropped or set aside."""

    columns: dict[str, Any] = field(default_factory=lambda: {"input_ids": [], "labels": []})
    truncated: int = 0
    dropped: int = 0
    set_aside: list[str] = field(default_factory=list)  # a row's file, number and problem
    largest: tuple[int, str] = (-1, "")  # the largest token number, and the row that has it
    rows: list[Row] = field(default_factory=list)  # the rows that `encode` made the columns of

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def lengths(self) -> list[int]:
        """Return the tokens of each row."""
        return [len(ids) for ids in self.columns["input_ids"]]

    def counts(self) -> dict[str, int]:
        """Count rows, tokens and tokens in the loss, and rows that were cut, dropped or set aside."""
        in_loss = sum(label != IGNORED for labels in self.columns["labels"] for label in labels)
        return self._counts(sum(self.lengths()), in_loss)

    def _counts(self, tokens: int, in_loss: int) -> dict[str, int]:
        return {
            "rows": len(self),
            "tokens": tokens,
            "loss_tokens": in_loss,
            "truncated": self.truncated,
            "dropped": self.dropped,
            "set_aside": len(self.set_aside),
        }

    def note(self) -> str:
        """Return a sentence that names the rows that were set aside; empty when there are none."""
        if not self.set_aside:
            return ""
        rows = list(dict.fromkeys(self.set_aside))  # a weight repeats rows
        more = f"\n  and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        return f"rows that do not fit the chat template: {len(rows)}\n  " + "\n  ".join(rows[:_SHOWN]) + more


def tokenized(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[RowT], encoded: Encoded, max_bad: float
) -> Iterator[tuple[RowT, list[int], list[list[int]]]]:
    """Yield each row that fits the template with the tokens of its prompt and of its answers.

    Args:
        tokenizer: The student's, with its chat template.
        rows: Read rows.
        encoded: Notes the rows that are set aside and the largest token number.
        max_bad: The share of rows that may be set aside; one row always may, unless the share is 0.

    Yields:
        The row, the prompt's tokens, and the tokens of each answer with its stop token.

    Raises:
        DataError: When more rows do not fit.
        RecipeError: When the template never ends an answer with the stop token, or begins with `bos` twice.
    """
    own = template_tokens(tokenizer)
    for row in rows:
        try:
            sides = [(prompt, whole[len(prompt) :]) for prompt, whole in (
                _tokens_of(tokenizer, one, own) for one in row.alternatives()
            )]  # fmt: skip
        except RowMisfit as misfit:
            encoded.set_aside.append(str(misfit))
            continue
        prompt = sides[0][0]
        top = max(prompt + [token for _, answer in sides for token in answer])
        encoded.largest = max(encoded.largest, (top, row.origin))
        yield row, prompt, [answer for _, answer in sides]
    if len(encoded.set_aside) > (max(1, int(max_bad * len(rows))) if max_bad else 0):
        raise DataError(
            f"{encoded.note()}\n  `data.max_bad` is {max_bad:g}, the share of rows that may be set aside; remove these "
            "rows, or use another `model.chat_template`"
        )


def student_tokenizer(folder: Path, loaded: Loaded[TrainRecipe], remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the student's tokenizer from `folder`, with the recipe's chat template and stop token.

    Raises:
        RecipeError: As `chat_tokenizer`.
    """
    model = loaded.recipe.model
    eos = loaded.recipe.train.get("eos_token")
    return chat_tokenizer(folder, model.name, model.chat_template, loaded.path, eos=eos, remote_code=remote_code)


def chat_tokenizer(
    folder: Path,
    name: str,
    template: str | None,
    recipe: Path,
    *,
    key: str = "model",
    eos: str | None = None,
    remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `folder` with a chat template and a padding token.

    Args:
        folder: The model's.
        name: The model as the recipe names it.
        template: A file or a built-in template; None keeps the model's own.
        recipe: The recipe's file.
        key: The section of the recipe that names the model.
        eos: The stop token; None keeps the model's own.
        remote_code: Whether code of the model may run.

    Raises:
        RecipeError: When there is no chat template, no end-of-sequence token, or the file is not there.
    """
    from gra.models.chat import check_template, load_tokenizer, load_tokenizer_once

    load = load_tokenizer_once if eos is None else load_tokenizer
    tokenizer = load(folder, remote_code=remote_code)
    if eos is not None:
        if eos not in tokenizer.get_vocab():
            raise RecipeError(f"`train.eos_token: {eos!r}` is not a token of {name}", recipe)
        tokenizer.eos_token = eos
    if tokenizer.eos_token is None:
        advice = "set `train.eos_token`" if key == "model" else "name another teacher"
        raise RecipeError(f"{name} has no stop token; {advice}", recipe)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if template is not None:
        try:
            tokenizer.chat_template = read_regular(_template_file(template, recipe, key))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"`{key}.chat_template: {template}` cannot be read ({error})", recipe) from None
    if not tokenizer.chat_template:
        raise RecipeError(
            f"{name} has no chat template of its own; set `{key}.chat_template: builtin:plain` or a .jinja file",
            recipe,
        )
    check_template(tokenizer, f"`{template}`" if template is not None else f"of {name}")
    return tokenizer


def _template_file(name: str, recipe: Path, key: str) -> Path:
    if not name.startswith(_BUILTIN):
        return find_file(name, recipe)
    folder = Path(__file__).parents[2] / "models" / "templates"
    path = folder / f"{name.removeprefix(_BUILTIN)}.jinja"
    if not path.is_file():
        known = ", ".join(_BUILTIN + file.stem for file in sorted(folder.glob("*.jinja")))
        raise RecipeError(f"`{key}.chat_template: {name}` does not exist; the built-in templates are {known}", recipe)
    return path


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return twelve hex digits that change with the template or the stop token."""
    return hashlib.sha256(f"{tokenizer.chat_template}\0{tokenizer.eos_token}".encode()).hexdigest()[:12]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any]) -> list[int]:
    """Return the tokens before an answer, as at inference: the template writes every special token.

    Raises:
        RowMisfit: When the template refuses the messages.
    """
    return _ids(tokenizer, _rendered(tokenizer, messages, prompt=True))


def encode(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int | None, max_bad: float = 0.0
) -> Encoded:
    """Tokenize rows; only the answer and its stop token carry labels.

    Args:
        tokenizer: The student's, with its chat template.
        rows: Read rows.
        max_length: Tokens of a row; the rest is cut.
        max_bad: The share of rows that may be set aside because they do not fit the template.

    Raises:
        DataError, RecipeError: As `tokenized`.
    """
    encoded = Encoded()
    for row, prompt, (answer,) in tokenized(tokenizer, rows, encoded, max_bad):
        whole, labels = prompt + answer, [IGNORED] * len(prompt) + answer
        if max_length is not None and len(whole) > max_length:
            encoded.truncated += 1
            whole, labels = whole[:max_length], labels[:max_length]
        if all(label == IGNORED for label in labels):
            encoded.dropped += 1
            continue
        encoded.columns["input_ids"].append(whole)
        encoded.columns["labels"].append(labels)
        encoded.rows.append(row)
    return encoded


def show_row(tokenizer: PreTrainedTokenizerBase, encoded: Encoded, index: int = 0) -> str:
    """Return one decoded row, with the part in the loss between marks."""
    ids, labels = encoded.columns["input_ids"][index], encoded.columns["labels"][index]
    start = next(place for place, label in enumerate(labels) if label != IGNORED)
    return f"{tokenizer.decode(ids[:start])}⟦{tokenizer.decode(ids[start:])}⟧"


def template_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the control tokens that the chat template writes around messages, such as <|im_end|>."""
    control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    written = set(tokenizer.convert_ids_to_tokens(_ids(tokenizer, sample_text(tokenizer))))
    return frozenset(control & (written | {tokenizer.eos_token}))


def sample_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the chat template makes of a short exchange; empty when it refuses every form of it."""
    system, asked = {"role": "system", "content": "a"}, {"role": "user", "content": "b"}
    answered = {"role": "assistant", "content": "c"}
    texts = []
    for messages in ([system, asked, answered], [asked, answered], [asked]):
        try:
            texts.append(_rendered(tokenizer, messages, prompt=messages[-1] is asked))
        except RowMisfit:
            continue
    return "\n".join(texts)


def _tokens_of(tokenizer: PreTrainedTokenizerBase, row: Row, own: frozenset[str]) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt, and of prompt and answer together.

    Raises:
        RowMisfit: When the template refuses the row, changes its answer, or reads its text as control tokens.
        RecipeError: When the template itself is wrong for this tokenizer.
    """
    for message in (*row.prompt, *row.completion):
        for token in sorted(own):
            if token in message["content"]:
                raise RowMisfit(
                    f"{row.origin}: the message of the {message['role']} contains {token}, with which the chat "
                    "template marks turns; remove it from the text"
                )
    try:
        prompt = _ids(tokenizer, _rendered(tokenizer, row.prompt, prompt=True))
        text = _rendered(tokenizer, [*row.prompt, *row.completion])
    except RowMisfit as misfit:
        raise RowMisfit(f"{row.origin}: {misfit}") from None
    whole = _ids(tokenizer, text)
    if whole[: len(prompt)] != prompt:
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise RowMisfit(
            f"{row.origin}: the prompt's tokens are not a prefix of the row's; they part at "
            f"{tokenizer.decode(prompt[same:])!r} against {tokenizer.decode(whole[same : same + 8])!r}. The model "
            "would be trained on another prompt than it is asked with: remove white space at the start of the answer, "
            "or use another `model.chat_template`"
        )
    answer = row.completion[-1]["content"]
    if "".join(answer.split()) not in "".join(text.split()):
        raise RowMisfit(
            f"{row.origin}: the chat template leaves out or changes a part of the answer; use another "
            "`model.chat_template`"
        )
    _check_special_tokens(tokenizer, row, prompt, whole)
    return prompt, whole


def _check_special_tokens(tokenizer: PreTrainedTokenizerBase, row: Row, prompt: list[int], whole: list[int]) -> None:
    """Check that the row begins as the model's texts do and that its answer ends with one stop token.

    Raises:
        RowMisfit, RecipeError: When it does not.
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
        raise RowMisfit(f"{row.origin}: the answer contains {tokenizer.eos_token}, the stop token, as text; remove it")


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], *, prompt: bool = False) -> str:
    """Return messages as the chat template writes them; `prompt` adds the beginning of an answer.

    Raises:
        RowMisfit: When the template refuses the messages.
    """
    try:
        with limited_rendering():
            text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
        text.encode()
    except TemplateTooSlow:
        raise
    except Exception as error:  # the author of a template chooses what it raises
        raise RowMisfit(f"the chat template refuses this row ({error})") from None
    return text


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
