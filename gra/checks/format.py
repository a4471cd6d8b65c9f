"""The form of an answer: whether it keeps to what was demanded is decided by a program, never by a model.

Evaluation reads the demands from a file: a row carries `checks: [{"kind": "words_at_most", "n": 20}, ...]`; it
passes when every check passes, and an empty answer never passes. Each function below is one kind; its keyword
arguments are the arguments a row must give, and their types are checked when the file is read. Scoring
is separate from generation, so a changed check is applied to the recorded answers. Synthesis reads them
from the instruction (`gra.checks.instruction_constraints`). Raise `CHECKS_VERSION` whenever a check judges differently than
before.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from gra.config.problems import did_you_mean
from gra.core.errors import DataError

CHECKS_VERSION = 1
_FENCE = re.compile(r"^[ \t]*```([\w+#.-]*)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_NUMBERED = re.compile(r"^[ \t]*(\d+)[.)][ \t]+\S", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*[-*•+][ \t]+\S", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+")
_QUOTES = "\"'`“”‘’"
_HIGHLIGHT = re.compile(r"(?<![*\w])(\*{1,2})(?=\S)[^*\n]+?(?<=\S)\1(?![*\w])")
_DIVIDER = re.compile(r"^[ \t]*\*\*\*[ \t]*$", re.MULTILINE)
_KINDS: dict[str, Callable[..., bool]] = {}


def _kind(function: Callable[..., bool]) -> Callable[..., bool]:
    _KINDS[function.__name__] = function
    return function


def _words(text: str) -> int:
    # A bullet or a lone dash is not a word.
    return sum(any(c.isalnum() for c in token) for token in text.split())


@_kind
def words_at_most(answer: str, *, n: int) -> bool:
    """No more than `n` words."""
    return _words(answer) <= n


@_kind
def words_at_least(answer: str, *, n: int) -> bool:
    """At least `n` words."""
    return _words(answer) >= n


@_kind
def words_exactly(answer: str, *, n: int) -> bool:
    """Exactly `n` words."""
    return _words(answer) == n


@_kind
def lowercase(answer: str) -> bool:
    """Letters, and none of them upper-case."""
    return answer == answer.lower() and any(c.isalpha() for c in answer)


@_kind
def uppercase(answer: str) -> bool:
    """Letters, and none of them lower-case."""
    return answer == answer.upper() and any(c.isalpha() for c in answer)


@_kind
def contains(answer: str, *, text: str, ignore_case: bool = False) -> bool:
    """The text occurs somewhere."""
    return text.casefold() in answer.casefold() if ignore_case else text in answer


@_kind
def not_contains(answer: str, *, text: str, ignore_case: bool = False) -> bool:
    """The text occurs nowhere."""
    return not contains(answer, text=text, ignore_case=ignore_case)


@_kind
def starts_with(answer: str, *, text: str) -> bool:
    """The first thing said is the text."""
    return answer.strip().startswith(text)


@_kind
def ends_with(answer: str, *, text: str) -> bool:
    """The last thing said is the text."""
    return answer.strip().endswith(text)


@_kind
def one_of(answer: str, *, options: list[str]) -> bool:
    """The whole answer is one of the options; case, quotes around it and a final period do not count."""
    return _bare(answer) in {_bare(option) for option in options}


def _bare(text: str) -> str:
    return text.strip().strip(_QUOTES).removesuffix(".").strip(_QUOTES).strip().casefold()


@_kind
def numbered_list(answer: str, *, n: int) -> bool:
    """Exactly `n` lines are numbered, 1 to `n` in order; other lines may stand between them."""
    return [int(number) for number in _NUMBERED.findall(answer)] == list(range(1, n + 1))


@_kind
def bullet_list(answer: str, *, n: int) -> bool:
    """Exactly `n` lines are bullets; other lines may stand between them."""
    return len(_BULLET.findall(answer)) == n


@_kind
def json_keys(answer: str, *, keys: list[str], exact: bool = False) -> bool:
    """The whole answer, without a code fence around it, is a JSON object with these keys (`exact`: and no others)."""
    value = _json(answer)
    if not isinstance(value, dict):
        return False
    return set(value) == set(keys) if exact else set(value) >= set(keys)


def _json(answer: str) -> Any:
    """The answer's JSON value; None, which no demand accepts, when it is not JSON."""
    text = answer.strip()
    fence = _FENCE.fullmatch(text)
    try:
        return json.loads(fence[2] if fence else text)
    except (ValueError, RecursionError):
        return None


@_kind
def sentences_exactly(answer: str, *, n: int) -> bool:
    """Exactly `n` sentences: pieces with a word in them, split after `.`, `!` or `?` and white space."""
    return _sentences(answer) == n


def _sentences(text: str) -> int:
    return sum(_words(piece) > 0 for piece in _SENTENCE_END.split(text.strip()))


@_kind
def sentences_at_most(answer: str, *, n: int) -> bool:
    """No more than `n` sentences."""
    return _sentences(answer) <= n


@_kind
def sentences_at_least(answer: str, *, n: int) -> bool:
    """At least `n` sentences."""
    return _sentences(answer) >= n


@_kind
def has_word(answer: str, *, text: str, at_least: int = 1) -> bool:
    """The word or phrase occurs, in any case and also inside a longer word, at least so often."""
    return answer.casefold().count(text.casefold()) >= at_least


@_kind
def lacks_word(answer: str, *, text: str, more_than: int = 1) -> bool:
    """The word or phrase occurs fewer than `more_than` times; case does not count, a longer word does not either."""
    return len(re.findall(rf"(?<!\w){re.escape(text)}(?!\w)", answer, re.IGNORECASE)) < more_than


@_kind
def first_words(answer: str, *, text: str) -> bool:
    """The answer begins with these words, whatever their case, quotes and marks around them."""
    return _unmarked(answer).startswith(_unmarked(text))


@_kind
def last_words(answer: str, *, text: str) -> bool:
    """The answer ends with these words, whatever their case, quotes and marks around them."""
    return _unmarked(answer).endswith(_unmarked(text))


def _unmarked(text: str) -> str:
    return re.sub(r"[^\w]+", " ", text.casefold()).strip()


@_kind
def quoted(answer: str) -> bool:
    """The whole answer stands between quotation marks."""
    text = answer.strip()
    return len(text) > 2 and text[0] in _QUOTES and text[-1] in _QUOTES


@_kind
def bulleted(answer: str) -> bool:
    """At least one line is a bullet."""
    return _BULLET.search(answer) is not None


@_kind
def numbered(answer: str) -> bool:
    """Some lines are numbered, from 1 on without a gap."""
    numbers = [int(number) for number in _NUMBERED.findall(answer)]
    return bool(numbers) and numbers == list(range(1, len(numbers) + 1))


@_kind
def json_value(answer: str) -> bool:
    """The whole answer, without a code fence around it, is JSON: an object or a list."""
    return isinstance(_json(answer), dict | list)


@_kind
def titled(answer: str) -> bool:
    """There is a title between double angular brackets: <<title>>."""
    return re.search(r"<<[^\n<>]*\w[^\n<>]*>>", answer) is not None


@_kind
def highlights_at_least(answer: str, *, n: int) -> bool:
    """At least `n` passages are *highlighted* or **highlighted**."""
    return len(_HIGHLIGHT.findall(answer)) >= n


@_kind
def placeholders_at_least(answer: str, *, n: int) -> bool:
    """At least `n` placeholders like [address]."""
    return len(re.findall(r"\[[^\[\]\n]+\]", answer)) >= n


@_kind
def postscript(answer: str, *, marker: str) -> bool:
    """A line begins with the marker, such as P.S.; case and points do not count."""
    wanted = marker.casefold().replace(".", "")
    return any(line.strip("* \t").casefold().replace(".", "").startswith(wanted) for line in answer.splitlines())


@_kind
def paragraphs_exactly(answer: str, *, n: int) -> bool:
    """Exactly `n` parts with words in them between dividers (***)."""
    return sum(_words(part) > 0 for part in _DIVIDER.split(answer)) == n


@_kind
def lines_exactly(answer: str, *, n: int) -> bool:
    """Exactly `n` lines that are not blank."""
    return sum(bool(line.strip()) for line in answer.splitlines()) == n


@_kind
def no_commas(answer: str) -> bool:
    """There is no comma."""
    return "," not in answer


@_kind
def regex(answer: str, *, pattern: str) -> bool:
    """The pattern matches the whole answer, white space around it aside."""
    return re.fullmatch(pattern, answer.strip()) is not None


@_kind
def code_block(answer: str, *, language: str | None = None) -> bool:
    """There is a closed fenced code block, marked with the language if one is asked for."""
    marks = [mark.casefold() for mark, _ in _FENCE.findall(answer)]
    return bool(marks) if language is None else language.casefold() in marks


@dataclass(frozen=True, slots=True)
class FormatCheck:
    """One demand on an answer."""

    kind: str
    arguments: Mapping[str, Any]

    def passes(self, answer: str) -> bool:
        """Whether the answer meets the demand; an empty answer meets none."""
        return bool(answer.strip()) and _KINDS[self.kind](answer, **self.arguments)

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {value}" for name, value in self.arguments.items())
        return f"{self.kind} ({shown})" if shown else self.kind


def parse_checks(rows: Any, where: str) -> tuple[FormatCheck, ...]:
    """The checks of one row.

    Args:
        rows: the value of the row's `checks`.
        where: "file:line", for the message.

    Raises:
        DataError: for a kind or an argument that does not exist or has the wrong type.
    """
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{where}: `checks` must be a list with at least one check")
    return tuple(_parse(row, where) for row in rows)


def failed(checks: Sequence[FormatCheck], answer: str) -> list[str]:
    """The kinds of the checks an answer does not pass; empty when it passes."""
    return [check.kind for check in checks if not check.passes(answer)]


def _parse(row: Any, where: str) -> FormatCheck:
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise DataError(f'{where}: a check is a mapping with a `kind`, for example {{"kind": "no_commas"}}')
    kind = row["kind"]
    if kind not in _KINDS:
        hint = did_you_mean(kind, list(_KINDS)) or f" (known: {', '.join(_KINDS)})"
        raise DataError(f"{where}: there is no check `{kind}`{hint}")
    arguments = {key: value for key, value in row.items() if key != "kind"}
    parameters = {name: p for name, p in inspect.signature(_KINDS[kind]).parameters.items() if name != "answer"}
    for name in arguments:
        if name not in parameters:
            known = f"; it takes {', '.join(parameters) or 'no arguments'}"
            raise DataError(f"{where}: the check `{kind}` has no argument `{name}`{known}")
    for name, parameter in parameters.items():
        if name in arguments:
            _check_argument(kind, name, arguments[name], where)
        elif parameter.default is inspect.Parameter.empty:
            raise DataError(f"{where}: the check `{kind}` needs `{name}`")
    return FormatCheck(kind, arguments)


def _check_argument(kind: str, name: str, value: Any, where: str) -> None:
    wanted = get_type_hints(_KINDS[kind])[name]
    if wanted is int:
        good, what = type(value) is int and value > 0, "a whole number above 0"
    elif wanted is bool:
        good, what = isinstance(value, bool), "true or false"
    elif wanted == list[str]:
        good = isinstance(value, list) and value != [] and all(isinstance(v, str) for v in value)
        what = "a list of texts"
    else:
        good, what = isinstance(value, str) and value != "", "a text"
    if not good:
        raise DataError(f"{where}: `{name}` of the check `{kind}` must be {what}, not {value!r}")
    if name == "pattern":
        try:
            re.compile(value)
        except re.error as error:
            raise DataError(f"{where}: `{value}` is not a valid regular expression ({error})") from None
