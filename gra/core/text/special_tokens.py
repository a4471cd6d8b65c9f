"""Find chat-template tokens inside texts, such as `<|im_end|>`.

A tokenizer reads such a token in a text as the end or beginning of a turn. Training refuses a dataset that holds the
student's stop token. Members misread a prompt that holds one of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

# The turn tokens of common templates: ChatML, Llama, Mistral, Gemma, Phi, Granite, DeepSeek, GPT-OSS.
COMMON = frozenset(
    {
        "<|im_start|>", "<|im_end|>", "<|endoftext|>",
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
        "<|eot|>", "<|header_start|>", "<|header_end|>",
        "</s>", "[INST]", "[/INST]", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>",
        "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|start_of_role|>", "<|end_of_role|>",
        "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        "<|start|>", "<|channel|>", "<|message|>", "<|return|>",
    }
)  # fmt: skip


class SpecialTokens:
    """Search texts for the tokens of common chat templates and of a run's own models."""

    def __init__(self, of_models: Iterable[str] = ()) -> None:
        self.tokens = COMMON | frozenset(of_models)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokens, key=lambda token: (-len(token), token))
        return re.compile("|".join(map(re.escape, longest_first)))

    def find(self, text: str) -> str:
        """Return the first token that stands in the text, or an empty text."""
        found = self._pattern.search(text)
        return found[0] if found else ""
