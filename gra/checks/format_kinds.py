"""Define every kind of format check: a function of the answer and of the arguments that a row gives.

A row gives the keyword arguments of the function. `gra.checks.format` checks their types when it reads the row. No
answer makes a function raise, and each function takes time proportional to the answer's length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

from gra.checks.json_text import JSON_TYPES, MISSING, at_path, equal_json, read_json
from gra.checks.looping import loops
from gra.checks.markdown_blocks import Fence, fences, list_items
from gra.checks.signs import plain_signs
from gra.checks.text_units import SMALL_NUMBERS, STRAIGHT_QUOTES, TENS, count_sentences, spaced, tokens, words

KINDS: dict[str, Callable[..., bool]] = {}
MOST_MATCHED = 10_000  # characters: a pattern of the row's author may take the square of their number
_QUOTES = "\"'`“”‘’«»„"
_PAIRS = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“”", "‘": "’", "«": "»", "»": "«"}
_OPENING = re.compile(r"[\s\"'“‘„«(\[*_`~>#]*+")
_CLOSING = "\"'”’“»)]*_`~ \t\r\n"
_EMPHASIS = re.compile(r"\*{1,3}|_{2,3}|(?<!\w)_|_(?!\w)|`")
_HIGHLIGHT = re.compile(r"(?<![*\w])(\*{1,3})(?=[^\s*])[^*\n]++(?<=\S)\1(?![*\w])")
_DIVIDER = re.compile(r"^[ \t]*+\*\*\*[ \t]*+$", re.MULTILINE)
_SCALE = r"(?:hundred|thousand|million|billion)"
# Such as `1,234.5`, `1 1/2`, `.5`, `1½`, `6e23`, `5.2 × 10^-4` and `$1.4 billion`.
_DIGITS = re.compile(
    r"[≈~#]? ?[-+±]?(?:us)?[$€£¥]? ?[-+]?"
    r"(?:\d{1,3}(?:[,.'’ ]\d{3})+(?!\d)|\d++)?(?:[.,]\d++)?(?: ?\d++/\d++|/ ?\d++| ?[¼½¾⅓⅔⅕⅛])?"
    r"(?:(?<=\d)e[-+]?\d++| ?[x×*·] ?10(?:\^|\*\*)?-?[\d⁰¹²³⁴⁵⁶⁷⁸⁹⁻]++)?"
    rf"(?: ?{_SCALE})?(?: ?[%$€£¥°]| percent)?"
)
_NAMED = rf"(?:{'|'.join(sorted((*SMALL_NUMBERS, *TENS), key=len, reverse=True))})"
_NUMBER_WORDS = re.compile(
    rf"(?:(?:minus|negative) )?(?:{_NAMED}|a {_SCALE})(?:(?: and |[ -])(?:{_NAMED}|{_SCALE})){{0,15}}(?: percent)?"
)
_COMMAS = ",，،、﹐､"


def _kind(function: Callable[..., bool]) -> Callable[..., bool]:
    KINDS[function.__name__] = function
    return function


# --- words, sentences, lines --------------------------------------------------------------------------------


@_kind
def words_at_most(answer: str, *, n: int) -> bool:
    """Pass an answer of at most `n` words."""
    return len(words(answer)) <= n


@_kind
def words_at_least(answer: str, *, n: int) -> bool:
    """Pass an answer of at least `n` words."""
    return len(words(answer)) >= n


@_kind
def words_exactly(answer: str, *, n: int) -> bool:
    """Pass an answer of exactly `n` words."""
    return len(words(answer)) == n


@_kind
def sentences_exactly(answer: str, *, n: int) -> bool:
    """Pass an answer of exactly `n` sentences."""
    return count_sentences(answer) == n


@_kind
def sentences_at_most(answer: str, *, n: int) -> bool:
    """Pass an answer of at most `n` sentences."""
    return count_sentences(answer) <= n


@_kind
def sentences_at_least(answer: str, *, n: int) -> bool:
    """Pass an answer of at least `n` sentences."""
    return count_sentences(answer) >= n


@_kind
def lines_exactly(answer: str, *, n: int) -> bool:
    """Pass an answer of exactly `n` lines that are not blank."""
    return sum(bool(line.strip()) for line in answer.splitlines()) == n


@_kind
def paragraphs_exactly(answer: str, *, n: int) -> bool:
    """Pass an answer of exactly `n` parts with words in them between dividers (***)."""
    return sum(bool(words(part)) for part in _DIVIDER.split(answer)) == n


@_kind
def no_looping(answer: str) -> bool:
    """Pass an answer that does not repeat a word, phrase or line over and over."""
    return not loops(answer)


# --- letters and marks --------------------------------------------------------------------------------------


@_kind
def lowercase(answer: str) -> bool:
    """Pass an answer with letters, none of them upper-case."""
    return answer == answer.lower() and any(c.isalpha() for c in answer)


@_kind
def uppercase(answer: str) -> bool:
    """Pass an answer with letters, none of them lower-case."""
    return answer == answer.upper() and any(c.isalpha() for c in answer)


@_kind
def no_commas(answer: str) -> bool:
    """Pass an answer without commas of any script."""
    return not any(comma in answer for comma in _COMMAS)


@_kind
def quoted(answer: str) -> bool:
    """Pass an answer that stands between quotation marks of one kind."""
    text = answer.strip()
    return len(text) > 2 and text[-1] in _PAIRS.get(text[0], "")


@_kind
def titled(answer: str) -> bool:
    """Pass an answer with a title between double angular brackets: <<title>>."""
    return any(re.search(r"\w", title) for title in re.findall(r"<<([^\n<>]++)>>", answer))


@_kind
def highlights_at_least(answer: str, *, n: int) -> bool:
    """Pass an answer with at least `n` passages that are *highlighted* or **highlighted**."""
    return len(_HIGHLIGHT.findall(answer)) >= n


@_kind
def placeholders_at_least(answer: str, *, n: int) -> bool:
    """Pass an answer with at least `n` placeholders like [address]."""
    return sum(bool(text.strip()) for text in re.findall(r"\[([^\[\]\n]++)\]", answer)) >= n


# --- texts --------------------------------------------------------------------------------------------------


@_kind
def contains(answer: str, *, text: str, ignore_case: bool = False) -> bool:
    """Pass an answer in which the text occurs."""
    return text.casefold() in answer.casefold() if ignore_case else text in answer


@_kind
def not_contains(answer: str, *, text: str, ignore_case: bool = False) -> bool:
    """Pass an answer in which the text does not occur."""
    return not contains(answer, text=text, ignore_case=ignore_case)


@_kind
def contains_any(answer: str, *, texts: list[str], at_least: int = 1, ignore_case: bool = False) -> bool:
    """Pass an answer in which at least `at_least` of several texts occur."""
    return sum(contains(answer, text=text, ignore_case=ignore_case) for text in dict.fromkeys(texts)) >= at_least


@_kind
def has_word(answer: str, *, text: str, at_least: int = 1) -> bool:
    """Pass an answer with the word or phrase in any case, inside longer words too, at least `at_least` times."""
    return answer.casefold().count(text.casefold()) >= at_least


@_kind
def lacks_word(answer: str, *, text: str, more_than: int = 1) -> bool:
    """Pass an answer with the word or phrase fewer than `more_than` times; longer words do not count, nor does case."""
    before, after = (edge if _in_word(c) else "" for edge, c in ((r"(?<!\w)", text[0]), (r"(?!\w)", text[-1])))
    pattern = f"{before}{re.escape(text)}{after}"
    return len(re.findall(pattern, answer, re.IGNORECASE)) < more_than


@_kind
def starts_with(answer: str, *, text: str) -> bool:
    """Pass an answer whose first words are the text; opening quotes and emphasis before it do not count."""
    return any(form.startswith(text) and _apart(form, len(text)) for form in _openings(answer, text))


@_kind
def ends_with(answer: str, *, text: str) -> bool:
    """Pass an answer whose last words are the text; closing quotes and emphasis behind it do not count."""
    return any(form.endswith(text) and _apart(form, len(form) - len(text)) for form in _endings(answer, text))


def _openings(answer: str, text: str) -> list[str]:
    """List the readings of an answer's beginning, of the length that the text needs, with marks and without."""
    stripped = answer.strip()
    bare = stripped[match.end() :] if (match := _OPENING.match(stripped)) else stripped
    short = bare[: 4 * len(text) + 40]
    return [stripped, bare, _EMPHASIS.sub("", short), _EMPHASIS.sub("", short.translate(STRAIGHT_QUOTES))]


def _endings(answer: str, text: str) -> list[str]:
    stripped = answer.strip()
    # A mark that the text itself ends with is no closing mark.
    bare = stripped.rstrip("".join(c for c in _CLOSING if c not in text[-1:]))
    short = bare[-(4 * len(text) + 40) :]
    return [stripped, bare, _EMPHASIS.sub("", short), _EMPHASIS.sub("", short.translate(STRAIGHT_QUOTES))]


def _apart(text: str, place: int) -> bool:
    """Decide whether a word ends, or begins, at a place of a text, rather than going on over it."""
    before, after = text[max(0, place - 2) : place], text[place : place + 2]
    if not before or not after or not (_in_word(before[-1]) or _in_word(after[0])):
        return True
    if _in_word(before[-1]) and _in_word(after[0]):
        return False
    joints = "-'’\u2010\u2011"
    # "No-one" and "Dog's" are one word each, on either side of the joint.
    return not (
        (after[0] in joints and len(after) == 2 and _in_word(before[-1]) and after[1].isalpha())
        or (before[-1] in joints and len(before) == 2 and _in_word(after[0]) and before[0].isalpha())
    )


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


@_kind
def first_words(answer: str, *, text: str) -> bool:
    """Pass an answer that begins with these words; case, quotes and marks around them do not count."""
    wanted = tokens(text)
    if not wanted:
        return answer.strip().startswith(text.strip())  # a text of marks alone
    return tokens(answer.lstrip()[: 8 * len(text) + 400])[: len(wanted)] == wanted


@_kind
def last_words(answer: str, *, text: str) -> bool:
    """Pass an answer that ends with these words; case, quotes and marks around them do not count."""
    wanted = tokens(text)
    if not wanted:
        return answer.strip().endswith(text.strip())
    return tokens(answer.rstrip()[-(8 * len(text) + 400) :])[-len(wanted) :] == wanted


@_kind
def one_of(answer: str, *, options: list[str]) -> bool:
    """Pass an answer that is one of the options; case, emphasis, quotes and a final "." or "!" do not count."""
    return not {_bare(answer), spaced(answer)}.isdisjoint({form for o in options for form in (_bare(o), spaced(o))})


@_kind
def one_number(answer: str) -> bool:
    """Pass an answer that is one number, in digits or words; a sign, a currency and a percent sign may be there."""
    bare = plain_signs(_bare(answer))
    in_digits = any(c.isnumeric() for c in bare) and _DIGITS.fullmatch(bare) is not None
    return in_digits or _NUMBER_WORDS.fullmatch(bare) is not None


def _bare(text: str) -> str:
    """Return a text without the marks around it; with them where nothing else is in it."""
    whole = spaced(text)
    marks = _QUOTES + "*_~ "
    bare = whole.strip(marks).rstrip(".!…").strip(marks)
    if bare.startswith("(") and bare.endswith(")") and bare.count("(") == 1:
        bare = bare[1:-1].strip(marks)
    return bare or whole


@_kind
def postscript(answer: str, *, marker: str) -> bool:
    """Pass an answer with a line that begins with the marker, such as P.S.; case and points do not count."""
    letters = [re.escape(c) for c in marker.casefold() if not c.isspace() and c != "."]
    pattern = re.compile(r"\.?[ \t]?".join(letters) + r"\.?")
    lines = [line.casefold().lstrip("*_#> \t\"'“(") for line in answer.splitlines()]
    for place, line in enumerate(lines):
        if (found := pattern.match(line)) and letters and _apart(line, len(found[0].rstrip("."))):
            return any(map(str.isalnum, line[found.end() :])) or any(
                any(map(str.isalnum, s)) for s in lines[place + 1 :]
            )
    return not letters and any(line.startswith(marker.casefold()) for line in lines)


@_kind
def regex(answer: str, *, pattern: str) -> bool:
    """Pass an answer that the pattern matches as a whole, white space around it aside.

    An answer of more than 10,000 characters does not match.
    """
    text = answer.strip()
    return len(text) <= MOST_MATCHED and re.fullmatch(pattern, text) is not None


# --- lists and code -----------------------------------------------------------------------------------------


def _numbers(answer: str) -> list[int]:
    return [item.number for item in list_items(answer) if item.number is not None]


def _bullets(answer: str) -> int:
    return sum(item.number is None for item in list_items(answer))


@_kind
def numbered_list(answer: str, *, n: int) -> bool:
    """Pass an answer with exactly `n` numbered lines, 1 to `n` in order; other lines may stand between them."""
    return n <= len(answer) and _numbers(answer) == list(range(1, n + 1))


@_kind
def bullet_list(answer: str, *, n: int) -> bool:
    """Pass an answer with exactly `n` bullets, nested ones left out; other lines may stand between them."""
    return _bullets(answer) == n


@_kind
def bulleted(answer: str) -> bool:
    """Pass an answer with at least one bullet."""
    return _bullets(answer) > 0


@_kind
def numbered(answer: str) -> bool:
    """Pass an answer with numbered lines, from 1 on without a gap."""
    numbers = _numbers(answer)
    return bool(numbers) and numbers == list(range(1, len(numbers) + 1))


@_kind
def code_block(answer: str, *, language: str | None = None) -> bool:
    """Pass an answer with a closed fenced code block, marked with the language if one is given."""
    marks = [block.language for block in fences(answer) if isinstance(block, Fence)]
    return bool(marks) if language is None else language.casefold() in marks


# --- JSON ---------------------------------------------------------------------------------------------------


@_kind
def json_value(answer: str) -> bool:
    """Pass an answer that is a JSON object or list and nothing else; a code fence around it does not count."""
    return isinstance(read_json(answer), dict | list)


@_kind
def json_keys(answer: str, *, keys: list[str], exact: bool = False) -> bool:
    """Pass an answer that is a JSON object with these keys (`exact`: and no others)."""
    value = read_json(answer)
    if not isinstance(value, dict):
        return False
    return set(value) == set(keys) if exact else set(value) >= set(keys)


@_kind
def json_types(answer: str, *, types: dict[str, str]) -> bool:
    """Pass an answer that is JSON with a value of this type at each path, such as {"age": "integer"}.

    A path is a key, or keys and list places joined by points: "items.0.name". The empty path is the whole value.
    """
    value = read_json(answer)
    return value is not MISSING and all(
        (found := at_path(value, path)) is not MISSING and JSON_TYPES[kind](found) for path, kind in types.items()
    )


@_kind
def json_values(answer: str, *, values: dict[str, Any], ignore_case: bool = False) -> bool:
    """Pass an answer that is JSON with this value at each path (see `json_types`); true is not 1."""
    value = read_json(answer)
    return value is not MISSING and all(
        equal_json(at_path(value, path), want, ignore_case) for path, want in values.items()
    )
