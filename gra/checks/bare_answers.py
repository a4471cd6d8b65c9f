"""Read requests for an answer and nothing else: "the number only", "only yes or no", "the name and nothing else"."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gra.checks.format import FormatCheck
from gra.checks.instruction_text import InstructionText, read

_ASK = r"^(?:please )?(?:answer|reply|respond|give|write|output|say|state|return|print|tell)\b(?: me)?"
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
    r"^(?:please )?"
    r"(?:answer|reply|respond|give|write|output|say|state|return|print|tell|name|use|add|choose|pick|put)\b"
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
