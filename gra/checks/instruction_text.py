"""An instruction made ready for reading: quoted texts, code and the passage it works on are masked, numbers are words.

What stands in quotes or in the text to be summarised is not addressed to the writer, so no pattern may find
a demand in it. A quoted text leaves a mark, by which a pattern can say "the word, quoted, that follows".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
_COUNTS = {word: number for number, word in enumerate(_SMALL)} | {
    "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100,
    "a single": 1, "a hundred": 100, "one hundred": 100, "two hundred": 200, "three hundred": 300,
}  # fmt: skip
_COUNT_WORDS = "|".join(sorted((word for word in _COUNTS if word != "zero"), key=len, reverse=True))
NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d+|(?:{_COUNT_WORDS})\b)"

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_QUOTE = re.compile(
    r'"([^"\n]{1,300})"|“([^”\n]{1,300})”|`([^`\n]{1,300})`|‘([^’\n]{1,300})’|'
    r"(?<![\w'])'([^'\n](?:[^'\n]|(?<=\w)'(?=\w)){0,300}?)'(?!\w)"
)
MARK = r"⟦(\d+)⟧"
MARKS = rf"{MARK}(?:(?:,? and |,? or |, ?| ){MARK})*"
# "Summarise the following text: ..." works on what follows, up to the next empty line.
_PASSAGE = re.compile(
    r"\b(?:following|below|this|these)\b(?![^.:\n]*\b(?:words?|keywords?|phrases?|keys?|format|rules?|constraints?|"
    r"requirements?|bullets?|form)\b)[^.:\n]*:(?P<passage>.*?)(?=\n[ \t]*\n|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"]?\s+|\n+")


@dataclass(frozen=True, slots=True)
class InstructionText:
    """A masked instruction: all of it, its sentences, and what the marks stand for."""

    whole: str
    sentences: tuple[str, ...]
    quotes: tuple[str, ...]

    def says(self, pattern: re.Pattern[str]) -> bool:
        """Whether a pattern is anywhere in it."""
        return pattern.search(self.whole) is not None

    def names(self, listed: str) -> list[str]:
        """The items of "a, b and c"; a mark gives back its quoted text."""
        items = [item.strip(" .:;()[]") for item in re.split(r",? and |,? or |, ?|(?<=⟧) (?=⟦)", listed)]
        return [self.quotes[int(m[1])] if (m := re.fullmatch(MARK, item)) else item for item in items if item]


def read(instruction: str) -> InstructionText:
    """The instruction, masked."""
    quotes: list[str] = []

    def mark(found: re.Match[str]) -> str:
        quotes.append(next(text for text in found.groups() if text is not None))
        return f"⟦{len(quotes) - 1}⟧"

    plain = re.sub(r"(?<=\w)’(?=\w)", "'", instruction.replace("⟦", "[").replace("⟧", "]"))
    text = _CODE.sub(" ", plain)
    text = _PASSAGE.sub(lambda m: m[0][: m.start("passage") - m.start()], _QUOTE.sub(mark, text))
    sentences = [part.strip() for part in _SENTENCE_END.split(text)]
    return InstructionText(text, tuple(filter(None, sentences)), tuple(quotes))


def number(text: str) -> int:
    """The value of what `NUMBER` matches."""
    text = text.lower().strip()
    return _COUNTS[text] if text in _COUNTS else int(text.replace(",", ""))
