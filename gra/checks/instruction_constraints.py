"""Read the format constraints that an instruction states: "in at most 20 words" is `words_at_most (n 20)`.

Only plain constraints on the whole answer are recognized, by the patterns below. Anything else is ignored, because a
constraint that is not there would reject good answers. `benchmarks/programs.py` measures precision and recall on IFEval
(Zhou et al. 2023, arXiv 2311.07911), whose rows name their constraints. No text raises. Raise `CONSTRAINTS_VERSION`
whenever an instruction is read differently than before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from gra.checks.format import FormatCheck
from gra.checks.instruction_text import MARK, MARKS, NUMBER, InstructionText, number, read, read_bare_answers

CONSTRAINTS_VERSION = 4
Reader = Callable[[InstructionText], Iterator[FormatCheck]]
_READERS: list[Reader] = []


def read_constraints(instruction: str) -> tuple[FormatCheck, ...]:
    """List the constraints that an instruction plainly states, each once."""
    wording = read(instruction)
    found = {str(check): check for reader in _READERS for check in reader(wording)}
    return tuple(check for check in found.values() if _sensible(check))


def _sensible(check: FormatCheck) -> bool:
    """Decide whether the arguments can be met: "at least 0 words" demands nothing."""
    return all(value > 0 if isinstance(value, int) else bool(value) for value in check.arguments.values())


def _reader(function: Reader) -> Reader:
    _READERS.append(function)
    return function


def _pattern(*parts: str) -> re.Pattern[str]:
    """Compile several alternatives, in any case."""
    return re.compile("|".join(parts), re.IGNORECASE)


_NOT = r"(?:\b(?:not|never|without|avoid|refrain|exclude|excluding|no)|n't)\b(?! (?:more|less|fewer|exceed|only)\b)"
# A demand beside one of these is on a part of the answer, or on a program to be written.
_PART = _pattern(
    r"\b(?:each|every|per|first|second|third|last|title|subject|headline|introduction|conclusion|chorus|verse|stanzas?|"
    r"functions?|program|script|variable|strings?|regex|method|class|query|input|files?)\b"
)
_CODE = _pattern(
    r"\b(?:functions?|program|script|code|python|java|javascript|sql|class|method|parse[sr]?|api|endpoint)\b"
)

# --- how many words and sentences ---------------------------------------------------------------------------

_SEVERAL = _pattern(r"\b(?:then|followed by|afterwards?|after that|finally|before)\b|;")
# "no more than", "don't use fewer than", "never exceed": a negation reverses the bound that follows it.
_NEVER = r"(?:\w+n't|not|never|without|avoid|no)(?: (?!(?:and|but|or)\b)\w+){0,3} "
# The wording around a number of words or sentences (UNIT), the bound it makes, and the shift of that bound.
_AMOUNTS = [
    (rf"between (?P<low>{NUMBER}) and (?P<n>{NUMBER})[ -]UNIT", "between", 0),
    (rf"(?:in|with|of|use|using|contains?) (?P<low>{NUMBER})(?: to |-| – |–)(?P<n>{NUMBER})[ -]UNIT", "between", 0),
    (rf"at least (?P<low>{NUMBER})(?:,? but|,? and) (?:at most|no more than) (?P<n>{NUMBER})[ -]UNIT", "between", 0),
    (rf"{_NEVER}(?:more than|over|exceed(?:ing)?|longer than) (?P<n>{NUMBER})[ -]UNIT", "at_most", 0),
    (rf"{_NEVER}(?:less than|fewer than|under|below|shorter than) (?P<n>{NUMBER})[ -]UNIT", "at_least", 0),
    (rf"(?:at least|minimum(?: of)?) (?P<n>{NUMBER})[ -]UNIT", "at_least", 0),
    (rf"(?:more than|over|exceeds?|longer than) (?P<n>{NUMBER})[ -]UNIT", "at_least", 1),
    (rf"(?P<n>{NUMBER})(?: or more|\+)[ -]UNIT", "at_least", 0),
    (rf"(?P<n>{NUMBER})[ -]UNIT (?:or more|minimum|at least|at the least)", "at_least", 0),
    (rf"(?:at most|maximum(?: of)?|max\.?|up to) (?P<n>{NUMBER})[ -]UNIT", "at_most", 0),
    (rf"\b(?:limit|keep)\b[^.]{{0,40}}\b(?:to|within) (?P<n>{NUMBER})[ -]UNIT", "at_most", 0),
    (rf"(?P<n>{NUMBER})[ -]UNIT (?:or (?:less|fewer)|at most|maximum|max\b)", "at_most", 0),
    (rf"(?:less than|fewer than|under|below|shorter than) (?P<n>{NUMBER})[ -]UNIT", "at_most", -1),
    (rf"exactly (?P<n>{NUMBER})[ -]UNIT", "exactly", 0),
]  # fmt: skip
_UNITS = {"words": r"words?\b", "sentences": r"sentences?\b"}
_BOUNDS = [
    (unit, bound, shift, _pattern(rf"(?<![\w-]){around.replace('UNIT', form)}"))
    for unit, form in _UNITS.items()
    for around, bound, shift in _AMOUNTS
]
# "more than 4 words in capital letters" counts some words, not all.
_SOME_OF_THEM = _pattern(
    r"[ \t]+(?:be\b|in (?:all )?(?:capital|upper|lower)|(?:that|which|starting|beginning|ending|from|per|each|is|are|"
    r"should|must)\b|with (?:all )?capital|in (?:each|every)\b|of (?:the|each)\b)"
)
_LEAD = r"(?:in|into|using|use|reply with|respond with|answer with|make it)(?: only| just)?"
_MANNER = r"(?:(?:short|long|full|complete|simple|clear|concise) )?"
_BARE = {
    unit: _pattern(
        rf"(?<!\w){_LEAD} (?P<n>{NUMBER})[ -]{_MANNER}{form}(?! (?:or|to)\b)",
        rf"^(?:only |just )?(?P<m>{NUMBER}) {form}(?:,? (?:no more|only|please|is enough))?[.!]?$",
    )
    for unit, form in _UNITS.items()
}
_MOST_BARE = {"words": 3, "sentences": 10}  # "in 100 words" means about a hundred


@_reader
def _amounts(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read a bound on the number of words or sentences."""
    for sentence in wording.sentences:
        if _PART.search(sentence):
            continue
        taken: list[tuple[int, int]] = []
        for unit, bound, shift, pattern in _BOUNDS:
            for found in pattern.finditer(sentence):
                overlaps = any(found.start() < end and start < found.end() for start, end in taken)
                if not overlaps and not _SOME_OF_THEM.match(sentence, found.end()):
                    taken.append(found.span())
                    yield from _bounded(unit, bound, found, shift)
        if not taken and not wording.says(_SEVERAL):
            yield from _bare_amounts(sentence)


def _bounded(unit: str, bound: str, found: re.Match[str], shift: int) -> Iterator[FormatCheck]:
    n = number(found["n"]) + shift
    if bound == "between":
        yield FormatCheck(f"{unit}_at_least", {"n": number(found["low"])})
        bound = "at_most"
    if n > 0:
        yield FormatCheck(f"{unit}_{bound}", {"n": n})


def _bare_amounts(sentence: str) -> Iterator[FormatCheck]:
    """Read "in two sentences" or "one word only": exact for small numbers, which are never meant roughly."""
    for unit, pattern in _BARE.items():
        found = pattern.search(sentence)
        if found and not _SOME_OF_THEM.match(sentence, found.end()):
            n = number(found["n"] or found["m"])
            if n <= _MOST_BARE[unit]:
                yield FormatCheck(f"{unit}_exactly", {"n": n})


# --- letters and signs --------------------------------------------------------------------------------------

_ALL = r"\b(?:in|all|only|use|using|entirely|be)\b[^.]{0,25}"
_LOWER = r"\blower[- ]?cased?\b"
_LOWERCASE = _pattern(
    rf"{_NOT}[^.,;]{{0,40}}\bcapital(?:ized|s\b| letters)",
    r"\bnot a single letter[^.]*capitalized",
    rf"{_ALL}{_LOWER}",
    rf"{_LOWER}[^.]{{0,20}}\bonly\b",
)
_NO_LOWERCASE = _pattern(rf"{_NOT}[^.,;]{{0,20}}{_LOWER}")
_UPPERCASE = _pattern(rf"{_ALL}\b(?:upper[- ]?cased?|capital letters|caps|all capitals|capitals only)\b")
_SOME_LETTERS = _pattern(
    r"\b(?:some|words?|times|at least|more than|less than|fewer|frequen\w+|initials?|start\w*|headings?|appropriate|"
    r"needed|necessary|proper\w*|correct\w*)\b|\d"
)


@_reader
def _case(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read that all letters are lower-case, or all are capitals."""
    if wording.says(_CODE):
        return
    found: set[str] = set()
    for sentence in wording.sentences:
        if _PART.search(sentence):
            continue
        if _LOWERCASE.search(sentence) and not _NO_LOWERCASE.search(sentence):
            found.add("lowercase")
        elif _UPPERCASE.search(sentence) or _NO_LOWERCASE.search(sentence):
            found.add("some" if _SOME_LETTERS.search(sentence) else "uppercase")
    if len(found) == 1 and "some" not in found:
        yield FormatCheck(found.pop(), {})


_COMMAS = _pattern(rf"{_NOT}(?:\W+\w+){{0,6}}?\W+commas?\b(?![ -]separated)")
_SOME_COMMAS = _pattern(r"\b(?:oxford|serial|separated?|between|after|before|more than)\b")


@_reader
def _commas(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read that there are no commas."""
    if any(_COMMAS.search(s) and not _SOME_COMMAS.search(s) for s in wording.sentences):
        yield FormatCheck("no_commas", {})


# --- lists and JSON -----------------------------------------------------------------------------------------

_BULLETS = r"(?:bullet(?:ed)?(?:[ -]?points?| list| items?)|bullets)\b"
_NUMBERED = _pattern(r"\b(?:numbered list|number them)\b")
_SO_MANY_BULLETS = _pattern(
    r"(?<!least )(?<!most )(?<!than )(?<!up to )(?<!few )(?<!minimum of )(?<![-–\d])(?<! to )(?<! or )"
    rf"\b({NUMBER}) (?:very |short |clear |concise |markdown )*{_BULLETS}"
)
_SOME_BULLETS = _pattern(
    rf"\b(?:as|in|use|using|with|into|make|write|reply|give|contains?|include|of|have|an?)\b[^.]{{0,20}}\b{_BULLETS}"
)
_ITEMS = _pattern(
    r"\b(?:list|name|give|suggest|write|tell me|provide|list of)(?: me)?(?: exactly)? "
    rf"({NUMBER}) (?!or\b|to\b|words?\b|sentences?\b)\w+"
)
_ANY_NUMBER = _pattern(rf"(?<!\w){NUMBER}")
_LOOSE = _pattern(r"\bat (?:least|most)\b|\bup to\b|\bor more\b")


@_reader
def _lists(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read bullets or numbered lines, with their number where it is given once."""
    for sentence in wording.sentences:
        if _PART.search(sentence):
            continue
        exact = _SO_MANY_BULLETS.findall(sentence)
        if len(exact) == 1:
            yield FormatCheck("bullet_list", {"n": number(exact[0])})
        elif not exact and _SOME_BULLETS.search(sentence) and not _pattern(_NOT).search(sentence):
            yield _listed(wording, "bullet_list", "bulleted")
        if _NUMBERED.search(sentence):
            yield _listed(wording, "numbered_list", "numbered")


def _listed(wording: InstructionText, counted: str, some: str) -> FormatCheck:
    """Return the list with its number of items, if "name three fruits" gives the only number there is."""
    asked, numbers = _ITEMS.findall(wording.whole), _ANY_NUMBER.findall(wording.whole)
    if len(asked) == len(numbers) == 1 and not wording.says(_LOOSE):
        return FormatCheck(counted, {"n": number(asked[0])})
    return FormatCheck(some, {})


_JSON = _pattern(
    r"\b(?:answer|reply|respond|return|output|give|format|wrap|wrapped|write|present|put|report|state|provide|response|"
    r"extract|describe|make|plan|list|turn|use|tell)\b[^.]*\bjson\b(?![ -](?:file|parser|schema|string|library|array))"
)
_NO_JSON = _pattern(rf"{_NOT}[^.]{{0,30}}\bjson\b", r"\b(?:how (?:to|do|can)|explain|what is|convert)\b")
_KEY = (
    r"(?!(?:in|of|are|is|must|should|to|and|with|for|that|which|where|as|on|from|you|it|the|an?|be|use|do|no)\b)"
    rf"(?:{MARK}|\w+)"
)
_KEYS = _pattern(rf"\bkeys? ({_KEY}(?:(?:, and |, | and ){_KEY})*)")


@_reader
def _json(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read that the answer is JSON and nothing else, with its keys where they are listed."""
    if wording.says(_CODE) or not any(_JSON.search(s) and not _NO_JSON.search(s) for s in wording.sentences):
        return
    keys = _KEYS.search(wording.whole)
    yield FormatCheck("json_keys", {"keys": wording.names(keys[1])}) if keys else FormatCheck("json_value", {})


# --- words --------------------------------------------------------------------------------------------------

_NOUN = r"(?:the )?(?:following )?(?:key ?words?|words?|phrases?|terms?|names?)"
_VERB = (
    r"\b(?:includ(?:e|es|ing)|contain(?:s|ing)?|us(?:e|es|ing)|mention(?:s|ing)?|say(?:ing)?|add(?:ing)?|has|have)\b"
)
_NEGATED = _pattern(_NOT)
_OFTEN = _pattern(r"\b(?:times?|once|twice)\b")
_LISTED = r"(?P<{}>[\w'-]+(?:(?:,? and |,? or |, )[\w'-]+)+)"
_WORDS = _pattern(
    rf"{_VERB} (?:both )?{_NOUN}:? \[?(?P<a>{MARKS})",
    rf"{_NOUN} (?P<b>{MARKS}) (?:must|should|has to|have to|needs? to|may|can)(?: not)? "
    r"(?:appear|be (?:used|included|mentioned))",
    rf"{_VERB} {_NOUN}: {_LISTED.format('c')}(?=[.!?]|$)",
)
_FORBIDDEN = _pattern(rf"{_VERB} (?:the )?(?P<a>{MARKS})")
_SO_OFTEN = _pattern(
    rf"{_NOUN} (?P<word>{MARK}|(?!(?:with|in|of|that|which|should|must)\b)[\w-]+)[^.,;⟦]{{0,40}}?"
    rf"\b(?P<bound>at least|at most|no more than|less than|fewer than|more than)? ?"
    rf"(?:(?P<n>{NUMBER})(?P<more> or more)? times?|(?P<adverb>once|twice))"
)


@_reader
def _words(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read the words that must, or must not, occur."""
    for sentence in wording.sentences:
        if _OFTEN.search(sentence):
            yield from _frequencies(sentence, wording)
        elif _NEGATED.search(sentence):
            yield from _forbidden(sentence, wording)
        elif found := _WORDS.search(sentence):
            listed = found["a"] or found["b"] or found["c"]
            if " or " not in listed + sentence[found.end() :][:4]:  # one of them would be enough
                yield from (FormatCheck("has_word", {"text": word}) for word in wording.names(listed))


def _forbidden(sentence: str, wording: InstructionText) -> Iterator[FormatCheck]:
    """Read the words of a sentence with a negation, when it comes before them in the same clause."""
    for pattern in (_WORDS, _FORBIDDEN):
        if found := pattern.search(sentence):
            listed = next(text for text in found.groupdict().values() if text)
            clause = re.split(r"[,;]| but ", sentence[: found.start()])[-1]
            if _NEGATED.search(clause) and " and " in clause:
                return  # "do not rhyme and use the word" may mean either
            if _NEGATED.search(clause + found[0]):
                yield from (FormatCheck("lacks_word", {"text": word}) for word in wording.names(listed))
            elif pattern is _WORDS and " or " not in listed:
                yield from (FormatCheck("has_word", {"text": word}) for word in wording.names(listed))
            return


def _frequencies(sentence: str, wording: InstructionText) -> Iterator[FormatCheck]:
    """Read how often a word must, or may, occur."""
    if _NEGATED.search(sentence):
        return
    for found in _SO_OFTEN.finditer(sentence):
        (word,) = wording.names(found["word"])
        times = number(found["n"]) if found["n"] else {"once": 1, "twice": 2}[found["adverb"].lower()]
        match (found["bound"] or ("at least" if found["more"] else "")).lower():
            case "at least":
                yield FormatCheck("has_word", {"text": word, "at_least": times})
            case "more than":
                yield FormatCheck("has_word", {"text": word, "at_least": times + 1})
            case "at most" | "no more than":
                yield FormatCheck("lacks_word", {"text": word, "more_than": times + 1})
            case "less than" | "fewer than":
                yield FormatCheck("lacks_word", {"text": word, "more_than": times})


_READERS.append(read_bare_answers)


# --- beginning, end and marks -------------------------------------------------------------------------------

_WHOLE = (
    r"(?:your|the|this|that|entire|whole|response|answer|reply|output|it|text|letter|email|poem|story|message|essay)"
)
_EXACT = r"(?:the )?(?:exact |very )?(?:phrase|words?|sentence|question)?(?: of)?"
_WITH = rf"(?:{_WHOLE} ){{0,3}}(?:off )?with {_EXACT} ?:? ?{MARK}"
_BEFORE = rf"(?:^|\b(?:and|to|please) |[,;] |\b{_WHOLE} )(?:(?:must|should|has to|have to|needs? to) )?"
_FIRST = _pattern(rf"{_BEFORE}(?:start|begin|open)s? {_WITH}")
_LAST = _pattern(rf"{_BEFORE}(?:end|finish|conclude|close)s? {_WITH}")
_ONE_OF_MANY = _pattern(
    r"\b(?:each|every|paragraphs?|lines?|sentences|words that|that (?:start|begin|open|end)s|title|subject)\b"
)
_QUOTED = _pattern(
    r"\b(?:wrap|enclose|surround|put)(?:ped|d)?\b[^.]*\b(?:response|answer|output|reply|everything|it)\b[^.]*"
    r"\b(?:in|with|inside|within|between)\b[^.]*(?:quotation marks|double quotes)"
)


@_reader
def _ends(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read the first and the last words, and quotation marks around the answer."""
    for sentence in wording.sentences:
        if _ONE_OF_MANY.search(sentence):
            continue
        for pattern, kind in ((_FIRST, "first_words"), (_LAST, "last_words")):
            if (found := pattern.search(sentence)) and re.search(r"\w", text := wording.quotes[int(found[1])]):
                yield FormatCheck(kind, {"text": text})
        if _QUOTED.search(sentence):
            yield FormatCheck("quoted", {})


_TITLE = re.compile(r"<<[^<>\n]+>>|double angular brackets")
_HIGHLIGHTS = _pattern(
    rf"\bhighlight at least ({NUMBER}) ", rf"\bat least ({NUMBER}) (?:\w+ )?sections? (?:should|must) be highlighted"
)
_PLACEHOLDERS = _pattern(rf"\bat least ({NUMBER}) placeholders?\b")
_POSTSCRIPT = re.compile(r"\b(?:[Pp]ost ?script|note|add|include)\b[^.\n]{0,60}?(P\.P\.S\.?|P\.S\.)")
_PARAGRAPHS = _pattern(rf"\b({NUMBER}) paragraphs?\b")


@_reader
def _marks(wording: InstructionText) -> Iterator[FormatCheck]:
    """Read titles, highlights, placeholders, postscripts and divided paragraphs, as IFEval asks for them."""
    if wording.says(_TITLE):
        yield FormatCheck("titled", {})
    if found := _HIGHLIGHTS.search(wording.whole):
        yield FormatCheck("highlights_at_least", {"n": number(found[1] or found[2])})
    if found := _PLACEHOLDERS.search(wording.whole):
        yield FormatCheck("placeholders_at_least", {"n": number(found[1])})
    if found := _POSTSCRIPT.search(wording.whole):
        yield FormatCheck("postscript", {"marker": found[1]})
    paragraphs = _PARAGRAPHS.findall(wording.whole)
    if len(paragraphs) == 1 and "***" in wording.whole:
        yield FormatCheck("paragraphs_exactly", {"n": number(paragraphs[0])})
