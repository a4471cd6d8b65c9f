"""Find signs that a text assistant cannot do an instruction, by its words alone.

Some instructions are about a text that is not there, the life of the assistant, or the world outside. Small models
hardly see that, but words often show it. A sign is no verdict: the combined checks of an instruction weigh it
with a reviewer's own. Raise `SIGNS_VERSION` with every change of what is returned.
"""

from __future__ import annotations

import re

SIGNS_VERSION = 1


def _any_of(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


# Something that an instruction shows: a quotation, text after a colon, further lines, or two numbers.
_SHOWN = re.compile(r"""["'“‘«`][^"'”’»`\n]{3,}["'”’»`]|:\s*\S+(?:\s+\S+){1,}|\n\s*\S|\d\D+\d""")
_TEXT = _any_of(
    "texts?", "sentences?", "paragraphs?", "passages?", "articles?", "essays?", "stor(?:y|ies)", "poems?", "e-?mails?",
    "letters?", "reviews?", "codes?", "programs?", "functions?", "tables?", "lists?", "words?", "numbers?", "phrases?",
    "questions?", "dialogues?", "conversations?", "quotes?", "data", "documents?", "files?", "notes?", "messages?",
    "posts?", "tweets?", "statements?", "expressions?", "equations?", "series", "recipes?", "titles?",
)  # fmt: skip
_POINTS = re.compile(
    r"\b(?:following|below|above|attached|enclosed|given|provided)\b"
    rf"|\b(?:this|these|that|those)\s+(?:\w+\s+){{0,2}}{_TEXT}\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""```.*?```|["“«][^"”»]*["”»]|(?<!\w)['‘`][^\n]*?['’`](?!\w)""", re.DOTALL)
_ROLE = re.compile(
    r"\b" + _any_of(
        "you are", "you're", "act (?:as|like)", "pretend", "imagine", "suppose",
        "(?:speak|answer|reply|talk) (?:as|like)",
        "play (?:a|an|the)", "in the role", "as (?:a|an|the)", "(?<!do )you (?:keep|work|run|live)",
    ) + r"\b",
    re.IGNORECASE,
)  # fmt: skip
# "How do you make bread?" asks anyone.
_ANYONE = re.compile(
    r"\bhow (?:do|would|can|could|should|did) you (?!feel|spend|like)"
    r"|\bdo you (?:call|say|spell|get|need|mean|use|know|think)\b|\bare you able\b",
    re.IGNORECASE,
)
_ASKED = re.compile(r"\b(?:do|did|are|were|have) you\b|\bwould you (?:rather|like|prefer)\b", re.IGNORECASE)
_OWN = _any_of(
    "words?", "answers?", "response", "reasoning", "explanation", "solution", "choice", "result", "output", "code",
    "reply", "text",
)  # fmt: skip
_YOURS = re.compile(rf"\byour (?!(?:(?:own|whole|entire|full|final|last|first|next) )?{_OWN})", re.IGNORECASE)
_REQUEST = re.compile(
    "^(?:please )?" + _any_of(
        "describe", "tell", "name", "share", "list", "discuss", "explain", "talk about", "what", "who", "which",
        "where", "when", "how", "why",
    ) + r"\b",
    re.IGNORECASE,
)  # fmt: skip
_SENSES = re.compile(
    r"\b(?:look at|watch|listen|hear|taste|smell|touch|photos?|pictures?|images?|videos?|recordings?|audio|songs?)\b",
    re.IGNORECASE,
)
_ACTS = re.compile(
    "^(?:please )?" + _any_of(
        "go", "open", "close", "book", "buy", "order", "pay", "send", "call", "phone",
        "(?:turn|switch) (?:on|off)", "download", "upload", "print", "install", "visit", "play (?:some|my|a song)",
        "click", "log in", "drive", "bring", "fetch", "check whether", "find me", "remind", "wait", "schedule",
        "record", "take a", "draw", "paint", "sing", "dance", "cook",
    ) + r"\b",
    re.IGNORECASE,
)  # fmt: skip
_NOW = re.compile(
    r"\b" + _any_of(
        "right now", "at the moment", "currently", "today's", "tonight", "near me", "nearby", "in your area",
        "near here", "around here", "latest news", "weather like", "what time is it",
        "online", "website", "web page", "link", "app",
    ) + r"\b",
    re.IGNORECASE,
)  # fmt: skip


def lacks_its_text(instruction: str) -> bool:
    """Return whether an instruction points to a text, a list or data, and shows none."""
    if instruction.rstrip().endswith(":"):
        return True
    return bool(_POINTS.search(instruction)) and not _SHOWN.search(instruction)


def is_personal(instruction: str) -> bool:
    """Return whether an instruction asks about the life or taste of the assistant; one with a role to play does not."""
    said = _ANYONE.sub("", _QUOTED.sub("", instruction)).strip()
    if _ROLE.search(said):
        return False
    return bool(_ASKED.search(said)) or bool(_REQUEST.search(said) and _YOURS.search(said))


def leaves_text(instruction: str) -> bool:
    """Return whether an instruction needs senses, an act in the world, or what is known only here and now."""
    said = _QUOTED.sub("", instruction).strip()
    return not _ROLE.search(said) and any(sign.search(said) for sign in (_SENSES, _ACTS, _NOW))


# By check: a sign that the instruction fails it.
SIGNS = {"text_shown": lacks_its_text, "no_life": is_personal, "in_text": leaves_text}
