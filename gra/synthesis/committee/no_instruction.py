"""Find texts that a generator gives in place of an instruction: refusals, and copies of the prompt that asked for one.

Small models write both. Raise `INSTRUCTIONS_VERSION` with every change of what is returned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from gra.synthesis.prompts import render

INSTRUCTIONS_VERSION = 1

_SHORTEST = 12  # characters
_COPIED = 8  # words in a row that only a copy of the prompt has
# How the prompts' own requests begin; a plan or a book of exercises is something else.
_REQUEST = re.compile(
    r"\W*(?:write (?:a new|the next|another|an) exercise (?:of|about|on|for an assistant|in the domain|that|with)\b"
    r"|write a new exercise (?:for|in|to)\b|write the next request to an assistant\b|you write exercises\b)",
    re.IGNORECASE,
)
_I_CANNOT = r"\bi(?: am|['’]?m)? (?:can['’]?t|cannot|can not|unable to|not able to|do not|don['’]?t)\b"
_HELP = r"(?:assist|help|fulfill?|comply)\b"
_REFUSAL = re.compile(
    rf"\W*(?:as an ai (?:language )?(?:model|assistant)\b[^.!?\n]*{_I_CANNOT}"
    rf"|(?:(?:i['’]?m|i am) )?(?:sorry|unfortunately)\b[^.!?\n]*{_I_CANNOT} {_HELP}"
    rf"|{_I_CANNOT} {_HELP}[^.!?\n]*\b(?:this|that|your|the)(?: request)?[.!]?\s*$)",
    re.IGNORECASE,
)


def why_no_instruction(text: str, parents: Sequence[str] = ()) -> str:
    """Return why a text is no instruction: it refuses, is too short, or copies its prompt; "" where it is one.

    Args:
        text: what the generator wrote.
        parents: instructions of the parents. Where one of them has the same mark, it is no fault.
    """
    fault = _fault(text)
    return "" if fault and any(_fault(parent) == fault for parent in parents) else fault


def _fault(text: str) -> str:
    if len(text.strip()) < _SHORTEST:
        return "is too short for one"
    if _REFUSAL.match(text):
        return "refuses to write one"
    if _REQUEST.match(text) or not _runs_of_prompt().isdisjoint(_runs(text)):
        return "copies the request for one"
    return ""


@cache
def _runs_of_prompt() -> frozenset[tuple[str, ...]]:
    """Return the runs of words that the prompt has without parents and keywords."""
    return _runs(render("instruction", parents=(), domain="", hint="", keywords=(), show="instructions"))


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return frozenset(tuple(words[start : start + _COPIED]) for start in range(len(words) - _COPIED + 1))
