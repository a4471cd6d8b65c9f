"""The answer that a reply gives, and whether it is right: letters, values, short texts, verifiable instructions.

Judging is separate from asking: it sees the recorded reply and the item, never the model. A reply that gives no
answer (`no_answer`) is counted apart from a wrong one, because it says something about form, not about knowledge.
Where a reply was cut off at the length limit only an answer stated in so many words counts: whatever a cut reply
happens to end with is no answer. Raise `REPLIES_VERSION` whenever a reply is judged differently than before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gra.checks.answers import ANSWERS_VERSION, equals, final_answer, last_number, stated_value
from gra.checks.ifeval import VERIFIABLE_VERSION, broken, loosened

if TYPE_CHECKING:
    from gra.evaluation.suite import Item

REPLIES_VERSION = 1
KINDS = ("letter", "value", "short", "ifeval")
LETTERS = "ABCDEFGHIJ"
Verdict = Literal["right", "wrong", "no_answer"]
Broken = Callable[[Sequence[Mapping[str, Any]], str], list[str]]

_STATED = re.compile(r"\b(?:answer|option|choice)(?: is| are|:| =)+[: ]*(?P<value>[^\n]+)", re.IGNORECASE)
_BOX = re.compile(r"\\boxed\{(?:\\text\{)?\(?([A-J])\)?\}?\}")
# A letter and a mark, or alone; a bare "A" or "I" before a word is more likely a word itself.
_LETTER = re.compile(r"(?:option |choice )?(?:\(?([A-J])(?:[).:,;]|\s*$|\s+[-–(])|([B-HJ])\s)")
_WORDS = ("true", "false", "yes", "no", "valid", "invalid")


@dataclass(frozen=True, slots=True)
class Judged:
    """One reply: its verdict, the answer found in it, and for IFEval what it breaks, strictly and loosely."""

    verdict: Verdict
    extracted: str | None = None
    broken: tuple[str, ...] | None = None
    loose: bool | None = None


def judge_reply(item: Item, kind: str, reply: str, finish: str | None, breaks: Broken = broken) -> Judged:
    """Judge one reply to an item of one of `KINDS`.

    Args:
        item: what was asked.
        kind: the kind of its task.
        reply: what the model wrote.
        finish: "stop" or "length".
        breaks: which instructions of IFEval a reply breaks.
    """
    ended = finish == "stop"
    if kind == "ifeval":
        failures = breaks(item.instructions, reply)
        loose = all(any(not breaks([one], text) for text in loosened(reply)) for one in item.instructions)
        return Judged("wrong" if failures else "right", None, tuple(failures), loose)
    if kind == "letter":
        found = letter(reply, item.choices, ended)
        wanted = LETTERS[item.answer] if item.answer is not None else ""
        return _judged(found, found == wanted)
    assert item.gold is not None
    if kind == "value":
        found = stated_value(reply) or ((final_answer(reply) or last_number(reply)) if ended else None)
        return _judged(found, found is not None and equals(found, item.gold))
    found = short(reply, ended)
    return _judged(found, found is not None and alike(found, item.gold, item.text))


def judging_version(kind: str) -> list[Any]:
    """What decides a verdict, beside the item."""
    if kind not in KINDS:
        return []
    return [REPLIES_VERSION, {"value": ANSWERS_VERSION, "ifeval": VERIFIABLE_VERSION}.get(kind, 0)]


def _judged(found: str | None, right: bool) -> Judged:
    return Judged("no_answer" if found is None else "right" if right else "wrong", found)


def letter(reply: str, choices: Sequence[str], ended: bool) -> str | None:
    """The letter of the choice a reply takes; None unless it says plainly which one that is.

    In this order: the last box; what follows the last "answer:" or "the answer is"; a reply that begins with a letter
    and a mark, or is one; and, if it ended by itself, the one choice whose text it is or states.
    """
    text = re.sub(r"[*_`]", "", reply).strip()
    known = LETTERS[: len(choices)]
    if boxed := _BOX.findall(text):
        return _known(boxed[-1], known)
    if stated := _STATED.findall(text):
        value = stated[-1].strip().strip("\"'$ ")
        if found := _LETTER.match(value):
            return _known(found[1] or found[2], known)
        return _by_text(value, choices)
    first = text.split("\n", 1)[0].strip()
    if found := re.fullmatch(r"\(?([A-J])[).:,]*", first) or re.match(r"\(?([A-J])[).:]\s*\S", first):
        return _known(found[1], known)
    return _by_text(text, choices) if ended else None


def _known(found: str, known: str) -> str | None:
    return found if found in known else None


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    wanted = _plain(text)
    same = [LETTERS[place] for place, choice in enumerate(choices) if _plain(choice) == wanted]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().strip(".\"'").casefold()


def short(reply: str, ended: bool) -> str | None:
    """The short text a reply states after "answer:" or "the answer is", or that it is; None if it does neither."""
    text = re.sub(r"\*\*|`", "", reply).strip()
    if found := _STATED.findall(text):
        return _trimmed(found[-1])
    if boxed := stated_value(text):
        return _trimmed(boxed)
    return _trimmed(text) if ended and text and "\n" not in text and len(text) <= 200 else None


def _trimmed(text: str) -> str | None:
    return text.strip().strip("\"'$").rstrip(".").strip() or None


def alike(found: str, wanted: str, question: str) -> bool:
    """Whether a short answer is the wanted one: a letter of the question's options or their text, a number, words."""
    if option := re.fullmatch(r"\(([A-Z])\)", wanted):
        given = re.match(r"\(?([A-Z])(?:\)|\.|:|,|$|\s)", found)
        if given:
            return given[1] == option[1]
        listed = dict(re.findall(r"^\(([A-Z])\) (.+)$", question, re.MULTILINE))
        return _plain(listed.get(option[1], "")) == _plain(found)
    if re.fullmatch(r"-?\d+", wanted):
        number = re.match(r"-?[\d,]+(?:\.0+)?(?![\d.])", found)
        return number is not None and int(float(number[0].replace(",", ""))) == int(wanted)
    if re.fullmatch(r"[\[\](){}<> ]+", wanted):
        return re.sub(r"\s", "", found) == re.sub(r"\s", "", wanted)
    if wanted.casefold() in _WORDS:
        first = re.match(r"\w+", found)
        return first is not None and first[0].casefold() == wanted.casefold()
    return _words(found) == _words(wanted)


def _words(text: str) -> list[str]:
    return [word.strip(".,;'\"").casefold() for word in re.split(r"[\s,]+", text) if word.strip(".,;'\"")]
