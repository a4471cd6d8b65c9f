"""Encode rows for the methods that do not train on prompt and answer alone: pairs, and prompts without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gra.training.data.dataset import Row
from gra.training.data.tokenize import Encoded, prompt_ids, tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class EncodedPairs(Encoded):
    """Pairs in the form of TRL's preference collator."""

    columns: dict[str, Any] = field(default_factory=lambda: {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []})

    def __len__(self) -> int:
        return len(self.columns["prompt_ids"])

    def lengths(self) -> list[int]:
        """Return the tokens of each pair with its longer answer."""
        sides = zip(self.columns["chosen_ids"], self.columns["rejected_ids"], strict=True)
        prompts = self.columns["prompt_ids"]
        return [len(p) + max(len(c), len(r)) for p, (c, r) in zip(prompts, sides, strict=True)]

    def counts(self) -> dict[str, int]:
        """Return counts as for rows; a prompt counts twice because it is read with each answer."""
        answers = sum(len(ids) for side in ("chosen_ids", "rejected_ids") for ids in self.columns[side])
        return self._counts(answers + 2 * sum(map(len, self.columns["prompt_ids"])), answers)


@dataclass
class EncodedConversations(Encoded):
    """Pairs of whole conversations in the form of TRL's reward collator; the last token of each is scored."""

    columns: dict[str, Any] = field(default_factory=lambda: {"chosen_ids": [], "rejected_ids": []})

    def __len__(self) -> int:
        return len(self.columns["chosen_ids"])

    def lengths(self) -> list[int]:
        """Return the tokens of each pair's longer conversation."""
        sides = zip(self.columns["chosen_ids"], self.columns["rejected_ids"], strict=True)
        return [max(len(chosen), len(rejected)) for chosen, rejected in sides]

    def counts(self) -> dict[str, int]:
        """Return counts as for rows; the loss reads one token of each conversation."""
        tokens = sum(len(ids) for side in self.columns.values() for ids in side)
        return self._counts(tokens, 2 * len(self))


@dataclass
class EncodedPrompts(Encoded):
    """Prompts as messages, for trainers that write the answers, with their lengths in tokens."""

    columns: dict[str, Any] = field(default_factory=lambda: {"prompt": [], "completion": []})
    tokens: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def lengths(self) -> list[int]:
        """Return the tokens of each prompt."""
        return self.tokens

    def counts(self) -> dict[str, int]:
        """Return counts as for rows; the loss is on answers that the trainer writes later."""
        return self._counts(sum(self.tokens), 0)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Row], max_length: int | None, max_bad: float = 0.0
) -> EncodedPairs:
    """Tokenize pairs; both answers carry the loss.

    Args:
        tokenizer: The student's, with its chat template.
        pairs: Read pairs.
        max_length: Tokens of a prompt with either answer; the rest is cut.
        max_bad: The share of pairs that may be set aside because they do not fit the template.

    Raises:
        DataError, RecipeError: As `gra.training.data.tokenize.tokenized`.
    """
    encoded = EncodedPairs()
    for _, prompt, (chosen, rejected) in tokenized(tokenizer, pairs, encoded, max_bad):
        longest = len(prompt) + max(len(chosen), len(rejected))
        if max_length is not None and len(prompt) >= max_length:
            encoded.truncated += 1
            encoded.dropped += 1
            continue
        room = longest if max_length is None else max_length - len(prompt)
        encoded.truncated += max(len(chosen), len(rejected)) > room
        for name, ids in (("prompt", prompt), ("chosen", chosen[:room]), ("rejected", rejected[:room])):
            encoded.columns[f"{name}_ids"].append(ids)
    return encoded


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Row], max_length: int | None, max_bad: float = 0.0
) -> EncodedConversations:
    """Tokenize each pair as two whole conversations; a cut one would be scored in mid-answer, so it is dropped.

    Args:
        tokenizer: The student's, with its chat template.
        pairs: Read pairs.
        max_length: Tokens of a conversation; pairs with a longer one are dropped.
        max_bad: The share of pairs that may be set aside because they do not fit the template.

    Raises:
        DataError, RecipeError: As `gra.training.data.tokenize.tokenized`.
    """
    encoded = EncodedConversations()
    for _, prompt, (chosen, rejected) in tokenized(tokenizer, pairs, encoded, max_bad):
        if max_length is not None and len(prompt) + max(len(chosen), len(rejected)) > max_length:
            encoded.dropped += 1
            continue
        encoded.columns["chosen_ids"].append(prompt + chosen)
        encoded.columns["rejected_ids"].append(prompt + rejected)
    return encoded


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_length: int | None, max_bad: float = 0.0
) -> EncodedPrompts:
    """Check each row's prompt under the template and drop longer prompts than `max_length` tokens.

    Args:
        tokenizer: The student's, with its chat template.
        rows: Read rows.
        max_length: Tokens of a prompt.
        max_bad: The share of rows that may be set aside because they do not fit the template.

    Raises:
        DataError, RecipeError: As `gra.training.data.tokenize.tokenized`.
    """
    encoded = EncodedPrompts()
    for row, prompt, _ in tokenized(tokenizer, rows, encoded, max_bad):
        if max_length is not None and len(prompt) > max_length:
            encoded.dropped += 1
            continue
        encoded.columns["prompt"].append(list(row.prompt))
        encoded.columns["completion"].append(list(row.completion))
        encoded.tokens.append(len(prompt))
    return encoded


def show_pair(tokenizer: Any, encoded: EncodedPairs) -> str:
    """Return one decoded pair, with the parts in the loss between marks."""
    prompt, chosen, rejected = (encoded.columns[f"{name}_ids"][0] for name in ("prompt", "chosen", "rejected"))
    return f"{tokenizer.decode(prompt)}⟦{tokenizer.decode(chosen)}⟧ rather than ⟦{tokenizer.decode(rejected)}⟧"


def show_conversations(tokenizer: Any, encoded: EncodedConversations) -> str:
    """Return the two decoded conversations of one pair."""
    chosen, rejected = (tokenizer.decode(encoded.columns[f"{name}_ids"][0]) for name in ("chosen", "rejected"))
    return f"{chosen}\nrather than\n{rejected}"


def show_prompt(tokenizer: Any, encoded: EncodedPrompts) -> str:
    """Return one decoded prompt, with a mark in place of the answer."""
    return f"{tokenizer.decode(prompt_ids(tokenizer, encoded.columns['prompt'][0]))}⟦the student's own answer⟧"
