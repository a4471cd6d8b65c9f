"""Name the kind of request that an instruction makes, by its opening verb or question word and its shape.

The rules are plain and English, so a kind is approximate: they compare datasets, and decide nothing about a row. They
are tried in this order:

1. `code`: a code block, a programming language, or a word such as "function", "SQL query" or "regex"
2. `role_play`: "You are a ...", "Act as ...", "Pretend to be ...", "Answer like a ..."
3. the first sentence that opens with a known verb or question word, after words such as "please" or "can you":
   `compute`, `rewrite`, `classify`, `list`, `explain` or `write` by its verb, else `question`
4. `question` for any other sentence with a question mark, and `other` for the rest

A question or "find ..." is `compute` where a number and an amount are named ("how many", "the area of").
"What are the four ..." and "give three ..." are `list`. Quoted texts and passages to work on are not read.
"""

from __future__ import annotations

import re
from enum import StrEnum

from gra.checks.instruction_text import read


class RequestKind(StrEnum):
    """Name what an instruction asks for."""

    QUESTION = "question"
    EXPLAIN = "explain"
    LIST = "list"
    WRITE = "write"
    REWRITE = "rewrite"
    CLASSIFY = "classify"
    COMPUTE = "compute"
    CODE = "code"
    ROLE_PLAY = "role_play"
    OTHER = "other"


_VERBS = {
    RequestKind.COMPUTE: "calculate compute solve simplify evaluate add multiply subtract divide factor differentiate "
    "integrate estimate",
    RequestKind.REWRITE: "rewrite rephrase paraphrase translate summarize summarise shorten edit proofread turn change "
    "convert correct fix copy extract improve reword combine transform make expand complete continue replace reverse",
    RequestKind.CLASSIFY: "classify categorize categorise label decide judge choose pick select sort rank identify "
    "determine detect order put arrange rate assess",
    RequestKind.LIST: "list enumerate name suggest recommend brainstorm",
    RequestKind.EXPLAIN: "explain describe define discuss compare contrast clarify interpret analyze analyse outline "
    "elaborate illustrate teach",
    RequestKind.WRITE: "write compose draft create design generate invent craft tell develop imagine prepare produce "
    "construct formulate devise plan",
}
_KINDS = {verb: kind for kind, verbs in _VERBS.items() for verb in verbs.split()}
# Verbs that ask for a fact, a number or several things; what follows decides.
_ASKS = frozenset(["give", "state", "find", "provide", "show", "mention", "answer", "say"])
_WH = r"(?:what|which|who|whom|whose|when|where|why|how)"
_QUESTION = re.compile(
    rf"(?:(?:in|on|at|from|of|for|to|with|by) )?{_WH}\b|(?:is|are|was|were|do|does|did|can|could|should|would|will|has|"
    r"have|had|may|might|am) (?!you (?:please )?(?!think|know|believe))\w",
    re.IGNORECASE,
)
_POLITE = re.compile(
    r"^(?:(?:please|kindly|now|then|next|first|also|hi|hello|hey),? |(?:can|could|would|will) you (?:please |kindly )?|"
    r"i (?:need|want|would like|'d like) you to |i'd like you to |help me (?:to )?|your task is to |let's )+",
    re.IGNORECASE,
)
_WANTED = re.compile(r"^i (?:need|want|would like) (?:an?|the|some|to have)\b", re.IGNORECASE)
_CODE = re.compile(
    r"\b(?:python|javascript|typescript|java|sql|html|css|bash|php|ruby|golang|kotlin|matlab|dataframe|numpy|regex|"
    r"regular expression|shell command|command line|source code|pseudocode|code snippet|unit tests?|api endpoint)\b|"
    r"\bc(?:\+\+|#)|\b(?:write|implement|create|define|fix|debug|refactor|complete)\b[^.?!]{0,30}"
    r"\b(?:function|algorithm|code)\b",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"^(?:you are (?:an?|the|my|one of) (?!\w+ (?:that|which) (?:is|was) given)|imagine (?:that )?you(?: are|'re)|"
    r"(?:act|speak|talk|write|reply|answer|respond) (?:as|like)(?: if you (?:are|were))? (?:an?|the|my) |"
    r"pretend\b|play (?:the role of |an? )|take (?:on )?the role|role-?play)",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"\bhow (?:many|much|long|far|old|fast|tall|large|big)\b|"
    r"\b(?:sum|difference|product|quotient|area|volume|perimeter|circumference|probability|chance|average|the mean|"
    r"median|remainder|percentage|ratio|total|square root|measure|speed|distance|slope|cost|price|value|number)\b|"
    r"\d ?%",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\d\s*[-+*/×÷^]\s*[\d(a-z]|[a-z\d)]\s*=\s*[\d(a-z]", re.IGNORECASE)
_COUNT = r"(?:\d+|two|three|four|five|six|seven|eight|nine|ten|several|some|a few|a list|examples|the names)"
_SEVERAL = re.compile(
    rf"^(?:(?:write|tell|suggest|give|state|find|provide|show|mention) (?:me |us |down )?"
    rf"(?:exactly |at least |a list of |the (?:first )?)?{_COUNT} |"
    rf"what are (?:the |some )?(?:main |most \w+ |common )?{_COUNT} |\w+ (?:me |down )?(?:a|the) list\b)",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"^[a-z]+ [^,]*\b(?:sentences?|words?|lines?|paragraphs?)\b", re.IGNORECASE)


def request_kind(instruction: str) -> RequestKind:
    """Return the kind of request that an instruction makes; no text raises."""
    wording = read(instruction)
    if "```" in instruction[:8000] or _CODE.search(wording.whole):  # quotes and passages are masked there
        return RequestKind.CODE
    if any(_ROLE.search(sentence) for sentence in wording.sentences):
        return RequestKind.ROLE_PLAY
    for sentence in wording.sentences:
        if (kind := _of_sentence(sentence, wording.whole)) is not None:
            return kind
    return RequestKind.QUESTION if "?" in wording.whole else RequestKind.OTHER


def _of_sentence(sentence: str, whole: str) -> RequestKind | None:
    """Return the kind of one sentence, or None where it opens with no verb or question word that is known."""
    asked = _POLITE.sub("", sentence.strip(" -*#>\"'"))
    if found := re.match(r"in [\w ]{1,30}, ", asked, re.IGNORECASE):  # "in one sentence, what does a vaccine do?"
        asked = asked[found.end() :]
    opening = re.match(r"[a-z']+", asked.lower())
    verb = opening[0] if opening else ""
    if verb in _KINDS:
        several = verb in ("write", "tell", "suggest") and _SEVERAL.match(asked) and not _SENTENCES.match(asked)
        return RequestKind.LIST if several else _KINDS[verb]
    if verb in _ASKS:
        return _fact(asked, whole) if verb not in ("answer", "say") else None
    if _WANTED.match(asked):
        return RequestKind.WRITE
    if _QUESTION.match(asked) or asked.endswith("?"):
        return _fact(asked, whole)
    return None


def _fact(asked: str, whole: str) -> RequestKind:
    """Return `list`, `compute` or `question` for a sentence that asks for something to be stated."""
    if _SEVERAL.match(asked) and not _SENTENCES.match(asked):
        return RequestKind.LIST
    numbers = len(re.findall(r"(?<![⟦\d])\d+(?:\.\d+)?(?!⟧)", whole[:2000]))
    if numbers and (_AMOUNT.search(asked) or _FORMULA.search(asked) or (numbers > 2 and asked[:5].lower() == "find ")):
        return RequestKind.COMPUTE
    return RequestKind.QUESTION
