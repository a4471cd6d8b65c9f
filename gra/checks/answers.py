"""Find the final answer of a response, and decide whether two answers are the same value.

The only module that imports math-verify (Apache-2.0), which reads numbers and LaTeX and compares them with sympy.
It runs in a child process that is killed when a formula needs too much time or memory.
Finding the answer does not use math-verify, which takes the last number it sees.
Without a known right answer, that would count a wrong answer the response never gave.
Raise `ANSWERS_VERSION` with every change that reads or compares an answer differently.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from gra.checks.arithmetic import evaluate
from gra.checks.signs import plain_formula, plain_signs
from gra.core.processes.bounded import BoundedFunction, LimitExceeded

ANSWERS_VERSION = 2
_MOST_CHARACTERS = 80  # of a formula that is compared
_MOST_READ = 200  # characters of a value whose units are looked for
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})++|\d++)(?:\.\d++)?"
_STATED = re.compile(r"\b(?:final )?answer(?: is|:| =)", re.IGNORECASE)
_VALUE = re.compile(r"[\s:]*+([^\n]+)")
_HASHES = re.compile(r"^####\s*+(?P<value>[^\n]+)", re.MULTILINE)
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_MONEY = re.compile(r"\\?[$€£¥₹](?=[-+]?[ \t]?\d)")
# Units: "cm", "cm^2", "km/h", "square feet", "%", "°C". A letter that touches its number may be a variable: "5x".
_POWER = r"(?:\^\{?-?\d\}?|[²³])?"
_GLUED = (
    "mm|cm|dm|km|mi|in|ft|yd|mg|kg|lbs?|oz|ml|mL|cl|dl|ms|min|mins|sec|hr|hrs|kmh|mph|rpm|Hz|kHz|MHz|GHz|kB|KB|MB|GB|TB|"
    "kW|kWh|kJ|kN|Pa|kPa|eV|kV|mV|mA|mol|rad|deg|cents?|dollars?|[mglshLNJWVKCFAB]"
)
_WORD_UNIT = rf"(?:[ \t]++[^\W\d_]{{2,}}+\.?|[ \t]++[mglshLNJWVKCFAB](?![^\W_])|(?:{_GLUED})(?![^\W_])){_POWER}"
_UNITS = rf"(?:[ \t]*+(?:%|°[ \t]?[CFK]?)|{_WORD_UNIT}(?:[/·][ \t]?[^\W\d_]++{_POWER}|[ \t]/[ \t][^\W\d_]++{_POWER})*+)"
_QUANTITY = re.compile(rf"({_NUMBER}(?:/\d++)?)(?:{_UNITS}){{0,4}}")
_SPACING = r"(?:\\[,;:! ]|\\quad|~|[ \t])*+"
_LATEX_UNIT = re.compile(
    rf"{_SPACING}(?:\\(?:text|textrm|textit|textbf|textsf|textnormal|mathrm|mathit|mathbf|mbox|hbox|operatorname|unit|si)"
    r"[ \t]?\{[ \t]*+(?![ \t]*(?:and|or|to)\b)[^{}\d]*+\}"
    r"|\^\{?\\circ\}?(?:[ \t]*\\?(?:text|mathrm)?\{?[CFK]\}?)?|\\degree|\\%)"
    r"(?:\^\{?-?\d\}?)?"
)
_DIVIDED = re.compile(r"(?:[ \t]*(?:/|\\cdot|\\times|\\per)[ \t]*|[ \t]*)")
_QUANTITY_MACRO = re.compile(r"\\(?:SI|qty)\{([^{}]*)\}\{[^{}]*\}")
# What sympy needs very long to compute.
_COSTLY = re.compile(
    r"\^[ \t]*(?:\{[^{}]*\^|\w[ \t]*\^|[{(]?[ \t]*[-+]?\d{3,}|\()|\*\*|\d{2,}!|!!|\)!|\d{31,}"
    r"|\\(?:int|sum|prod|lim|binom)"
    # A power raised again: (9^{99})^{99}.
    r"|\^[ \t]*\{?[ \t]*[-+]?\d+[ \t]*\}?[ \t]*(?:\\right)?[)}\]][ \t]*\^[ \t]*\{?[ \t]*[-+]?\d{2,}"
    r"|[)}\]][ \t]*\^[^()]*\)[ \t]*\^"
)
# A sum with unknowns to a high power: (a+b+c)^{99}.
_EXPANDED = re.compile(r"[)\]}][ \t]*\^[ \t]*\{?[ \t]*[-+]?\d{2,}")


def final_answer(response: str) -> str | None:
    """Find the value that a response ends in.

    Looked for in this order:

    1. the last \\boxed{...}
    2. the text after "####"
    3. the text after "the answer is"
    4. a response that is nothing but a value
    5. the last value of an equation that ends the response
    6. the one number of the last sentence

    Args:
        response: a model's text without its thinking.

    Returns:
        The value without units, or None unless the response says plainly which it is.
    """
    text = _prepared(response)
    if "\\boxed{" in text:
        boxed = _boxed(text)
        return None if boxed is None else _value(boxed)
    if (stated := _stated(text)) is not None:
        return _value(_first_sentence(stated))
    if not text:
        return None
    last = _sentences(text)[-1]
    if last == text and len(text) <= 40 and (value := _value(text)) is not None:
        return value
    sides = last.split("=")
    if any(re.search(r"\b(?:and|or)\b", side) for side in sides[1:-1]):
        return None
    if len(sides) > 1:
        return _value(sides[-1])
    numbers = re.findall(rf"(?<![\w.,/:-]){_NUMBER}(?:/\d++)?(?![\w/:])", _MONEY.sub("", last))
    return _value(numbers[0]) if len(numbers) == 1 and len(re.findall(r"\d+(?:[.,]\d+)*+", last)) == 1 else None


def stated_value(response: str) -> str | None:
    """Find what a response states as its answer, in a box or after words that say so.

    Unlike `final_answer` it takes any text, and never a number that merely stands at the end.
    Where the right answer is known, as in a benchmark, a value that cannot be compared is wrong, not missing.

    Args:
        response: a model's text without its thinking.
    """
    text = _prepared(response)
    if "\\boxed{" in text:
        return _boxed(text)
    stated = _stated(text)
    return None if stated is None else _first_sentence(stated.strip()).rstrip(".").strip() or None


def last_number(response: str) -> str | None:
    """Find the last number of the last sentence, for benchmarks whose answers are numbers."""
    last = _sentences(plain_signs(response).strip())[-1]
    numbers = re.findall(rf"(?<![\w.])-?{_NUMBER}", _MONEY.sub("", last))
    return str(numbers[-1]) if numbers else None


def _prepared(response: str) -> str:
    return plain_signs(_CODE.sub("", response).replace("**", "").strip())


def _stated(text: str) -> str | None:
    """Return what follows the last "####" or the last "answer is", on its line or the next one with text."""
    if hashes := _HASHES.findall(text):
        return str(hashes[-1])
    for marker in reversed(list(_STATED.finditer(text))):
        if value := _VALUE.match(text, marker.end()):
            return value[1]
    return None


def _boxed(text: str) -> str | None:
    """Return the content of the last box, or None where it is never closed, as in a cut response."""
    start = text.rfind("\\boxed{")
    depth = 0
    for brace in re.compile("[{}]").finditer(text, start + 6):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + 7 : brace.start()]
    return None


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text) if re.search(r"\w", part)] or [text]


def _first_sentence(text: str) -> str:
    return _sentences(text)[0]


def _value(text: str) -> str | None:
    """Return the text as a bare value: without units, marks and the name it is given to."""
    text = text.strip()
    if len(text) > _MOST_READ:
        return text if re.fullmatch(_NUMBER, text) else None
    text = _without_units(_MONEY.sub("", text.lstrip(",;: ").rstrip(".!").strip().strip("$").strip()))
    text = re.sub(r"^\\[(\[]\s*|\s*\\[)\]]$", "", text)
    text = text.rpartition("=")[2].strip()
    if quantity := _QUANTITY.fullmatch(text):
        return quantity[1]
    text = plain_formula(text)
    return text if re.search(r"\d|\\[a-zA-Z]", text) and _readable(text) else None


def _without_units(text: str) -> str:
    """Return a value without the units that LaTeX writes behind it: 42 \\text{ cm}^2, 42\\%, \\SI{42}{cm}."""
    text = _QUANTITY_MACRO.sub(r"\1", text)
    for found in _LATEX_UNIT.finditer(text):
        head = text[: found.start()]
        if re.search(r"[\d)}]\s*$", head) and not head.rstrip().endswith("\\"):
            at = found.end()
            while (joint := _DIVIDED.match(text, at)) and (more := _LATEX_UNIT.match(text, joint.end())):
                at = more.end()
            if not text[at:].strip(" .$\t"):
                return head
    return text


def _readable(text: str) -> bool:
    """Return whether a text may be a formula: short, whole, cheap to compute, and without words."""
    if len(text) > _MOST_CHARACTERS or text.count("{") != text.count("}") or _COSTLY.search(text):
        return False
    if _EXPANDED.search(text) and re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", text)):
        return False
    return not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", re.sub(r"\\(?:text|mathrm)\{[^{}]*\}", "", text))


def can_compare() -> bool:
    """Return whether math-verify is installed, which `same` needs for values that are no plain numbers."""
    return importlib.util.find_spec("math_verify") is not None


def same(one: str, two: str) -> bool:
    """Return whether two answers (as `final_answer` gives them) are equal: 0.5, 1/2 and \\frac{1}{2} are.

    A comparison that needs too much time or memory counts as not equal.

    Raises:
        EngineUnavailable: when the process that compares formulas cannot be started.
    """
    if one == two:
        return True
    exact = _exact(one), _exact(two)
    if exact[0] is not None and exact[1] is not None:
        return exact[0] == exact[1]
    if not (_readable(_without_matrix(one)) and _readable(_without_matrix(two))):
        return False
    return _equal_formulas(one, two)


@lru_cache(maxsize=4096)
def _equal_formulas(one: str, two: str) -> bool:
    try:
        return bool(_COMPARE(one, two))
    except LimitExceeded:
        return False


def formula_comparer() -> Callable[[str, str], bool]:
    """Return the function that compares two formulas with math-verify.

    `gra.core.processes.bounded` runs it in a child process.
    """
    from math_verify import parse, verify

    # Its own time limits need signals in the main thread and end no computation in C, so they are off.
    # It warns about that with every call.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def compare(one: str, two: str) -> bool:
        left, right = (parse(f"${text}$", parsing_timeout=None) for text in (one, two))
        return bool(left and right) and bool(
            verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None)
        )

    compare("\\frac{1}{2}", "x+1")  # loads the parser before time is limited
    return compare


_COMPARE = BoundedFunction(f"{__name__}:{formula_comparer.__name__}")


def _exact(text: str) -> Fraction | None:
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    if "\\" not in text:
        text = text.replace("{", "(").replace("}", ")")
    try:
        return evaluate(text)
    except (ValueError, RecursionError):
        return None


def vote(answers: list[str]) -> list[list[int]]:
    """Return the places of equal answers, the largest group first; of groups of one size, the one that began first."""
    groups: list[list[int]] = []
    for place, answer in enumerate(answers):
        for group in groups:
            if same(answers[group[0]], answer):
                group.append(place)
                break
        else:
            groups.append([place])
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def equals(given: str, wanted: str) -> bool:
    """Return whether a given value is the wanted one: the same text but for spaces and units, or the same value.

    Units are not compared: "42 cm" equals "42".
    """
    given, wanted = plain_signs(given), plain_signs(wanted)
    if _bare(given) == _bare(wanted):
        return True
    if max(len(given), len(wanted)) > _MOST_READ:
        return False
    values = [_value(text) or text for text in (_unwrapped(_without_units(given)), _unwrapped(_without_units(wanted)))]
    if _bare(values[0]) == _bare(values[1]):
        return True
    return all(_readable(_without_matrix(value)) for value in values) and same(values[0], values[1])


def _without_matrix(text: str) -> str:
    return re.sub(r"\\(?:begin|end)\{[pb]?matrix\}", "", text)


def _unwrapped(text: str) -> str:
    """Return a formula without the marks around it and what LaTeX says about spacing and size."""
    text = re.sub(r"^\\[(\[]|\\[)\]]$|(?<!\\)\$", "", text.strip().strip("$"))
    text = re.sub(r"\\(?:left|right|[,;!: ]|quad|displaystyle)(?![a-zA-Z])|(?<!\\)~", "", text).replace("{,}", ",")
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(
        r"\\text(?:bf|it|rm|normal)?\{([^{}]*+)\}|\\mbox\{([^{}]*+)\}", lambda found: found[1] or found[2] or "", text
    ).strip()


def _bare(text: str) -> str:
    text = re.sub(r"\s|\^\{?\\circ\}?|°|\\%|%|\\?\$", "", _unwrapped(text)).rstrip(".")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).casefold()
