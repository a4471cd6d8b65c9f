"""Count the words and sentences of an answer as a reader would.

Every function takes any text and runs in time proportional to its length.
"""

from __future__ import annotations

import re
import unicodedata

from gra.checks.markdown_blocks import Fence, fences, unmarked_line
from gra.core.text.characters import normalized

# English number words: zero to twenty, and thirty to ninety.
SMALL_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
TENS = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
STRAIGHT_QUOTES = str.maketrans("“”„‟‘’‚‛", "\"\"\"\"''''")
_URL = re.compile(r"\b[a-zA-Z]{2,10}://\S++|\bwww\.\S++")
# Chinese characters and Japanese kana stand without spaces; word processors count each as a word.
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# Marks that separate words even without a space: "red,green", "the sea—blue", "yes/no", "Done.Next".
_GLUE = re.compile(
    r"\u200b|—|--+|…|\.{3,}|(?<=[^\W\d_])[,;:!?|]+(?=\w)|(?<=\w)[,;:!?|]+(?=[^\W\d_])"
    r"|(?<=[^\W\d_]{2})/(?=[^\W\d_]{2})|(?<=[a-z]{2})\.(?=[A-Z][a-z])"
)
_APOSTROPHE = re.compile(r"(?<=\w)['’ʼ](?=\w)")
_HYPHEN = re.compile(r"(?<=\w)[-\u2010\u2011](?=\w)")

_ENDS = ".!?…。！？؟।｡．"
_CLOSERS = "\"'”’»)\\]*_`」』）"
_END = re.compile(
    rf"(?<![{_ENDS}])([{_ENDS}]++)([{_CLOSERS}]*+)(?=\s|\Z)"
    r"|(?<![。！？｡])([。！？｡]++)([」』）”’]*+)"
    r"|(?<=[a-z]{2})([.!?])()(?=[A-Z][a-z])"
)
_NEXT = re.compile(r"\s*+[\"'“‘«(\[*_`「『（¿¡]*+(\S{0,30})")
_LAST_WORD = re.compile(r"[^\s(\[\"“'‘*_/]*\Z")
_SPEECH = re.compile(
    r"\s*+(?:[A-Z][\w'-]{0,20}\s+){1,3}(?:asked|says?|said|replied|answered|cried|shouted|whispered|wondered|added|"
    r"called|exclaimed|yelled|asks|thought)\b"
)
_DOTTED = re.compile(r"(?:[A-Za-z]{1,2}\.)+[A-Za-z]|[A-Z]")
_GO_ON = (",", ";", ":", "–", "—", "-", "،", "，", "、")  # at the end of a line that the next one carries on


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TITLES = _listed("mr mrs ms dr prof st gen sen rep gov capt lt sgt col rev hon pres messrs mme mlle mt ft")
_NEVER_END = _listed("vs e.g i.e eg ie cf viz approx al")
_BEFORE_NUMBER = _listed("no nos fig figs eq sec vol ch art p pp chap ex")
_MAY_END = _listed(
    "inc ltd co corp jr sr est dept min max hr hrs jan feb apr aug sept sep oct nov dec ave blvd rd bros"
)
_CALENDAR = _listed(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july "
    "august september october november december est pst cet gmt utc"
)
# Words that begin a sentence far more often than they follow an abbreviation or an initial.
_STARTERS = _listed(
    "the a an it its he she they we you i this that these those there then when while after before but and so "
    "in on at for if his her their our my your what who where why how however now next later finally also as "
    "both many most some all no not yes please"
)


def words(text: str) -> list[str]:
    """Split a text into words.

    A lone dash or bullet is no word. "1,000", "don't", "well-known" and an address are one word each.
    """
    text = _GLUE.sub(" ", _IDEOGRAPH.sub(r" \g<0> ", _URL.sub("url", text)))
    return [token for token in text.split() if any(map(str.isalnum, token))]


def tokens(text: str) -> list[str]:
    """List the words of a text without case, marks and apostrophes; a hyphen joins its words."""
    text = _HYPHEN.sub("-", _APOSTROPHE.sub("", normalized("NFC", text).casefold()))
    spaced = "".join(c if c.isalnum() or c in "-_" or unicodedata.category(c)[0] == "M" else " " for c in text)
    return [token for part in spaced.split() for piece in part.split("--") if (token := piece.strip("-_"))]


def spaced(text: str) -> str:
    """Return a text without case, with single spaces and straight quotes."""
    return " ".join(normalized("NFC", text).casefold().translate(STRAIGHT_QUOTES).split())


def count_sentences(text: str) -> int:
    """Count the sentences of a text.

    A heading counts only where nothing else does. A line without a full stop is a sentence of its own, unless the
    next line carries it on. Code between fences is left out.
    """
    cased, capitals = any(map(str.isupper, text)), text.isupper()
    return sum(_in_passage(passage, cased, capitals) for passage in _passages(text, cased))


def _passages(text: str, cased: bool) -> list[str]:
    """Split a text where a line break ends a sentence.

    Args:
        text: the whole answer.
        cased: whether it has capital letters, so that a small letter shows that a line goes on.
    """
    found: list[list[str]] = []
    headings: list[str] = []
    for block in fences(text):
        adjacent = False
        for line in [] if isinstance(block, Fence) else block.splitlines():
            if not line or line.isspace():
                adjacent = False
                continue
            shown = unmarked_line(line)
            if not any(map(str.isalnum, shown.text)):
                adjacent = False
            elif shown.heading:
                headings.append(shown.text)
                adjacent = False
            else:
                begins = _NEXT.match(shown.text)
                small = adjacent and cased and not shown.item and begins is not None and begins[1][:1].islower()
                if found and (small or found[-1][-1].rstrip().endswith(_GO_ON)):
                    found[-1].append(shown.text)
                else:
                    found.append([shown.text])
                adjacent = True
    return ["\n".join(lines) for lines in found] or headings


def _in_passage(passage: str, cased: bool, capitals: bool) -> int:
    """Count the pieces with a word between the ends of sentences."""
    count, begun = 0, 0
    for found in _END.finditer(passage):
        if _ends_sentence(passage, found, cased, capitals):
            count += any(map(str.isalnum, passage[begun : found.end()]))
            begun = found.end()
    return count + any(map(str.isalnum, passage[begun:]))


def _ends_sentence(text: str, found: re.Match[str], cased: bool, capitals: bool) -> bool:
    """Decide whether marks such as "." or "?!" end a sentence or belong to an abbreviation or a quotation."""
    if found[1] is None:
        return True
    marks, closers = found[1], found[2]
    following = _NEXT.match(text, found.end())
    word = following[1] if following else ""
    if not word:
        return True
    small = word[0].islower()
    if small and closers and (cased or marks[-1] in "!?"):
        return False  # "Where are you?" she asked
    if small and cased and (len(marks) > 1 or marks == "…") and not set(marks) & {"!", "?"}:
        return False  # Wait... what
    if closers.strip("*_`") and marks[-1] in "!?" and _SPEECH.match(text, found.end()):
        return False
    if marks != "." or closers:
        return True
    before = _LAST_WORD.search(text[max(0, found.start() - 20) : found.start()])
    return _stop_ends(before[0] if before else "", word, cased, capitals)


def _stop_ends(before: str, after: str, cased: bool, capitals: bool) -> bool:
    """Decide whether the full stop between two words ends a sentence."""
    lower, begins = before.casefold(), re.sub(r"\W+\Z", "", after[:20]).casefold()
    capital = after[0].isupper() and not capitals
    starts = capital and begins in _STARTERS
    if lower in _TITLES:
        return cased and not before[0].isupper()
    if lower in _NEVER_END:
        return False
    if lower in _BEFORE_NUMBER:
        return not after[0].isdigit()
    if lower in ("a.m", "p.m"):
        return capital and begins not in _CALENDAR
    if lower == "etc":
        return capital
    return starts if lower in _MAY_END or _DOTTED.fullmatch(before) else True
