"""The final answer of a response, and whether two of them are the same value.

The only module that imports math-verify (Apache-2.0), which reads numbers and LaTeX and compares them
with sympy. Finding the answer is ours: math-verify takes the last number it sees, and where nobody knows
the right answer, a wrong one that was never given would be held against the response.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction

from gra.checks.arithmetic import NotArithmetic, evaluate

ANSWERS_VERSION = 1
_MOST_CHARACTERS = 80
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_STATED = re.compile(r"\b(?:final )?answer(?: is|:| =)[: ]*(?P<value>[^\n]+)", re.IGNORECASE)
_HASHES = re.compile(r"^####\s*(?P<value>[^\n]+)", re.MULTILINE)
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_MONEY = re.compile(r"\\?[$€£](?=[ \t]?\d)")
# A number and at most three words for its unit.
_QUANTITY = re.compile(rf"({_NUMBER}(?:/\d+)?)[ \t]?(?:%|(?:[^\W\d]+[ \t]?){{0,3}})")
# What sympy may need very long to compute.
_COSTLY = re.compile(
    r"\^[ \t]*(?:\{[^{}]*\^|\w[ \t]*\^|[{(]?[ \t]*[-+]?\d{3,}|\()|\*\*|\d{2,}!|!!|\d{31,}|\\(?:int|sum|prod|lim|binom)"
)


def final_answer(response: str) -> str | None:
    """The value a response ends in; None unless it says plainly which one that is.

    In this order: the last \\boxed{...}; what follows "####"; what follows "the answer is"; a response that is nothing
    but a value; the last value of an equation that ends the response; the one number of the last sentence.
    """
    text = _CODE.sub("", response).replace("**", "").strip()
    if "\\boxed{" in text:
        boxed = _boxed(text)
        return None if boxed is None else _value(boxed)
    for pattern in (_HASHES, _STATED):
        if found := pattern.findall(text):
            return _value(_first_sentence(found[-1]))
    if not text:
        return None
    last = _sentences(text)[-1]
    if last == text and len(text) <= 40 and (value := _value(text)) is not None:
        return value
    if re.search(r"=.*\b(?:and|or)\b.*=", last):
        return None
    if "=" in last:
        return _value(last.rpartition("=")[2])
    numbers = re.findall(rf"(?<![\w.,/:-]){_NUMBER}(?:/\d+)?(?![\w/:])", _MONEY.sub("", last))
    return _value(numbers[0]) if len(numbers) == 1 and len(re.findall(r"\d+(?:[.,]\d+)*", last)) == 1 else None


def _boxed(text: str) -> str | None:
    """What stands in the last box; None where it is never closed, as in a response that was cut."""
    start = text.rfind("\\boxed{")
    depth = 0
    for at in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + 7 : at]
    return None


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text) if re.search(r"\w", part)] or [text]


def _first_sentence(text: str) -> str:
    return _sentences(text)[0]


def _value(text: str) -> str | None:
    """The text as a bare value: without units, marks and the name it is given to."""
    text = _MONEY.sub("", text.strip().rstrip(".!").strip().strip("$").strip())
    text = re.sub(r"^\\[(\[]\s*|\s*\\[)\]]$", "", text)
    text = text.rpartition("=")[2].strip()
    if quantity := _QUANTITY.fullmatch(text):
        return quantity[1]
    return text if re.search(r"\d|\\[a-zA-Z]", text) and _readable(text) else None


def _readable(text: str) -> bool:
    """Whether a text may be a formula: whole, short, cheap to compute, and without words."""
    words = re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", re.sub(r"\\(?:text|mathrm)\{[^{}]*\}", "", text))
    whole = text.count("{") == text.count("}")
    return whole and len(text) <= _MOST_CHARACTERS and not _COSTLY.search(text) and not words


def can_compare() -> bool:
    """Whether math-verify is there, which `same` needs for whatever is no plain number."""
    try:
        import math_verify  # noqa: F401
    except ImportError:
        return False
    return True


def same(one: str, two: str) -> bool:
    """Whether two answers (as `final_answer` gives them) are equal: 0.5, 1/2 and \\frac{1}{2} are."""
    exact = _exact(one), _exact(two)
    if exact[0] is not None and exact[1] is not None:
        return exact[0] == exact[1]
    from math_verify import parse, verify

    # It warns whenever its timeouts are off. They need SIGALRM and would make a verdict depend on the
    # machine; what would need them is not given to it (`_COSTLY`).
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    left, right = (parse(f"${text}$", parsing_timeout=None) for text in (one, two))
    return bool(left and right) and bool(
        verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None)
    )


def _exact(text: str) -> Fraction | None:
    try:
        return evaluate(re.sub(r"(?<=\d),(?=\d{3})", "", text))
    except NotArithmetic:
        return None


def vote(answers: list[str]) -> list[list[int]]:
    """Places of equal answers, the largest group first; of groups of one size, the one that began first."""
    groups: list[list[int]] = []
    for place, answer in enumerate(answers):
        for group in groups:
            if same(answers[group[0]], answer):
                group.append(place)
                break
        else:
            groups.append([place])
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def stated_value(response: str) -> str | None:
    """What a response states as its answer, in a box or in so many words, as it stands there; None if it does not.

    Unlike `final_answer` it takes any text, and never a number that merely stands at the end: where the right answer
    is known, as in a benchmark, a value that cannot be compared is wrong, not unsaid.
    """
    text = _CODE.sub("", response).replace("**", "").strip()
    if "\\boxed{" in text:
        return _boxed(text)
    for pattern in (_HASHES, _STATED):
        if found := pattern.findall(text):
            return _first_sentence(str(found[-1]).strip()).rstrip(".").strip() or None
    return None


def last_number(response: str) -> str | None:
    """The last number of the last sentence, for benchmarks whose answers are numbers."""
    numbers = re.findall(rf"(?<![\w.])-?{_NUMBER}", _MONEY.sub("", _sentences(response.strip())[-1]))
    return str(numbers[-1]) if numbers else None


def equals(given: str, wanted: str) -> bool:
    """Whether a given value is the wanted one: the same text but for spaces and units, or the same value."""
    if _bare(given) == _bare(wanted):
        return True
    values = [_value(text) or text for text in (_unwrapped(given), _unwrapped(wanted))]
    return _bare(values[0]) == _bare(values[1]) or (all(map(_comparable, values)) and same(values[0], values[1]))


def _comparable(text: str) -> bool:
    return _readable(re.sub(r"\\(?:begin|end)\{[pb]?matrix\}", "", text))


def _unwrapped(text: str) -> str:
    """Without the marks of a formula and what LaTeX says about spacing and size."""
    text = re.sub(r"^\$+|\$+$|^\\[(\[]|\\[)\]]$", "", text.strip())
    text = re.sub(r"\\(?:left|right|[,;!:]|displaystyle)(?![a-zA-Z])|(?<!\\)~", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(
        r"\\text(?:bf|it|rm)?\{([^{}]*)\}|\\mbox\{([^{}]*)\}", lambda found: found[1] or found[2] or "", text
    ).strip()


def _bare(text: str) -> str:
    text = re.sub(r"\s|\^\{?\\circ\}?|\\%|%|\\?\$", "", _unwrapped(text)).rstrip(".")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).casefold()
