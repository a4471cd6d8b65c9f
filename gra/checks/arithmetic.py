"""Compute the arithmetic of an answer again: "12 * 7 = 84" holds and "12 * 7 = 74" is broken.

Numbers are exact fractions. A model wrote the text, so none of it is evaluated as Python, as sympy's parser would do.
Reading is conservative: a text that is not plainly a statement about numbers is no claim. A false claim is left out
where its line takes it back ("2 + 2 = 5 is wrong"). So is one that may be rounded. No text raises. Reading takes time
proportional to its length. Raise `ARITHMETIC_VERSION` whenever a text is judged differently than before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

ARITHMETIC_VERSION = 1
_MOST_CHARACTERS = 200
_MOST_DIGITS = 40
_MOST_EXPONENT = 64
_MOST_BRACKETS = 20  # inside one another
_MOST_STATEMENTS = 500  # of one text
_AROUND = 50  # characters of a line that are looked at on either side of a statement
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|(\*\*|[-+*/^()])|([a-zA-Z]))")


class NotArithmetic(ValueError):
    """Signal a text that is not an arithmetic expression, or one too large to compute."""


def evaluate(text: str, **variables: Fraction) -> Fraction:
    """Return the exact value of an expression of numbers, `+ - * / ^ ( )` and one-letter variables.

    `2x` and `3(x + 1)` are products; `^` binds to the right.

    Raises:
        NotArithmetic: for anything else, or a division by zero. Also for an exponent beyond 64, more than 200
            characters, or more than 20 nested brackets.
    """
    if len(text) > _MOST_CHARACTERS:
        raise NotArithmetic("too long")
    return _Reader(text, variables).value()


class _Reader:
    """Read one expression by recursive descent over its tokens."""

    def __init__(self, text: str, variables: dict[str, Fraction]) -> None:
        self.variables = variables
        self.open = 0
        self.tokens: list[str] = []
        at = 0
        while text[at:].strip():
            if not (found := _TOKEN.match(text, at)):
                raise NotArithmetic(f"unexpected {text[at:].strip()[0]!r}")
            self.tokens.append("^" if found[0].strip() == "**" else found[0].strip())
            at = found.end()
        self.tokens.reverse()  # the next token is the last one

    def value(self) -> Fraction:
        result = self._sum()
        if self.tokens:
            raise NotArithmetic(f"unexpected {self.tokens[-1]!r}")
        return result

    def _next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def _sum(self) -> Fraction:
        result = self._product()
        while self._next() in ("+", "-"):
            sign = 1 if self.tokens.pop() == "+" else -1
            result += sign * self._product()
        return result

    def _product(self) -> Fraction:
        result = self._signed()
        while (token := self._next()) and (token in "*/(" or token.isalpha()):
            if token in "*/":
                self.tokens.pop()
            factor = self._signed() if token in "*/" else self._power()
            if token == "/" and not factor:
                raise NotArithmetic("division by zero")
            result = result / factor if token == "/" else result * factor
        return result

    def _signed(self) -> Fraction:
        sign = 1
        while self._next() in ("+", "-"):
            sign = sign if self.tokens.pop() == "+" else -sign
        return sign * self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        if self._next() != "^":
            return base
        self.tokens.pop()
        exponent = self._signed()
        if exponent.denominator != 1 or abs(exponent) > _MOST_EXPONENT or not (base or exponent > 0):
            raise NotArithmetic("this power is not computed")
        result = base ** int(exponent)
        if max(abs(result.numerator), result.denominator) >= 10**_MOST_DIGITS:
            raise NotArithmetic("too large")
        return result

    def _atom(self) -> Fraction:
        token = self.tokens.pop() if self.tokens else ""
        if token == "(":
            self.open += 1
            if self.open > _MOST_BRACKETS:
                raise NotArithmetic("too many brackets inside one another")
            result = self._sum()
            if not self.tokens or self.tokens.pop() != ")":
                raise NotArithmetic("a bracket is open")
            self.open -= 1
            return result
        if token.isalpha() and token in self.variables:
            return self.variables[token]
        if token[:1].isdecimal() or token[:1] == ".":
            return Fraction(token)
        raise NotArithmetic(f"unexpected {token!r}")


@dataclass(frozen=True, slots=True)
class Claim:
    """Hold one "left = right" that a text states, and whether it is true."""

    text: str
    holds: bool


_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
# Possessive and bounded, so that each character is looked at a fixed number of times.
_ATOM = rf"\({{0,20}}+(?:[-+][ \t]*+)?\({{0,20}}+(?:[$€£][ \t]?)?{_NUMBER}(?:[ \t]?%)?\){{0,20}}+"
# "3x-5" holds an unknown and is not three times minus five.
_OPERATOR = r"[ \t]*+(?:\*\*|[-+*/^]|x(?![ \t]*[-+]))[ \t]*+"
_EXPRESSION = rf"{_ATOM}(?:{_OPERATOR}{_ATOM})*+"
_LEFT = re.compile(_EXPRESSION)
_RIGHT = re.compile(rf"(?:[ \t]*+=[ \t]*+{_EXPRESSION})++")
_FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*+`", re.DOTALL)
_BOLD = re.compile(r"(?<![\d)*])\*\*(?=\S)([^\n]{1,120}?)(?<=\S)\*\*(?![\d(*])")
_SIGNS = str.maketrans({"×": "*", "·": "*", "∗": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "\u00a0": " "}) | {
    ord(raised): f"^{digit}" for raised, digit in zip("²³⁴⁵⁶⁷⁸⁹", "23456789", strict=True)
}
_LATEX = (
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\[dt]?frac\{([\d.]+)\}\{([\d.]+)\}"), r"(\1/\2)"),
    (re.compile(r"\\(?:left|right)(?=[()])|\\[()\[\],;!]|\\(?=[$%])"), ""),
    (re.compile(r"(?<=\d)\{,\}(?=\d{3})"), ","),
)
# A line with one of these words may state a false equation without being wrong.
_TAKEN_BACK = re.compile(
    r"\b(?:not|isn't|wrong|incorrect|false|mistake|error|instead|suppose|pretend|claims?|mod|modulo|remainder|binary|"
    r"octal|hex|hexadecimal|base[- ]?\d+|clock|string|concatenat\w+|"
    r"about|approximately|roughly|approx|around|nearly|round\w*|"
    r"estimat\w+)\b|[≈≠∼~]|!=",
    re.IGNORECASE,
)
_FUNCTIONS = re.compile(
    r"(?:sin|cos|tan|log|ln|sqrt|exp|max|min|gcd|lcm|mod|root|minus|plus|times|over|(?<![a-z])x|"
    r"(?:%|percent|half|third|quarter|fifth|tenth|\d) of)[ \t]*$",
    re.IGNORECASE,
)
_MIXED = re.compile(r"\d+/\d+[ \t]*=")  # what follows "1 and" in "1 and 1/4 = 1.25"
# A sign that joins the statement to what stands before it: "a + 2", "f(x) -2", "the total - 2"; not "so -2".
_JOINED = re.compile(r"(?:(?<!\w)[a-zA-Z]|[)\]}])[ \t]*[-+].$|\w[ \t]+[-+][ \t]$")
_UNITS = re.compile(r"(?:°|[ckm]?m|k?g|l|ml|s|h|min|hrs?|lbs?|oz|ft|in|mph|pm|am|st|nd|rd|th)?(?![\w(\[{^!°²³√\\])")


def claims(text: str) -> list[Claim]:
    """List the arithmetic statements of a text, in order, without those in code and those set aside.

    Of a text with more than 500 statements the first 500 are read.
    """
    found: list[Claim] = []
    judged = 0
    for line in map(_unlisted, _plain(text).splitlines()):
        if "=" not in line:
            continue
        line_takes_back = _TAKEN_BACK.search(line) is not None
        for start, end in _statements(line):
            if judged < _MOST_STATEMENTS and _stands_alone(line, start, end):
                judged += 1
                taken_back = line_takes_back or _asks(line, end)
                stated = _unlabeled(line[max(0, start - _AROUND) : start], line[start:end])
                found += [claim for claim in _judged(stated) if claim.holds or not taken_back]
    return found


def _statements(line: str) -> Iterator[tuple[int, int]]:
    """Yield where the statements "a = b = c" of a line begin and end.

    The search goes on behind an expression without "=": what begins inside it would end where it ends.
    """
    place = 0
    while left := _LEFT.search(line, place):
        right = _RIGHT.match(line, left.end())
        if right:
            yield left.start(), right.end()
        place = right.end() if right else left.end()


def _asks(line: str, end: int) -> bool:
    """Decide whether the sentence goes on to a question mark."""
    return re.match(r"[^.!?]*+\?", line[end : end + 4 * _AROUND]) is not None


def _unlabeled(before: str, statement: str) -> str:
    """Return the statement without a number that is part of a name: "Week 2 = 35 + 35 = 70"."""
    label, _, rest = statement.partition("=")
    return rest if re.search(r"[a-zA-Z][ \t]+$", before) and label.strip().isdigit() else statement


def _plain(text: str) -> str:
    """Return the text without code and bold marks, and with one way to write each sign."""
    text = _FENCED.sub(" ; ", text).translate(_SIGNS)
    for pattern, sign in _LATEX:
        text = pattern.sub(sign, text)
    return _BOLD.sub(r"\1", text)


def _unlisted(line: str) -> str:
    return re.sub(r"^[ \t]*[-*+•][ \t]+", "", line)


def _stands_alone(line: str, start: int, end: int) -> bool:
    """Decide whether a statement is complete: no variable, operator or number around it belongs to it."""
    before, after = line[max(0, start - _AROUND) : start], line[end : end + _AROUND]
    if before and (before[-1].isalnum() or before[-1] in "_.,:)]}√'\"\\/^*°!%"):
        return False
    near = before.rstrip(" \t$€£(")
    if line[start] in "+-" and _JOINED.search(before + line[start : start + 2]):
        return False
    if near and (near[-1] in "+-*/^<>≤≥√|&" or near[-1].isdigit()):
        return False
    if _FUNCTIONS.search(near) or (near.endswith(" and") and _MIXED.match(line, start)):
        return False
    if re.match(r"[ \t]*(?:[+*/^<>|&]|x[ \t]*\d|-[ \t]*[\w($]|=)|[.,:]\d|[ \t]+(?:\d|r\b|R\b|remainder|mod\b)", after):
        return False
    return bool(_UNITS.match(after.lstrip("$)")))


_COMPUTES = re.compile(rf"\d[ \t%)]*{_OPERATOR}[ \t(]*[-$€£\d.(]")


def _balanced(side: str) -> str:
    """Return a side without the brackets that the sentence around it opens or closes."""
    side = side.strip()
    while side.count(")") > side.count("(") and side.endswith(")"):
        side = side[:-1].rstrip()
    while side.count("(") > side.count(")") and side.startswith("("):
        side = side[1:].lstrip()
    return side


def _judged(statement: str) -> Iterator[Claim]:
    """Yield the links of a chain "a = b = c" that compute something and are not a matter of rounding."""
    for left, right in pairwise(map(_balanced, statement.split("="))):
        too_long = max(len(left), len(right)) > 2 * _MOST_CHARACTERS
        if too_long or not (_COMPUTES.search(left) or _COMPUTES.search(right)) or left.startswith("0x"):
            continue
        verdict = _holds(left, right)
        if verdict is not None:
            yield Claim(f"{left} = {right}", verdict)


def _holds(left: str, right: str) -> bool | None:
    """Decide whether two sides are equal as written; None when that is a matter of reading or rounding."""
    readings = [(_value(left, percent), _value(right, percent)) for percent in ("/100", "")]
    pairs = [(a, b) for a, b in readings if a is not None and b is not None]
    if not pairs:
        return None
    if any(a == b for a, b in pairs):
        return True
    if "%" in left + right and re.search(r"[+-]", left):
        return None  # "100 + 10%" has more than one meaning
    if _FRACTION_BELOW.search(left) or _FRACTION_BELOW.search(right):
        return None  # "3 / 1/4" may divide by a quarter
    if any(_rounded(a, b, left, right) for a, b in pairs) or _range(left, pairs[0][0]) or _running(left, right):
        return None
    return False


_FRACTION_BELOW = re.compile(rf"/[ \t]*{_NUMBER}[ \t]*/")


def _value(side: str, percent: str) -> Fraction | None:
    if len(side) > 2 * _MOST_CHARACTERS:
        return None
    text = re.sub(r"[$€£,]", "", side).replace("x", "*")
    try:
        return evaluate(re.sub(rf"({_NUMBER})[ \t]?%", rf"(\1{percent})", text))
    except NotArithmetic:
        return None


def _rounded(value: Fraction, stated: Fraction, left: str, right: str) -> bool:
    """Decide whether the stated value may be rounded, or the true one computed from rounded numbers."""
    places = max((len(digits) for digits in re.findall(r"\.(\d+)", right)), default=0)
    if value.denominator != 1 and abs(value - stated) < Fraction(1, 10**places):
        return True
    inexact = re.search(r"\.\d{2,}", left) and re.search(r"[*/x^]", left)
    return bool(inexact) and abs(value - stated) <= abs(value) / 200


def _range(left: str, value: Fraction) -> bool:
    """Decide whether "3-5" may be a range from three to five."""
    return value < 0 and re.fullmatch(rf"{_NUMBER}-{_NUMBER}", left) is not None


def _running(left: str, right: str) -> bool:
    """Decide whether "5 + 5 = 10 * 2 = 20" carries a result on, which is bad style and no error of arithmetic."""
    first = re.match(rf"[(\s]*([-+]?[ \t]*[$€£]?[ \t]?{_NUMBER})[ \t]*[-+*/x^]", right)
    return first is not None and _value(left, "/100") == _value(first[1], "/100")


_SOLVE = re.compile(r"\b(?:solve|find|what is|value of|calculate|determine|work out)\b", re.IGNORECASE)
_PART = r"(?:[-+*/^().\d \t]|(?<![a-zA-Z])[a-z](?![a-zA-Z]))"


@dataclass(frozen=True, slots=True)
class Equation:
    """Hold an equation in one unknown, as an instruction gives it."""

    left: str
    right: str
    unknown: str

    def holds(self, value: Fraction) -> bool:
        """Decide whether a value solves the equation; it does not where a side has no value."""
        try:
            return evaluate(self.left, **{self.unknown: value}) == evaluate(self.right, **{self.unknown: value})
        except NotArithmetic:
            return False


def equation(instruction: str) -> Equation | None:
    """Return the equation in one unknown that an instruction asks to solve; None unless there is exactly one."""
    text = _plain(instruction)
    if text.count("=") != 1 or not _SOLVE.search(text):
        return None
    before, after = text.split("=")
    # A side beyond 200 characters is not computed, so no more of it is looked at.
    ends = re.search(rf"{_PART}+$", before[-2 * _MOST_CHARACTERS :])
    begins = re.match(rf"{_PART}+", after[: 2 * _MOST_CHARACTERS])
    if ends is None or begins is None:
        return None
    # "a number: 2x" must not bring the article along, nor "3 for x" a sentence's point.
    left, right = re.sub(r"^(?:[a-z][ \t]+)(?=[\d(a-z-])", "", ends[0].strip()), begins[0].rstrip(". \t").strip()
    unknowns = set(re.findall(r"[a-z]", left + right))
    if len(unknowns) != 1:
        return None
    found = Equation(left, right, *unknowns)
    try:
        for number in (7, 11):
            evaluate(left, **{found.unknown: Fraction(number)})
            evaluate(right, **{found.unknown: Fraction(number)})
    except NotArithmetic:
        return None
    identity = all(found.holds(Fraction(number)) for number in (7, 11, 13))
    return None if identity else found


def values_of(text: str, unknown: str) -> list[tuple[str, Fraction]]:
    """List the numbers that the last line with "x = number" gives the unknown, as written and as computed."""
    before, after = r"(?<![\w.)\]^*/+-])(?<![*/+-] )", r"(?![ \t]*[-+*/^=<>(]|[\w.,]?\w|[ \t]\d)"
    stated = re.compile(rf"{before}{unknown}[ \t]*+=[ \t]*+(?:[^=\n]*+=[ \t]*+)??({_EXPRESSION}){after}")
    for line in reversed(_plain(text).splitlines()):
        if _TAKEN_BACK.search(line):
            continue
        found = [(shown.strip(), _value(shown, "/100")) for shown in stated.findall(line)]
        if known := [(shown, value) for shown, value in found if value is not None]:
            return known
    return []
