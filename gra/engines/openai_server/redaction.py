"""Remove the API key from every text that comes from a server, before the text is cut, recorded or shown.

Time and memory grow with the length of a text alone, also for texts that are made to take long.
"""

from __future__ import annotations

import base64
import re
from array import array

_PART = 8  # Characters of a key that already are a secret.
_LONG = 20  # Characters from which on a key without a digit counts as a secret.
_SHORTEST = 4
_MASK = "***"
_MESSAGE_CHARS = 300
_READ_CHARS = 8192  # of a text for a message of 300: a server may send megabytes

# One character as JSON, Python, an address or HTML may write it: \u0073, \x73, \/, %73, &#x73; and &#115;. JSON within
# JSON escapes the backslash again, in either way. Possessive repeats keep the time linear.
_ESCAPE = re.compile(
    r"\\(?:\\|u005c)*+(?:u00([2-7][0-9a-f])|x([2-7][0-9a-f])|(.?))"
    r"|%(?:25)*+([2-7][0-9a-f])|&(?:amp;)*+#(?:x0*+([2-7][0-9a-f])|0*+(\d{2,3}));",
    re.IGNORECASE | re.DOTALL,
)
_MARKS = re.compile(r"[\\%&]")


class Redactor:
    """Replace a key, and every part of it of eight characters or more, by `***`.

    Parts are found as they are, in escapes, and in base64. Placeholders for servers without keys (`not-needed`) are no
    secret, and may be words of an answer. They are short and have no digit; messages lose them only as a whole, and
    answers keep them.
    """

    def __init__(self, key: str) -> None:
        self._key = key if len(key) >= _SHORTEST else ""
        secret = len(key) >= _LONG or any(character.isdigit() for character in key)
        forms = (_plain(key), *_base64(key)) if secret else ()
        self._parts = {form[at : at + _PART] for form in forms for at in range(len(form) - _PART + 1)}
        # Only runs of the key's own characters are searched: few words of a language are as long as a part.
        characters = re.escape("".join(sorted(set().union(*self._parts))))
        self._runs = re.compile(f"[{characters}]{{{_PART},}}") if self._parts else None

    def text(self, text: str) -> str:
        """Return a text without the key and its parts; escapes and base64 do not hide them."""
        plain = _plain(text)
        if plain != text and (found := self._found(plain)):
            places = _places(text)
            text = _masked(text, [(places[begin], places[end]) for begin, end in found])
        # Again as it is: a character before the key may make its beginning look like an escape.
        return _masked(text, self._found(text))

    def message(self, text: str) -> str:
        """Return a text to show: without the key, on one line, without control characters, and short."""
        if self._key:
            text = text[: _READ_CHARS + len(self._key)].replace(self._key, _MASK)
        text = self.text(text[:_READ_CHARS])
        shown = "".join(character if character.isprintable() else " " for character in text)
        return " ".join(shown.split())[:_MESSAGE_CHARS]

    def _found(self, plain: str) -> list[tuple[int, int]]:
        """Return where parts of the key begin and end; parts that touch are one."""
        found: list[tuple[int, int]] = []
        for run in self._runs.finditer(plain) if self._runs else ():
            for at in range(run.start(), run.end() - _PART + 1):
                if plain[at : at + _PART] not in self._parts:
                    continue
                begin = found.pop()[0] if found and at <= found[-1][1] else at
                found.append((begin, at + _PART))
        return found


def _masked(text: str, found: list[tuple[int, int]]) -> str:
    """Return a text with the mask in these places."""
    kept: list[str] = []
    done = 0
    for begin, end in found:
        kept += [text[done:begin], _MASK]
        done = end
    return "".join((*kept, text[done:]))


def _plain(text: str) -> str:
    """Return a text with one character in place of each escape."""
    return _ESCAPE.sub(_character, text) if _MARKS.search(text) else text


def _character(escape: re.Match[str]) -> str:
    json, python, other, address, html, decimal = escape.groups()
    if code := json or python or address or html:
        return chr(int(code, 16))
    return chr(int(decimal)) if decimal else other or "\\"


def _places(text: str) -> array[int]:
    """Return where each character of the plain text begins in a text with escapes, and where the last one ends."""
    places = array("Q")
    done = 0
    for escape in _ESCAPE.finditer(text):
        places.extend(range(done, escape.start() + 1))
        done = escape.end()
    places.extend(range(done, len(text) + 1))
    return places


def _base64(key: str) -> list[str]:
    """Return what base64 makes of a key: it depends on how many bytes are before the key, and there are two alphabets.

    Characters that also depend on what is before or after the key are left out.
    """
    forms: list[str] = []
    for before in range(3):
        data = b"\0" * before + key.encode(errors="replace")
        known = slice(-(-before * 8 // 6), len(data) * 8 // 6)
        forms += [encode(data).decode()[known] for encode in (base64.b64encode, base64.urlsafe_b64encode)]
    return forms
