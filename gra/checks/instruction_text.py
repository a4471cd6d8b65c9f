"""Prepare an instruction for reading: mask quoted texts, code, and the passage that it works on.

A quoted text or a passage to be summarized is not addressed to the writer. So no pattern may find a demand in it. A
quoted text leaves a mark, by which a pattern can refer to the quoted word that follows. The last part reads
requests for an answer and nothing else, such as "the number only".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gra.checks.format import FormatCheck
from gra.checks.text_units import SMALL_NUMBERS, TENS

_COUNTS = (
    {word: number for number, word in enumerate(SMALL_NUMBERS)}
    | {word: 10 * number for number, word in enumerate(TENS, 3)}
    | {"hundred": 100, "a single": 1, "a hundred": 100, "one hundred": 100, "two hundred": 200, "three hundred": 300}
)
_COUNT_WORDS = "|".join(sorted((word for word in _COUNTS if word != "zero"), key=len, reverse=True))
# Of at most nine digits: no demand is larger, and Python refuses to read a number of thousands of digits.
NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}}){{1,2}}(?!,?\d)|\d{{1,9}}(?!\d)|(?:{_COUNT_WORDS})\b)"
# Patterns may take the square of a sentence's length, so only plain sentences are read, and only so much text.
_MOST_CHARACTERS = 8000
_LONGEST_SENTENCE = 600
_MOST_SENTENCES = 80  # at the beginning, and at the end

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_QUOTE = re.compile(
    r'"([^"\n]{1,300})"|“([^”\n]{1,300})”|`([^`\n]{1,300})`|‘([^’\n]{1,300})’|'
    r"(?<![\w'])'([^'\n](?:[^'\n]|(?<=\w)'(?=\w)){0,300}?)'(?!\w)"
)
MARK = r"⟦(\d+)⟧"
MARKS = rf"{MARK}(?:(?:,? and |,? or |, ?| ){MARK})*"
# "Summarize the following text: ..." works on the text behind the colon, up to the next empty line.
_PASSAGE = re.compile(
    r"\b(?:following|below|this|these)\b(?![^.:\n]*\b(?:words?|keywords?|phrases?|keys?|format|rules?|constraints?|"
    r"requirements?|bullets?|form)\b)[^.:\n]*:(?P<passage>.*?)(?=\n[ \t]*\n|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"]?\s+|\n+")


@dataclass(frozen=True, slots=True)
class InstructionText:
    """Hold a masked instruction: all of it, its sentences, and the quoted texts that the marks stand for."""

    whole: str
    sentences: tuple[str, ...]
    quotes: tuple[str, ...]

    def says(self, pattern: re.Pattern[str]) -> bool:
        """Decide whether a pattern occurs anywhere."""
        return pattern.search(self.whole) is not None

    def names(self, listed: str) -> list[str]:
        """List the items of "a, b and c"; a mark gives back its quoted text."""
        items = [item.strip(" .:;()[]") for item in re.split(r",? and |,? or |, ?|(?<=⟧) (?=⟦)", listed)]
        return [self.quotes[int(m[1])] if (m := re.fullmatch(MARK, item)) else item for item in items if item]


def read(instruction: str) -> InstructionText:
    """Mask an instruction.

    Of a text beyond 8,000 characters its beginning and its end are read, where demands on the answer stand. A sentence
    beyond 600 characters states no plain demand and is left out. So are all but the first and last 80 sentences.
    """
    if len(instruction) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2
        instruction = f"{instruction[:half]}\n\n{instruction[-half:]}"
    quotes: list[str] = []

    def mark(found: re.Match[str]) -> str:
        quotes.append(next(text for text in found.groups() if text is not None))
        return f"⟦{len(quotes) - 1}⟧"

    straight = re.sub(r"(?<=\w)’(?=\w)", "'", instruction.replace("⟦", "[").replace("⟧", "]"))
    text = _CODE.sub(" ", straight)
    text = _PASSAGE.sub(lambda m: m[0][: m.start("passage") - m.start()], _QUOTE.sub(mark, text))
    sentences = [part.strip() for part in _SENTENCE_END.split(text)]
    plain = list(dict.fromkeys(part for part in sentences if part and len(part) <= _LONGEST_SENTENCE))
    if len(plain) > 2 * _MOST_SENTENCES:
        plain = plain[:_MOST_SENTENCES] + plain[-_MOST_SENTENCES:]
    return InstructionText(text, tuple(plain), tuple(quotes))


def number(text: str) -> int:
    """Return the value of a text that `NUMBER` matches."""
    text = text.lower().strip()
    return _COUNTS[text] if text in _COUNTS else int(text.replace(",", ""))


# --- bare answers -------------------------------------------------------------------------------------------

_VERBS = "answer|reply|respond|give|write|output|say|state|return|print|tell"
_ASK = rf"^(?:please )?(?:{_VERBS})\b(?: me)?"
_TAIL = r"(?: only| alone| and nothing else)?(?:,? please)?[.!]?$"
_NUMBER_ONLY = re.compile(
    rf"{_ASK}(?: only| just)?(?: with| in)?(?: only| just)?(?: (?:the|a|one))?"
    rf"(?: (?:final|resulting|exact|whole|single|correct))? (?:number|digits){_TAIL}"
    rf"|^(?:only |just )?(?:the )?number{_TAIL}",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(
    rf"{_ASK}(?: only| just)?(?: with)?(?: only| just| simply)? yes or no{_TAIL}"
    rf"|^(?:only |just |simply )?yes or no{_TAIL}",
    re.IGNORECASE,
)
_ONLY = re.compile(r"\b(?:only|just|simply|alone|nothing else)\b", re.IGNORECASE)
# Demands beside which the answer is more than a number or a word; things whose number is no numeral; other languages.
_MORE = re.compile(
    r"\b(?:then|explain|because|reasons?|why|show|steps?|finally|at the end|json|units?|list|for each|for the|also)\b"
    r"|\b(?:phone|telephone|flight|invoice|order|version|serial|dates?|time|clock|o'clock|roman|hex\w*|scientific|ratio)\b"
    r"|\b(?:in|into) (?:german|french|spanish|italian|portuguese|dutch|swedish|norwegian|danish|finnish|polish|czech|"
    r"russian|greek|turkish|arabic|hebrew|hindi|japanese|korean|chinese|latin)\b",
    re.IGNORECASE,
)
_LIMITED = re.compile(
    rf"^(?:please )?(?:{_VERBS}|name|use|add|choose|pick|put)\b"
    r".*(?:\b(?:only|alone)[.!]?$|\b(?:only|just) (?:the|that|this|its|a|one|with)\b|\bnothing\b|\bno other\b)"
    r"|\bnothing else\b|\b(?:yes or no|true or false)\b|\bno (?:explanations?|comments?|extras?)\b",
    re.IGNORECASE,
)


def read_bare_answers(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read that the answer is one number, or yes or no, where nothing else is asked for."""
    if wording.says(_MORE):
        return
    for sentence in wording.sentences:
        if not _ONLY.search(sentence):
            continue
        if _NUMBER_ONLY.search(sentence):
            yield FormatCheck("one_number", {})
        if _YES_OR_NO.search(sentence):
            yield FormatCheck("one_of", {"options": ["Yes", "No"]})


def limits_answer(instruction: str) -> bool:
    """Return whether an instruction limits its answer, perhaps in a way that no program checks."""
    return any(map(_LIMITED.search, read(instruction).sentences))
