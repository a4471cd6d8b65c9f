"""Remove the API key from every text that comes from a server, before the text is cut, recorded or shown."""

from __future__ import annotations

import json
from typing import Any

_PART = 8  # Characters of a key that already are a secret.
_LONG = 20  # Characters from which on a key without a digit counts as a secret.
_SHORTEST = 4
_MASK = "***"
_MESSAGE_CHARS = 300


class Redactor:
    """Replace a key, and every part of it of eight characters or more, by `***`.

    Placeholders for servers without keys (`not-needed`) are no secret, and may be words of an answer. They are short
    and have no digit; messages lose them only as a whole, and answers keep them.
    """

    def __init__(self, key: str) -> None:
        self._key = key if len(key) >= _SHORTEST else ""
        secret = len(key) >= _LONG or any(character.isdigit() for character in key)
        self._parts = {key[at : at + _PART] for at in range(len(key) - _PART + 1)} if secret else set()

    def text(self, text: str) -> str:
        """Return a text without the key and its parts."""
        if not any(part in text for part in self._parts):
            return text
        kept: list[str] = []
        end = 0  # of the part that was found last
        for at in range(len(text) - _PART + 1):
            if text[at : at + _PART] not in self._parts:
                continue
            if at > end or not end:
                kept += [text[end:at], _MASK]
            end = at + _PART
        return "".join((*kept, text[end:]))

    def message(self, text: str) -> str:
        """Return a text to show: without the key, on one line, without control characters, and short."""
        text = self.text(text.replace(self._key, _MASK) if self._key else text)
        shown = "".join(character if character.isprintable() else " " for character in text)
        return " ".join(shown.split())[:_MESSAGE_CHARS]

    def answer(self, text: str) -> str:
        """Return an answer without the key, also where the escapes of a JSON text hide it."""
        return self.text(self._unescaped(text))

    def value(self, value: Any) -> Any:
        """Return a JSON value with the key removed from its texts and names."""
        if not self._parts:
            return value
        match value:
            case str():
                return self.answer(value)
            case list():
                return [self.value(part) for part in value]
            case dict():
                return {self.text(name): self.value(part) for name, part in value.items()}
        return value

    def _unescaped(self, text: str) -> str:
        """Return a JSON text without escapes where they hide the key; other texts unchanged."""
        if not self._parts or "\\u" not in text:
            return text
        try:
            plain = json.dumps(json.loads(text), ensure_ascii=False)
        except (ValueError, RecursionError):
            return text
        return plain if any(part in plain for part in self._parts) else text
