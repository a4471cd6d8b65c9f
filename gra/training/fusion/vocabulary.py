"""Read the bytes that each token of a vocabulary stands for, and map one vocabulary onto another by them.

Two vocabularies share texts, not numbers. Bytes are exact where a character takes several tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NONE = -1  # the number of a token that the other vocabulary has nothing for
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class TokenTexts:
    """The texts of a vocabulary.

    Attributes:
        texts: the bytes of each token, by its number; empty where a number has no token.
        control: the numbers of tokens that stand for no text, such as those of a chat template, by their names.
        stop: the number of the token that ends an answer.
    """

    texts: list[bytes]
    control: dict[str, int]
    stop: int


def read_texts(tokenizer: PreTrainedTokenizerBase) -> TokenTexts:
    """Return the texts of a fast tokenizer's tokens.

    Args:
        tokenizer: one whose decoder joins bytes (GPT-2, Qwen) or pieces with byte fallback (Llama, Gemma).
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    texts = [b""] * (1 + max(vocabulary.values()))
    decoder = tokenizer.backend_tokenizer.decoder
    byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()
    table = _byte_table() if byte_level else {}
    for token, number in vocabulary.items():
        if number in added:
            texts[number] = added[number].content.encode()
        elif byte_level:
            texts[number] = bytes(table[character] for character in token if character in table)
        else:
            texts[number] = _piece(token)
    control = {token.content: number for number, token in added.items() if token.special}
    return TokenTexts(texts, control, tokenizer.eos_token_id)


def _byte_table() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}


def _piece(token: str) -> bytes:
    if found := _BYTE.fullmatch(token):
        return bytes([int(found[1], 16)])
    return token.replace("▁", " ").encode()


def map_tokens(teacher: TokenTexts, student: TokenTexts) -> NDArray[np.int32]:
    """Return the student's token for each of the teacher's, or `NONE`.

    A token maps to the one with the same bytes, else to the longest one that it begins with. Control tokens map by
    name, and stop tokens to each other. So a vocabulary maps onto itself without change.
    """
    control = set(student.control.values())
    by_text: dict[bytes, int] = {}
    for number, text in enumerate(student.texts):
        if text and number not in control:
            by_text.setdefault(text, number)
    found = np.full(len(teacher.texts), NONE, dtype=np.int32)
    theirs = {number: name for name, number in teacher.control.items()}
    for number, text in enumerate(teacher.texts):
        if number in theirs:
            found[number] = student.control.get(theirs[number], NONE)
        elif number < len(student.texts) and student.texts[number] == text and number not in control:
            found[number] = number  # two tokens may have one text, as `A` and `<0x41>`
        else:
            ends = range(len(text), 0, -1)
            found[number] = next((by_text[text[:end]] for end in ends if text[:end] in by_text), NONE)
    found[teacher.stop] = student.stop
    return found
